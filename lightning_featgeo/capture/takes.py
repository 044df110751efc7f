"""What one node of the autograd graph took along the first axis, and of what; or where it put rows."""

from __future__ import annotations

import re
from typing import Any

import torch

from lightning_featgeo._autograd import axis, axis_of, device, held, is_hidden, saved, shape
from lightning_featgeo.types import Tensor

_MOST_PERMUTED = 4096  # rows of a batch; a larger matrix is a graph's, and would be read for nothing
PUTS = re.compile(r"^(IndexPut|IndexCopy|IndexAdd|Scatter|ScatterAdd)\w*Backward")
_SUMS = re.compile(r"^(IndexAdd|IndexReduce|ScatterAdd|ScatterReduce)\w*Backward")


def puts_along_rows(node: Any) -> bool:
    """Whether a node that puts values into a tensor is told whole rows, and not elements or columns."""
    if not PUTS.match(node.name()):
        return False
    if node.name().startswith("IndexPut"):
        indices = saved(node, "indices")
        return (
            bool(indices)
            and indices[0] is not None
            and indices[0].ndim == 1
            and not any(one is not None for one in indices[1:])
        )
    return saved(node, "dim") == 0


def adds_up(node: Any) -> bool:
    """Whether a node adds up so many rows into others, as messages of a graph are at its nodes: no order of rows."""
    index = saved(node, "index") if _SUMS.match(node.name()) else None
    return isinstance(index, Tensor) and index.ndim > 0 and shape(node)[:1] != (len(index),)


def put_rows(node: Any) -> Tensor | None:
    """(k,) where such a node put each row; None: that can't be told without reading it."""
    index = saved(node, "index")
    if node.name().startswith("IndexPut"):
        indices = saved(node, "indices")
        index = indices[0] if indices else None
    return of_whole_rows(index)


def of_whole_rows(index: Any) -> Tensor | None:
    """(k,) of an index that is repeated for each column, (k, …)."""
    if not isinstance(index, Tensor) or not index.ndim:
        return None
    if any(step and size > 1 for step, size in zip(index.stride()[1:], index.shape[1:], strict=True)):
        return None
    while index.ndim > 1:
        index = index.select(-1, 0)
    return index


def turned_table(node: Any) -> tuple[Any, Tensor, int] | None:
    """Rows that were written as a table, of which columns were read for rows: halves interleaved, groups turned."""
    at = node.next_functions[0][0]
    at = at.next_functions[0][0] if at is not None and at.name().startswith("Clone") else at
    if at is None or not at.name().startswith("TransposeBackward") or len(sizes := shape(at)) < 2:
        return None
    if {axis_of(saved(at, name), len(sizes)) for name in ("dim0", "dim1")} != {0, 1}:
        return None
    before = at.next_functions[0][0]
    if before is None or not before.name().startswith(("View", "UnsafeView", "ReshapeAlias")):
        return None
    made, rows = before.next_functions[0][0], sizes[0] * sizes[1]
    if made is None or shape(made)[:1] != (rows,) or shape(node)[:1] != (rows,) or 1 in sizes[:2]:
        return None
    index = torch.arange(rows, device=device(node)).view(sizes[1], sizes[0]).t().reshape(-1)
    return made, index, rows


def hides_rows(node: Any) -> bool:
    """Whether a node took rows of features by an index that can't be read, as in activation checkpointing."""
    if node.name().startswith("IndexBackward"):
        first = held(node, "indices")[:1]  # of columns, it is none
        hidden = any(getattr(one, "unpack_hook", None) is not None for one in first)
    else:
        hidden = any(is_hidden(node, name) for name in ("indices", "index")) and axis(node) == 0
    if not hidden:
        return False
    parent = node.next_functions[0][0]
    of_a_table = parent is None or hasattr(parent, "variable")
    return not of_a_table and len(shape(node)) > 1 and shape(parent)[1:] == shape(node)[1:]


def piece_of(child: Any, number: int) -> tuple[Any, Tensor | range, int | None] | None:
    """The tensor that a piece is of, its rows, and how many there are; None where that can't be told."""
    name, parent = child.name(), next((parent for parent, _ in child.next_functions), None)
    sizes = saved(child, "self_sym_sizes")
    length = int(sizes[0]) if sizes else None
    if name.startswith("IndexBackward"):
        indices = saved(child, "indices")
        return None if not indices or indices[0] is None else (parent, indices[0], length)
    if saved(child, "dim") != 0:
        return None
    if name.startswith("IndexSelect"):
        return parent, saved(child, "index"), length
    if name.startswith("Select"):
        at = int(saved(child, "index"))
        return parent, range(at, at + 1), length
    if name.startswith("Unbind"):
        return parent, range(number, number + 1), None
    if length is not None and name.startswith("Slice"):
        return parent, range(length)[saved(child, "start") : saved(child, "end") : saved(child, "step")], length
    if length is not None and name.startswith("SplitBackward"):
        size = int(saved(child, "split_size"))
        return parent, range(length)[number * size : (number + 1) * size], length
    return None


def permuted(node: Any) -> tuple[Any, Tensor, int] | None:
    """Rows that were multiplied by a matrix of a permutation; None for any other one, such as a graph's. Reads it."""
    matrix = saved(node, "self") if node.next_functions[0][0] is None else None
    rows = (shape(node) or (0,))[0]
    if (
        not isinstance(matrix, Tensor)
        or matrix.layout is not torch.strided
        or matrix.shape != (rows, rows)
        or not 2 <= rows <= _MOST_PERMUTED
    ):
        return None
    index = matrix.argmax(dim=1)
    ones = torch.zeros_like(matrix).scatter_(1, index[:, None], 1)
    if not torch.equal(ones, matrix) or len(index.unique()) < rows:
        return None
    return node.next_functions[1][0], index, rows
