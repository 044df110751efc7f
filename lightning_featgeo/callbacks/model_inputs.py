"""How a batch enters a model that no step calls: what its ``forward`` takes of it, and the line that says otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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


def a_forward(root: torch.nn.Module, path: str | None, batch: Any) -> str:
    """A function to paste that runs a module on a batch.

    Args:
        root: the LightningModule.
        path: of the watched module; None: it is not known.
        batch: one of the loader's.
    """
    called = "module"
    if not has_forward(root):
        children = [name for name, child in root.named_children() if any(True for _ in child.parameters())]
        first = path.partition(".")[0] if path else ""
        called = f"module.{first if first in children else children[0] if children else 'net'}"
    return f"lambda module, batch: {called}(batch{_way_to_input(batch)})"


def _way_to_input(batch: Any) -> str:
    """From a batch to the first tensor in it that can be an input: floating point, else any."""
    found = [(path, leaf) for path, leaf in _leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.ndim > 0]
    floating = [path for path, leaf in found if leaf.is_floating_point()]
    return next(iter([*floating, *(path for path, _ in found)]), "")


def _leaves(batch: Any, path: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    if isinstance(batch, torch.Tensor) or depth > 3:
        return [(path, batch)]
    if isinstance(batch, Mapping):
        parts = [(f"{path}[{key!r}]", value) for key, value in batch.items()]
    elif isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        parts = [(f"{path}[{i}]", value) for i, value in enumerate(batch)]
    else:
        parts = [(f"{path}.{key}", value) for key, value in tree.children(batch)]
    return [leaf for way, value in parts for leaf in _leaves(value, way, depth + 1)]
