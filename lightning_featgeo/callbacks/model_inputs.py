"""How a batch enters a model that no step calls: what its ``forward`` takes of it, and the line that says otherwise."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows import tree


def call(module: torch.nn.Module, batch: Any) -> Any:
    """Call a module with what of a batch its ``forward`` takes.

    Raises:
        ConfigurationError: if several of the batch's tensors could be inputs.
    """
    needed, names, more, any_name = _takes(module)
    if isinstance(batch, Mapping):
        given = {key: value for key, value in batch.items() if any_name or key in names}
        if given and set(needed) <= set(given):
            return module(**given)
        return module(batch)
    if not isinstance(batch, (tuple, list)) or not batch or hasattr(batch, "_fields"):
        return module(batch)
    inputs = max(1, len(needed))
    if more and len(batch) > inputs + 1:  # one more is its label
        raise ConfigurationError(
            f"{type(module).__name__}.forward takes {inputs} tensors or more, and the batch has {len(batch)}"
        )
    return module(*batch[:inputs])


def _takes(module: torch.nn.Module) -> tuple[list[str], list[str], bool, bool]:
    """Arguments that a forward needs, all that it names, and whether it takes more: by position, or any by keyword."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return [], [], False, False
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    by_position = [p for p in plain if p.kind is not p.KEYWORD_ONLY]
    needed = [p.name for p in by_position if p.default is p.empty]
    more = len(by_position) > len(needed) or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return needed, [p.name for p in plain], more, any(p.kind is p.VAR_KEYWORD for p in parameters)


def has_forward(module: torch.nn.Module) -> bool:
    """Whether a module can be called at all: a LightningModule need not have a ``forward``."""
    inherited = getattr(type(module).forward, "__qualname__", "")
    return inherited not in ("LightningModule.forward", "_forward_unimplemented", "Module._forward_unimplemented")


Forward = Callable[[Any, Any], Any]  # of a module and a batch


def forwards(root: torch.nn.Module, path: str | None, batch: Any) -> list[tuple[str, Forward]]:
    """Functions to paste that may run a module on a batch, and the same to be called: try them before one is offered.

    Args:
        root: the LightningModule.
        path: of the watched module; None: it is not known.
        batch: one of the loader's.
    """
    way, get = _way_to_input(batch)
    found: list[tuple[str, Forward]] = []

    def offer(module: str, inside: str, given: str, take: Callable[[Any], Any]) -> None:
        def forward(root: torch.nn.Module, batch: Any) -> Any:
            return (root.get_submodule(inside) if inside else root)(take(batch))

        found.append((f"lambda module, batch: {module}(batch{given})", forward))

    if has_forward(root):
        offer("module", "", way, get)
        if way:
            offer("module", "", "", lambda batch: batch)
    parts = path.split(".") if path else []
    inside = [".".join(parts[: i + 1]) for i in range(len(parts)) if all(map(str.isidentifier, parts[: i + 1]))]
    children = [name for name, child in root.named_children() if any(True for _ in child.parameters())]
    for name in dict.fromkeys([*inside, *children]):
        offer(f"module.{name}", name, way, get)
    return found


def _way_to_input(batch: Any) -> tuple[str, Callable[[Any], Any]]:
    """From a batch to the first tensor in it that can be an input: floating point, else any."""
    found = [one for one in _leaves(batch) if isinstance(one[1], torch.Tensor) and one[1].ndim > 0]
    floating = [one for one in found if one[1].is_floating_point()]
    for way, _, get in [*floating, *found]:
        return way, get
    return "", lambda batch: batch


def _leaves(batch: Any, depth: int = 0) -> list[tuple[str, Any, Callable[[Any], Any]]]:
    """Each tensor in a batch: the way to it, itself, and what goes that way."""
    if isinstance(batch, torch.Tensor) or depth > 3:
        return [("", batch, lambda batch: batch)]
    if isinstance(batch, Mapping) or (isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields")):
        items = list(batch.items()) if isinstance(batch, Mapping) else list(enumerate(batch))
        steps: list[tuple[str, Callable[[Any], Any]]] = [(f"[{key!r}]", operator.itemgetter(key)) for key, _ in items]
    else:
        items = tree.children(batch)
        steps = [(f".{key}", operator.attrgetter(str(key))) for key, _ in items]
    return [
        (step + way, leaf, functools.partial(_both, go, get))
        for (step, go), (_, value) in zip(steps, items, strict=True)
        for way, leaf, get in _leaves(value, depth + 1)
    ]


def _both(first: Callable[[Any], Any], then: Callable[[Any], Any], batch: Any) -> Any:
    return then(first(batch))
