"""Rows that were taken, sorted or turned round between modules: what entered says no more in which order they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lightning_featgeo._autograd import axis_of, saved, shape
from lightning_featgeo.capture.takes import (
    PUTS,
    adds_up,
    hides_rows,
    of_whole_rows,
    permuted,
    piece_of,
    put_rows,
    puts_along_rows,
    turned_table,
)
from lightning_featgeo.rows import tree
from lightning_featgeo.types import Tensor

_TAKES = re.compile(
    r"^(Index|IndexSelect|Gather|Sort|Flip|Roll|MaskedSelect|Take|Topk|Stack|Cat|Embedding|View|UnsafeView|ReshapeAlias)"
    r"Backward"
)
_STEPS = 12  # nodes with one input, such as activations and normalisation, that are looked through
_NODES = 300  # that are looked through behind rows that were taken
FIRST, EVERY = 3, 64  # batches in which indices are read: the first ones, then one in so many


@dataclass(frozen=True)
class Taken:
    """Rows that were taken of a tensor, not read yet: that would wait for the device.

    ``pieces``: which rows, one piece after the other, as indices, marks or a range; None: that can't be told.
    ``length``: how many there were to take from; None: unknown. ``of``: which rows those had been taken as before.
    ``put``: where each of them was put, in a tensor of ``size`` rows, instead. ``behind``: before another layer.
    ``beside``: what was given to layers beside them, in whatever order: the batch's own rows, or a state of zeros.
    ``for_good``: by an index of whole rows that no other one undoes.
    """

    pieces: tuple[Tensor | range, ...] | None
    length: int | None = None
    put: Tensor | None = None
    size: int = 0
    of: Tensor | None = None
    behind: bool = False
    beside: tuple[Tensor, ...] = ()
    for_good: bool = False

    def settled(self, parts: Sequence[Tensor]) -> Taken | None:
        """Without what lies beside: that holds no samples, or is in the same order. If it is the batch's own rows in
        theirs (``parts``), nothing was taken: the others are rows of other samples; anything else tells nothing."""
        index = self.rows() if self.beside else None
        for given in self.beside:
            alike = [one for one in parts if one.shape == given.shape and one.device == given.device]
            if any(torch.equal(one.to(given), given) for one in alike):
                return None
            same = index is not None and any(torch.equal(one[index].to(given), given) for one in alike)
            if not same and not torch.equal(given, given[:1].expand_as(given)):
                return Taken(None, behind=self.behind)
        return replace(self, beside=())

    def rows(self) -> Tensor | None:
        """(b,) which rows, in order; None: that can't be told, or they are not taken one by one."""
        if self.put is not None:
            index = _as_indices(self.put, self.put.device)
            back = torch.full((self.size,), -1, device=index.device)
            back[index] = torch.arange(len(index), device=index.device)
            return None if bool((back < 0).any()) else back
        if self.pieces is None or any(isinstance(one, Tensor) and one.ndim != 1 for one in self.pieces):
            return None
        device = next((one.device for one in self.pieces if isinstance(one, Tensor)), None)
        rows = torch.cat([_as_indices(one, device) for one in self.pieces])
        return rows if self.of is None else self.of.to(rows)[rows]


def _as_indices(piece: Tensor | range, device: torch.device | None) -> Tensor:
    if isinstance(piece, range):
        return torch.arange(piece.start, piece.stop, piece.step, device=device)
    return piece.nonzero()[:, 0] if piece.dtype == torch.bool else piece.to(torch.int64)


class Order:
    """Whether rows come in another order, or others of them, than what entered: looked at once a batch is over.

    ``behind``: before another layer, which two modules that are compared with each other don't show. ``in_place``: all
    rows are taken by an index there, which has left them where they were so far; of another loader's it may not.
    """

    def __init__(self) -> None:
        self.changes = self.behind = self.in_place = False
        self._looked = 0

    def is_lost(self, in_order: bool) -> bool:
        """Without a graph, whether the order can't be told; ``in_order``: rows are all of an earlier module's."""
        return self.in_place or (self.changes and (self.behind or not in_order))

    def rows(self, taken: Taken | None, batch: Any) -> tuple[Tensor | None, bool]:
        """Which rows were taken, None for all of them in order; and whether that can't be told.

        ``batch``: what the step got; None: nobody asks any more.
        """
        if taken is not None and taken.beside:
            taken = None if batch is None else taken.settled([x for _, x in tree.tensors(batch) if x.ndim])
        if taken is None:
            return None, False
        rows = taken.rows()
        if rows is None:
            self.changes, self.behind = True, self.behind or taken.behind
            return None, True
        if not self.changes and (rows.device.type == "cpu" or self._looked < FIRST or self._looked % EVERY == 0):
            self.changes = not torch.equal(rows, torch.arange(len(rows), device=rows.device))
        self._looked += 1
        self.behind = self.behind or (self.changes and taken.behind)
        self.in_place = not self.changes and (self.in_place or taken.for_good)
        return (rows if self.changes else None), False


def taken_rows(node: Any) -> Taken | None:
    """Whether rows were taken just before a module, as its input's node of the autograd graph tells; None: no.

    Looked for through nodes with one input only: what lies behind another layer's weight is not seen, unless rows were
    taken here, too: sorted for a layer and sorted back, they are in an order that can't be told. Only shapes are read,
    and indices are referred to: nothing waits for a device.
    """
    for _ in range(_STEPS):
        if node is None:
            return None
        if _TAKES.match(node.name()):
            found = _read(node, node.name())
            if found is not None:
                return Taken(None) if _is_taken_of_taken(node) else found
        inputs = [child for child, _ in node.next_functions if child is not None]
        if len(inputs) != 1 or adds_up(node):
            return None
        if _fills_rows(node, inputs[0]):
            index = put_rows(node)
            if index is None or _is_taken_of_taken(node):
                return Taken(None)
            return Taken(None, put=index, size=shape(node)[0])
        node = inputs[0]
    return None


def _fills_rows(node: Any, child: Any) -> bool:
    """Whether a node put rows into a tensor that nothing is trained through, and not columns of all of them."""
    name = node.name()
    if name.endswith("CopySlices") or name.startswith("MaskedScatter"):
        return shape(child)[:1] != shape(node)[:1]
    return bool(PUTS.match(name)) and node.next_functions[0][0] is None and puts_along_rows(node)


def taken_by(node: Any) -> tuple[Any, Tensor, int | None] | None:
    """What a node took rows of along the first axis, (k,) which ones, one by one, and how many there were.

    None: nothing, or that can't be told without reading it.
    """
    if node.name().startswith("MmBackward"):
        return permuted(node)
    if not _TAKES.match(node.name()):
        return None
    if node.name().startswith("Gather"):
        index, of = of_whole_rows(saved(node, "index")) if saved(node, "dim") == 0 else None, saved(node, "self")
        length = int(of.shape[0]) if isinstance(of, Tensor) else None
        return None if index is None else (node.next_functions[0][0], index, length)
    if node.name().startswith(("Stack", "Cat")):
        pieces = _pieces(node) if saved(node, "dim") == 0 else []
        rows = (
            Taken(tuple(one for _, one, _ in pieces)).rows() if all(isinstance(p[1], range) for p in pieces) else None
        )
        return (pieces[0][0], rows, pieces[0][2]) if pieces and rows is not None else None
    if node.name().startswith(("View", "UnsafeView", "ReshapeAlias")):
        return turned_table(node)
    if node.name().startswith("Embedding"):
        parent, index = node.next_functions[0][0], saved(node, "indices")
        if parent is None or hasattr(parent, "variable") or not isinstance(index, Tensor) or index.ndim != 1:
            return None  # a table's rows
        return parent, index, (shape(parent) or (None,))[0]
    piece = piece_of(node, 0) if node.name().startswith("Index") else None
    if piece is None or not isinstance(piece[1], Tensor) or piece[1].ndim != 1 or piece[1].dtype == torch.bool:
        return None
    return piece[0], piece[1], piece[2]


def _is_taken_of_taken(node: Any) -> bool:
    """Whether rows had been taken before, behind whatever layers lie between."""
    waiting = [child for child, _ in node.next_functions if child is not None]
    seen = set(waiting)
    while waiting and len(seen) < _NODES:
        at = waiting.pop()
        inputs = [child for child, _ in at.next_functions if child is not None]
        of_a_table = bool(inputs) and all(hasattr(child, "variable") for child in inputs)
        if is_a_take(at) and not of_a_table:
            return True
        fresh = [child for child in inputs if child not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def is_a_take(node: Any) -> bool:
    """Whether a node took rows along the first axis."""
    return bool(_TAKES.match(node.name())) and _read(node, node.name()) is not None


def _read(node: Any, name: str) -> Taken | None:
    """What a node took along the first axis; None: nothing."""
    if hides_rows(node):
        return Taken(None)
    if name.startswith("Index"):
        piece = piece_of(node, 0)
        return None if piece is None else Taken((piece[1],), piece[2])
    if name.startswith(("Stack", "Cat")):
        return _of_pieces(node) if saved(node, "dim") == 0 else None
    if name.startswith(("Embedding", "View", "UnsafeView", "ReshapeAlias")):
        known = taken_by(node)
        return None if known is None else Taken((known[1],), known[2])
    if name.startswith(("Flip", "Roll")):
        dims, ndim = saved(node, "dims"), len(shape(node))
        first = dims is not None and (not dims or any(axis_of(dim, ndim) == 0 for dim in dims))
        return Taken(None) if first else None
    return Taken(None) if saved(node, "dim") in (0, None) else None


def _of_pieces(node: Any) -> Taken | None:
    """Rows that were put together of pieces of one tensor; None: of several tensors, which is taken for their order."""
    pieces = _pieces(node)
    return Taken(tuple(rows for _, rows, _ in pieces), pieces[0][2]) if pieces else None


def _pieces(node: Any) -> list[tuple[Any, Tensor | range, int | None]]:
    found = [None if child is None else piece_of(child, number) for child, number in node.next_functions]
    pieces = [one for one in found if one is not None]
    return pieces if len(pieces) == len(found) and len({parent for parent, _, _ in pieces}) == 1 else []
