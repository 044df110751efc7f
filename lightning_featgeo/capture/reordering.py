"""Rows that were taken, sorted or turned round between modules: what entered says no more in which order they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo.types import Tensor

_TAKES = re.compile(r"^(Index|IndexSelect|Gather|Sort|Flip|Roll|MaskedSelect|Take|Topk)Backward")
_STEPS = 12  # nodes with one input, such as activations and normalisation, that are looked through


@dataclass(frozen=True)
class Taken:
    """``rows``: (b,) which rows were taken, in order; None: that can't be told."""

    rows: Tensor | None


def taken_rows(node: Any) -> Taken | None:
    """Whether rows were taken just before a module, as its input's node of the autograd graph tells; None: no.

    Looked for through nodes with one input only: what lies behind another layer's weight is not seen.
    """
    for _ in range(_STEPS):
        if node is None:
            return None
        name = node.name()
        if _TAKES.match(name):
            found = _read(node, name)
            if found is not None:
                return found
        inputs = [child for child, _ in node.next_functions if child is not None]
        if len(inputs) != 1:
            return None
        node = inputs[0]
    return None


def _read(node: Any, name: str) -> Taken | None:
    """What a node took along the first axis; None: nothing."""
    try:
        if name.startswith("IndexSelect"):
            return Taken(node._saved_index) if node._saved_dim == 0 else None
        if name.startswith("Index"):
            first = node._saved_indices[0]
            if first is None:
                return None
            rows = first.nonzero()[:, 0] if first.dtype == torch.bool else first
            whole = rows.ndim == 1 and bool((rows == torch.arange(len(rows), device=rows.device)).all())
            return None if whole else Taken(rows if rows.ndim == 1 else None)
        if name.startswith("Flip"):
            return Taken(None) if 0 in node._saved_dims else None
        if name.startswith("Roll"):
            return Taken(None) if 0 in node._saved_dims or not node._saved_dims else None
        dim = getattr(node, "_saved_dim", 0)
        return Taken(None) if dim == 0 else None
    except (AttributeError, RuntimeError, IndexError):
        return None
