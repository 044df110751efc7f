"""Rows that are put together of pieces, each of which went through a module of its own: routes by a mask, experts.

``cat([a(x[m]), b(x[~m])])`` is in no order that what entered shows. The autograd graph has the pieces, and their first
layers keep what they were given: put together alike, that is what entered for these rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from lightning_featgeo._autograd import behind, saved, shape
from lightning_featgeo.capture.reordering import Order
from lightning_featgeo.capture.taken_behind import given_to, moves_all
from lightning_featgeo.rows import tree
from lightning_featgeo.rows.origin import Origin
from lightning_featgeo.rows.provenance import origin_of
from lightning_featgeo.types import Tensor

_NODES = 400  # that are looked through, for where rows were put together, and for what each piece was made of
_PIECES = 16


def pieces_of(node: Any, rows: int) -> tuple[tuple[Tensor, ...], bool]:
    """What entered for each piece of features, in their order, () where they were not put together, or nobody knows;
    and whether they went through different layers.

    Args:
        node: of the autograd graph, that made the features.
        rows: of them.
    """
    waiting, seen = deque([node]), {node}
    while waiting and len(seen) < _NODES:
        at = waiting.popleft()
        if shape(at)[:1] != (rows,):
            continue
        children = [child for child, _ in at.next_functions if child is not None]
        if at.name().startswith("CatBackward") and 1 < len(children) <= _PIECES and saved(at, "dim") == 0:
            lengths = [(shape(child) or (0,))[0] for child in children]
            if sum(lengths) == rows and 0 < min(lengths) < rows:
                found = [_entered(child, length) for child, length in zip(children, lengths, strict=True)]
                told = [one for one in found if one is not None]
                if len(told) < len(found):
                    return (), False
                return tuple(given for given, _ in told), len({layer for _, layer in told}) > 1
        if moves_all(at, rows):
            return (), False  # put back: told by the graph, or by nobody
        fresh = [child for child in children if child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return (), False


def _entered(node: Any, rows: int) -> tuple[Tensor, int] | None:
    """What the first layer behind a piece was given: of as many rows; and which layer that is."""
    for at in behind(node, _NODES):
        enters = any(child is None for child, _ in at.next_functions) or at.name().startswith("Embedding")
        if enters and shape(at)[:1] == (rows,) and (given := given_to(at, rows)):
            return given[0], _layer(at)
    return None


def _layer(node: Any) -> int:
    """Which weight a layer's node has: its identity; 0 where it has none."""
    found = 0
    for child, _ in node.next_functions:
        while child is not None and not hasattr(child, "variable") and len(child.next_functions) == 1:
            child = child.next_functions[0][0]
        weight = getattr(child, "variable", None)
        found = id(weight) if weight is not None and weight.ndim > 1 else found
    return found


def joined(
    pieces: tuple[Tensor, ...], own: bool, given: tuple[Tensor, ...], batch: Any, order: Order
) -> tuple[tuple[Tensor, ...], bool]:
    """What entered for a call: its pieces put together, where they are samples of the batch in another order.

    Args:
        pieces, own: of a call, as :func:`pieces_of` found them.
        given: what is known to have entered for it.
        batch: what the step got.
        order: is told: without a graph it can't be known.

    Returns:
        What entered, and whether nobody knows in which order: pieces of different layers that resemble nothing.
    """
    if len(pieces) < 2 or len({(x.shape[1:], x.dtype, x.device) for x in pieces}) > 1:
        return given, False
    whole = torch.cat([x.detach() for x in pieces])
    parts = [x for _, x in tree.tensors(batch) if x.ndim]
    before: Sequence[Tensor] = given[:1] if given and len(given[0]) == len(whole) else parts
    found = origin_of((whole,), before)
    moved = _is_another_order(found, whole, before, own)
    if moved and before is not parts:
        moved = _is_another_order(origin_of((whole,), parts), whole, parts, own)
    in_order = found is not None and found.is_identity
    lost = own and not moved and not in_order and any(len(part) == len(whole) for part in parts)
    if moved or lost:
        order.changes = order.behind = True
    return ((whole,) if moved else given), lost


def _is_another_order(origin: Origin | None, whole: Tensor, parts: Sequence[Tensor], own: bool) -> bool:
    """Whether these are all samples of one tensor, each once, and not in their order."""
    if origin is None or not isinstance(origin.part, int) or origin.samples is None or (origin.changed and not own):
        return False
    return len(parts[origin.part]) == len(whole) == len(origin.samples.unique())
