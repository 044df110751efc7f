"""What hooks note of a step: its outermost calls, what entered each and what it gave; and what lies inside of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from lightning_featgeo import _compat
from lightning_featgeo._autograd import is_inside_torch_func
from lightning_featgeo.capture.entries import Entered
from lightning_featgeo.capture.inside import look_inside
from lightning_featgeo.capture.stash import ORDER
from lightning_featgeo.capture.trace import Trace
from lightning_featgeo.capture.values import leaves
from lightning_featgeo.types import Tensor


@dataclass(slots=True)
class Recording:
    """Outermost calls since the batch began.

    ``holds``: whether what they gave is held until the step is over. Where no call was ever given what another one
    gave, it is not: logits of a language model would stay in memory through the optimizer's step.
    """

    calls: list[Entered] = field(default_factory=list)
    depth: int = 0
    used: set[int] = field(default_factory=set)
    holds: bool = True
    trace: Trace | None = None  # of every module, while it is not known what to watch
    is_open: Callable[[], bool] = lambda: True


RECORDING: dict[int, Recording] = {}  # by an entrance's key, while a step runs


def note_before(module: torch.nn.Module, args: Any, kwargs: Any = None, *, key: int, owner: int) -> None:
    """A call begins."""
    recording = None if torch.compiler.is_compiling() else RECORDING.get(key)
    if recording is None or id(module) != owner:
        return
    recording.depth += 1
    if recording.trace is not None and recording.is_open():
        recording.trace.begins(module, [args, kwargs or {}])
    if recording.depth > 1 and recording.calls:
        look_inside(recording.calls[-1], args, kwargs or {}, module)
    own = recording.depth == 1 and recording.is_open() and not _compat.is_redirected(module)
    if own and not any(_is_traced(given) for given in (*args, *(kwargs or {}).values())):
        packed = None
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            given = [args[0]]
        else:
            found = [t for _, t in leaves([args, kwargs or {}])]
            packed = next((t for t in found if isinstance(t, PackedSequence)), None)
            parts = [t.data if isinstance(t, PackedSequence) else t for t in found]
            given = [t for t in parts if isinstance(t, torch.Tensor) and t.ndim > 0]
        recording.calls.append(Entered(next(ORDER), id(module), given, packed=packed))
        recording.used.add(id(module))
    elif recording.depth == 1:
        recording.depth = 0  # not the step's own: what lies inside is none either, or a redirected step's own calls
        return


def _is_traced(given: Any) -> bool:
    """Whether this stands for a tensor: of ``torch.fx``, or in a transform such as ``vmap``."""
    return isinstance(given, torch.fx.Proxy) or (isinstance(given, torch.Tensor) and is_inside_torch_func(given))


def note_after(module: torch.nn.Module, *given: Any, key: int, owner: int) -> None:
    """A call ends."""
    recording = None if torch.compiler.is_compiling() else RECORDING.get(key)
    if recording is None or id(module) != owner or recording.depth == 0:
        return
    if recording.trace is not None:
        recording.trace.ends(module, given[-1])
    recording.depth -= 1
    if recording.depth == 0 and recording.calls:
        last = recording.calls[-1]
        last.stop = next(ORDER)
        gave = given[-1]
        if recording.holds:
            last.gave = [gave] if type(gave) is Tensor else [t for _, t in leaves(gave) if isinstance(t, torch.Tensor)]


def note_inside(module: torch.nn.Module, args: Any, kwargs: Any = None, *, key: int, owner: int) -> None:
    """A module runs that was given the batch itself before, inside of an outermost call."""
    recording = None if torch.compiler.is_compiling() else RECORDING.get(key)
    if recording is not None and id(module) == owner and recording.depth and recording.calls:
        look_inside(recording.calls[-1], args, kwargs or {}, module)
