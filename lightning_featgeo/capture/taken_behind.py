"""Rows that were taken behind a layer: permuted, a layer that keeps rows in place, then the head.

Looked for in the autograd graph of features, where nothing was taken just before them (see ``reordering``). Layers are
taken to keep rows where they are, as they are everywhere here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo import _compat
from lightning_featgeo._autograd import axis, behind, is_made_in_python, saved, shape
from lightning_featgeo.capture.reordering import Taken, is_a_take, taken_by
from lightning_featgeo.capture.takes import adds_up, puts_along_rows
from lightning_featgeo.types import Tensor

_NODES = 1000  # that are looked through
_JOINS = re.compile(r"^(Cat|Stack)Backward")
_LAYERS = re.compile(  # nodes of layers
    r"^(Addmm|Mm|Linear|Bmm|Baddbmm|(?:\w*Convolution)|(?:\w*BatchNorm)|NativeLayerNorm|NativeGroupNorm|\w*Rnn|\w*RNN)"
    r"\w*Backward"
)
_KEPT = ("mat1", "self", "input", "indices", "mat2")  # names under which a layer's node keeps what it was given


@dataclass
class _Ways:
    """From features back: ``takes``: the nearest nodes at which all rows were taken or put. ``nodes``: those passed on
    ways that lead to none. ``given``: what has no gradient and was given to a layer on these ways. ``joins``: whether
    something is joined there that nobody can look at. ``turned``: whether rows were put in some order there that lie
    along the second axis, as of a recurrent network's last states."""

    takes: list[Any] = field(default_factory=list)
    nodes: set[Any] = field(default_factory=set)
    given: list[Tensor] = field(default_factory=list)
    joins: bool = False
    turned: bool = False


def taken_behind(node: Any, rows: int) -> Taken | None:
    """Which rows of what entered these are, where all of them were taken, in some order, behind a layer.

    None where there is no such place, or where a way from the features leads without it to what was taken of: pairs of
    samples, residual connections. At one place the index is told, at two the index of both together.

    Args:
        node: of the autograd graph, that made the features.
        rows: of them. Indices of other lengths are of something else: edges, experts, tokens, a table's rows.
    """
    near = _ways(node, rows)
    if not near.takes:
        return None
    found = [_index(one, rows) for one in near.takes]
    index = found[0][0]
    sources = [source for _, source in found] if all(i is not None for i, _ in found) else _inputs_of(near.takes)
    if _lead_to(near, sources, rows):
        return None
    if index is None:
        if puts_along_rows(near.takes[0]) and not _ways(near.takes[0].next_functions[-1][0], rows).takes:
            return None  # what is put back was taken of the batch, which has no graph
        return Taken(None, behind=True)
    if near.joins or not all(_is_the_same(index, other) for other, _ in found[1:]):
        return Taken(None, behind=True)
    beside = tuple(near.given)
    far = _ways_of([source for _, source in found], rows)
    if not far.takes:
        return Taken((index,), rows, behind=True, beside=beside, for_good=_is_for_good(near))
    other, rest = _index(far.takes[0], rows)
    if len(far.takes) > 1 or far.joins or other is None or _lead_to(far, [rest], rows) or _ways(rest, rows).takes:
        return Taken(None, behind=True)
    return Taken((index,), rows, of=other, behind=True, beside=(*beside, *far.given))


def _ways(node: Any, rows: int) -> _Ways:
    return _ways_of([node], rows)


def _ways_of(nodes: Iterable[Any], rows: int, through: bool = False) -> _Ways:
    """``through``: also behind nodes at which rows were taken."""
    found = _Ways()
    waiting = deque(node for node in nodes if node is not None)
    seen = set(waiting)
    while waiting and len(seen) < _NODES:
        at = waiting.popleft()
        mine = shape(at)[:1] == (rows,)
        if mine and moves_all(at, rows) and not through:
            found.takes.append(at)
            continue
        if mine and not hasattr(at, "variable"):  # parameters are shared by ways that have no sample in common
            found.nodes.add(at)
        found.turned = found.turned or _indexes_columns(at, rows)
        inputs = [child for child, _ in at.next_functions]
        if _takes_in(at, inputs, rows):
            given = given_to(at, rows) or _kept(at)
            found.given += given
            found.joins = found.joins or not given
        fresh = [child for child in inputs if child is not None and child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return found


def _takes_in(node: Any, inputs: Sequence[Any], rows: int) -> bool:
    """Whether a layer was given something without a gradient: of as many rows, or of rows in another shape."""
    name = node.name()
    if name.startswith("Embedding"):
        return shape(node)[:1] == (rows,)
    found = _LAYERS.match(name)
    if found is None:
        return bool(_JOINS.match(name)) and None in inputs and shape(node)[:1] == (rows,)
    at = 1 if found[1] == "Addmm" else 0  # where a layer's node has what it was given
    return len(inputs) > at and inputs[at] is None


def given_to(node: Any, rows: int) -> list[Tensor]:
    """What a layer was given, as far as its node keeps it, if it is of so many rows."""
    return [one for one in _kept(node) if one.shape[0] == rows]


def _kept(node: Any) -> list[Tensor]:
    kept = (saved(node, name) for name in _KEPT)
    return [one for one in kept if isinstance(one, Tensor) and one.ndim]


def _lead_to(ways: _Ways, sources: Iterable[Any], rows: int) -> bool:
    """Whether ways without a take lead to what was taken of: to a node of it, or to what entered it."""
    if not ways.nodes:
        return False
    reached = _ways_of(sources, rows, through=True)
    if reached.nodes & ways.nodes:
        return True
    places = {_compat.address(one) for one in reached.given} - {None}
    return any(_compat.address(one) in places for one in ways.given)


def _inputs_of(takes: Iterable[Any]) -> list[Any]:
    return [child for take in takes for child, _ in take.next_functions]


def _is_for_good(near: _Ways) -> bool:
    """Whether whole rows were taken, one by one, and no index of as many puts them back along another axis."""
    for take in near.takes:
        indices = (saved(take, "indices") or ()) if take.name().startswith("IndexBackward") else ()
        if indices and (indices[0].dtype == torch.bool or sum(one is not None for one in indices) > 1):
            return False  # marks; or a place in each row, such as the last token's
    return not near.turned


def _indexes_columns(node: Any, rows: int) -> bool:
    """Whether the second axis is of rows, and they were put in some order."""
    if shape(node)[1:2] != (rows,):
        return False
    if node.name().startswith("IndexSelectBackward"):
        index = saved(node, "index") if axis(node) == 1 else None
    elif node.name().startswith("IndexBackward"):
        first, *others = saved(node, "indices") or [None]
        index = others[0] if others and first is None else None
    else:
        return False
    return isinstance(index, Tensor) and index.numel() == rows


def _is_the_same(index: Tensor, other: Tensor | None) -> bool:
    return other is not None and other.shape == index.shape and _compat.address(other) == _compat.address(index)


def moves_all(node: Any, rows: int) -> bool:
    """Whether a node took or put all rows of features, in some order."""
    if puts_along_rows(node) and node.next_functions[0][0] is None:
        return not adds_up(node)
    if node.name().startswith("MmBackward"):
        return taken_by(node) is not None
    if not is_a_take(node):
        return False
    parents = [child for child, _ in node.next_functions if child is not None]
    if not parents or all(_is_table(parent) for parent in parents):
        return False
    known = taken_by(node)
    return known is None or known[2] == rows


def _is_table(node: Any) -> bool:
    """Whether rows are those of a parameter: itself, normalised, or what layers make of each of its rows."""
    waiting, seen = deque([node]), {node}
    found = False
    while waiting and len(seen) < _NODES:
        at = waiting.popleft()
        if hasattr(at, "variable"):
            found = True
            continue
        if at.name().startswith("Embedding"):
            return False  # looked up for samples
        inputs, layer = [child for child, _ in at.next_functions], _LAYERS.match(at.name())
        if layer is not None:
            place = 1 if layer[1] == "Addmm" else 0
            inputs = inputs[place : place + 1]
        else:
            alike = [child for child in inputs if child is not None and shape(child)[:1] == shape(node)[:1]]
            inputs = alike or [child for child in inputs if child is not None] or [None]
        if None in inputs:
            return False
        fresh = [child for child in inputs if child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return found


def _index(node: Any, rows: int) -> tuple[Tensor | None, Any]:
    """(rows,) which ones a node took, and what it took them of."""
    known = taken_by(node)
    if known is None or len(known[1]) != rows:
        return None, None
    return known[1], known[0]


def is_opaque(node: Any, rows: int) -> bool:
    """Whether some of the way to features is hidden: a custom function, or compiled code, that gave as many rows."""
    return any(is_made_in_python(at) and shape(at)[:1] == (rows,) for at in behind(node, _NODES))


def joins_the_batch(node: Any, rows: int) -> bool:
    """Whether what has no graph, such as the batch itself, is joined to features on the way to these."""
    return any(
        bool(_JOINS.match(at.name())) and any(child is None for child, _ in at.next_functions)
        and shape(at)[:1] == (rows,)
        for at in behind(node, _NODES)
    )  # fmt: skip
