"""Rows that were taken behind a layer: permuted, a layer that keeps rows in place, then the head.

Looked for in the autograd graph of features, where nothing was taken just before them (see ``reordering``). Layers are
taken to keep rows where they are, as they are everywhere here.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from lightning_featgeo._autograd import shape
from lightning_featgeo.capture.reordering import Taken, is_a_take, puts_along_rows, taken_by
from lightning_featgeo.types import Tensor

_NODES = 400  # that are looked through
_JOINS = re.compile(r"^(Cat|Stack)Backward")
_TAKES_IN = re.compile(  # nodes of what has no gradient, such as the batch: layers, and what joins two tensors
    r"^(Addmm|Mm|Linear|Convolution|Embedding|CudnnConvolution|MkldnnConvolution|Bmm|Cat|Stack)\w*Backward"
)


def taken_behind(node: Any, rows: int) -> Taken | None:
    """Which rows of what entered these are, where all of them were taken, in some order, behind a layer.

    None where there is no such place, or where a way from the features leads to what entered without it: pairs of
    samples, residual connections. At one place the index is told, at two the index of both together.

    Args:
        node: of the autograd graph, that made the features.
        rows: of them. Indices of other lengths are of something else: edges, experts, tokens, a table's rows.
    """
    near, passes = _next_take(node, rows)
    if near is None or passes:
        return None
    index, behind = _index(near, rows)
    if index is None:
        if puts_along_rows(near) and _next_take(near.next_functions[-1][0], rows)[0] is None:
            return None  # what is put back was taken of the batch, which has no graph
        return Taken(None, behind=True)
    far, passes = _next_take(behind, rows)
    if far is None:
        return Taken((index,), rows, behind=True)
    other, rest = _index(far, rows)
    if passes or other is None or _next_take(rest, rows)[0] is not None:
        return Taken(None, behind=True)
    return Taken((index,), rows, of=other, behind=True)


def _next_take(node: Any, rows: int) -> tuple[Any, bool]:
    """The nearest node at which all rows were taken or put; and whether what entered is reached beside it."""
    found, passes = None, False
    waiting, seen = deque([node]), {node}
    while waiting and len(seen) < _NODES:
        at = waiting.popleft()
        if at is None:
            continue
        if shape(at)[:1] == (rows,) and _moves_all(at, rows):
            if found is not None and found is not at:
                return found, True  # at two places beside each other
            found = at
            continue
        inputs = [child for child, _ in at.next_functions]
        passes = passes or (None in inputs and shape(at)[:1] == (rows,) and bool(_TAKES_IN.match(at.name())))
        fresh = [child for child in inputs if child is not None and child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return found, passes


def _moves_all(node: Any, rows: int) -> bool:
    if puts_along_rows(node) and node.next_functions[0][0] is None:
        return True
    if not is_a_take(node):
        return False
    parents = [child for child, _ in node.next_functions if child is not None]
    if not parents or all(hasattr(parent, "variable") for parent in parents):
        return False  # a table's rows
    known = taken_by(node)
    return known is None or known[2] == rows


def _index(node: Any, rows: int) -> tuple[Tensor | None, Any]:
    """(rows,) which ones a node took, and what it took them of."""
    known = taken_by(node)
    if known is None or len(known[1]) != rows:
        return None, None
    return known[1], known[0]


def joins_the_batch(node: Any, rows: int) -> bool:
    """Whether what has no graph, such as the batch itself, is joined to features on the way to these."""
    waiting, seen = deque([node]), {node}
    while waiting and len(seen) < _NODES:
        at = waiting.popleft()
        inputs = [child for child, _ in at.next_functions]
        if None in inputs and _JOINS.match(at.name()) and shape(at)[:1] == (rows,):
            return True
        fresh = [child for child in inputs if child is not None and child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return False
