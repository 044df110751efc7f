"""From what a tap has caught to the call whose rows are put together: what entered for it, and in which order."""

from __future__ import annotations

from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.capture import facts
from lightning_featgeo.capture.entrance import Entrance
from lightning_featgeo.capture.joined import joined
from lightning_featgeo.capture.reordering import Order
from lightning_featgeo.capture.stash import Caught
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.types import Tensor


def call_of(
    one: Caught, features: Tensor, given: tuple[Tensor, ...], batch: Any, order: Order, entrance: Entrance, virtual: int
) -> Call:
    """A call, with all that is known of it.

    Args:
        one: what was caught.
        features: of it, which it has kept.
        given: the tensors that may have entered the network for it.
        batch: what the step got.
        order: what earlier batches have shown.
        entrance: what this one has.
        virtual: tokens that an adapter has put before each sequence.
    """
    given, is_lost = joined(one.pieces, one.own_layers, given, batch, order)
    rows, unknown = order.rows(one.taken, batch)
    unknown |= is_lost
    if one.taken is not None and given and any(_is_same(given[0], beside) for beside in one.taken.beside):
        rows, unknown = None, False  # what entered is what lies beside the index: in the order of these rows already
    rows, length = entrance.rows.get(one.order, (rows, one.taken.length if one.taken else None))
    no_graph = rows is None and one.taken is None and one.node is None  # as in validation
    unknown |= no_graph and order.is_lost(entrance.is_in_order(one.order))
    return Call(
        facts.without_virtual_tokens(features, given, virtual), one.real, one.with_gradient, one.state,
        given, one.reached, rows, length, unknown or one.order in entrance.inside.unsure, one.is_mixed,
        one.order not in entrance.unlinked and not one.is_opaque, one.scored,
    )  # fmt: skip


def _is_same(given: Tensor, beside: Tensor) -> bool:
    return given.shape == beside.shape and _compat.address(given) == _compat.address(beside) is not None
