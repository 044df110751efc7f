"""One forward call of a watched layer, as it was caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from lightning_featgeo.types import Tensor

MIXED = "rows are mixtures of samples (mixup, CutMix): they have no class"
REORDERED = (
    "rows were sorted, selected or turned round inside of the network, in an order that can't be told: none has a label"
)
OTHERS = "some rows are no samples of the batch (generated, replayed, or changed too much): they are left out"


@dataclass(frozen=True)
class Call:
    """One forward call.

    Attributes:
        features: what was caught, (b, …).
        real: (b, t), False where a packed or nested sequence was shorter; None: all of it is real.
        with_gradient: whether it was run to be trained on; None: unknown.
        state: how many backwards had begun in this batch.
        entered: the tensors that may have entered the network for it; None: nobody looked.
        reached: whether the loss is trained through it; None: unknown.
        rows: of what the network made, which rows were taken into it, (b,); None: all, in order.
        rows_of: how many rows there were to take from; None: unknown.
        is_reordered: rows were taken in an order that can't be told.
        is_linked: whether memory, the autograd graph or the place of the call shows that ``entered`` became these rows.
        is_mixed: rows are sums of several samples' rows (manifold mixup): they have no class.
        in_place: whatever happened on the way, rows are in the batch's order again.
        scored: the classes that losses score the rows against, a tensor each, if that was looked at.
    """

    features: Tensor
    real: Tensor | None = None
    with_gradient: bool | None = None
    state: int = 0
    entered: tuple[Tensor, ...] | None = None
    reached: bool | None = None
    rows: Tensor | None = None
    rows_of: int | None = None
    is_reordered: bool = False
    is_mixed: bool = False
    is_linked: bool = True
    scored: tuple[Tensor, ...] = ()
    in_place: bool = False


def joined(calls: Sequence[Call]) -> Call | None:
    """One call over all places, where several have one place each: a decoder that goes step by step. None: they don't.

    Two may be views; of a place alone, three and more are steps.
    """
    shapes = {tuple(call.features.shape) for call in calls}
    if len(calls) < 3 or len(shapes) > 1 or any(len(shape) != 3 or shape[1] != 1 for shape in shapes):
        return None
    return replace(calls[0], features=torch.cat([call.features for call in calls], dim=1), real=None)


def grows(calls: Sequence[Call]) -> bool:
    """Whether each call has one place more than the one before: a decoder that generates, and repeats what it has."""
    shapes = [tuple(call.features.shape) for call in calls]
    if len(shapes) < 3 or len({len(shape) for shape in shapes}) > 1:
        return False
    steps = {tuple(b - a for a, b in zip(one, other, strict=True)) for one, other in pairwise(shapes)}
    step = steps.pop()
    return not steps and sorted(step) == [0] * (len(step) - 1) + [1]
