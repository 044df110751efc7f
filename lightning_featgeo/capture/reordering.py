"""Rows that were taken, sorted or turned round between modules: what entered says no more in which order they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo.types import Tensor

_TAKES = re.compile(r"^(Index|IndexSelect|Gather|Sort|Flip|Roll|MaskedSelect|Take|Topk|Stack|Cat)Backward")
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
        if name.startswith(("Stack", "Cat")):
            return _of_pieces(node) if node._saved_dim == 0 else None
        if name.startswith("Flip"):
            return Taken(None) if 0 in node._saved_dims else None
        if name.startswith("Roll"):
            return Taken(None) if 0 in node._saved_dims or not node._saved_dims else None
        dim = getattr(node, "_saved_dim", 0)
        return Taken(None) if dim == 0 else None
    except (AttributeError, RuntimeError, IndexError):
        return None


def _of_pieces(node: Any) -> Taken | None:
    """Rows that were put together of pieces of one tensor; None: in its order, or of several tensors."""
    rows: list[Tensor] = []
    parents = set()
    for child, number in node.next_functions:
        piece = None if child is None else _piece(child, number)
        if piece is None:
            return None
        parents.add(piece[0])
        rows.append(piece[1])
    if len(parents) != 1 or not rows:
        return None
    taken = torch.cat([one.cpu() for one in rows])
    return None if torch.equal(taken, torch.arange(len(taken))) else Taken(taken)


def _piece(child: Any, number: int) -> tuple[Any, Tensor] | None:
    """The tensor that a piece is of, and its rows; None where that can't be told."""
    name, parent = child.name(), child.next_functions[0][0]
    if name.startswith("Select") and child._saved_dim == 0:
        return parent, torch.tensor([child._saved_index])
    if name.startswith("Slice") and child._saved_dim == 0:
        length = int(child._saved_self_sym_sizes[0])
        return parent, torch.arange(length)[child._saved_start : child._saved_end : child._saved_step]
    if name.startswith("Unbind") and child._saved_dim == 0:
        return parent, torch.tensor([number])
    if name.startswith("SplitBackward") and child._saved_dim == 0:
        length, size = int(child._saved_self_sym_sizes[0]), int(child._saved_split_size)
        return parent, torch.arange(length)[number * size : (number + 1) * size]
    if name.startswith("IndexSelect") and child._saved_dim == 0:
        return parent, child._saved_index
    if name.startswith("IndexBackward") and child._saved_indices[0] is not None:
        first = child._saved_indices[0]
        rows = first.nonzero()[:, 0] if first.dtype == torch.bool else first
        return (parent, rows) if rows.ndim == 1 else None
    return None
