"""What autograd's nodes and tensors tell of themselves under names that torch doesn't promise, or None."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch


def saved(node: Any, name: str) -> Any:
    """What a node keeps under a name ("target", "other"); None where it doesn't, or has let go of it.

    Nor is anything read that hooks would have to bring back: activation checkpointing would run a forward for it.
    """
    if is_hidden(node, name):
        return None
    try:
        return getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # freed by a backward
        return None


def is_hidden(node: Any, name: str) -> bool:
    """Whether what a node keeps under a name could only be read by running its user's hooks."""
    return any(getattr(one, "unpack_hook", None) is not None for one in held(node, name))


def held(node: Any, name: str) -> tuple[Any, ...]:
    """What a node keeps under a name as it keeps it, not unpacked; () where it has let go of it."""
    try:
        raw = getattr(node, f"_raw_saved_{name}", ())
    except RuntimeError:  # freed by a backward
        return ()
    return raw if isinstance(raw, tuple) else (raw,)


def behind(node: Any, most: int) -> Iterator[Any]:
    """A node and those that it was made of, the nearest first; ``most``: how many are looked up."""
    waiting, seen = deque([node]), {node}
    while waiting and len(seen) <= most:
        at = waiting.popleft()
        yield at
        fresh = [child for child, _ in at.next_functions if child is not None and child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)


def is_made_in_python(node: Any) -> bool:
    """Whether Python has made a node: a custom function, compiled code, or a forward that is run again in backward."""
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def number(node: Any) -> int | None:
    """How many operations autograd had counted in this thread when a node was made; None where torch doesn't say."""
    told = getattr(node, "_sequence_nr", None)
    return None if told is None else int(told())


def shape(node: Any) -> tuple[int, ...]:
    """Of what a node made; () where that is not known, as of a nested tensor."""
    try:
        made = getattr(node, "_input_metadata", None)
        return tuple(made[0].shape) if made else ()
    except RuntimeError:
        return ()


def device(node: Any) -> torch.device | None:
    """Where what a node made is."""
    made = getattr(node, "_input_metadata", None)
    return getattr(made[0], "device", None) if made else None


def axis(node: Any) -> int:
    """Along which a node took a part or put an axis in; the first where it doesn't say."""
    dim = saved(node, "dim")
    return 0 if dim is None else dim if dim < 2**62 else dim - 2**64  # kept without its sign


def axis_of(dim: int, ndim: int) -> int:
    """An axis counted from the start, of one that was kept without its sign or is counted from the end."""
    dim = dim if dim < 2**62 else dim - 2**64
    return dim + ndim if dim < 0 else dim


def version(tensor: torch.Tensor) -> int:
    """How often a tensor was written into; inference mode doesn't count."""
    return 0 if tensor.is_inference() else tensor._version


def is_inside_torch_func(x: torch.Tensor) -> bool:
    """Whether a tensor is wrapped by ``torch.func`` (vmap, grad); False where torch can't be asked."""
    functorch = getattr(torch._C, "_functorch", None)
    return bool(getattr(functorch, "is_functorch_wrapped_tensor", lambda _: False)(x))


_RUNNING_BACKWARD = getattr(torch._C, "_current_graph_task_id", None)


def is_inside_backward() -> bool:
    """Whether this thread runs a backward (which may run a forward again); False where torch can't be asked."""
    return _RUNNING_BACKWARD is not None and _RUNNING_BACKWARD() != -1
