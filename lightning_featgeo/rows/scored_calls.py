"""Several calls of a head in one batch: which of them the batch's labels are of, as the training loss tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.scored_rows import one_a_row, tells, without_ignored
from lightning_featgeo.types import Tensor

ONE_OF_THEM = "the head runs several times a batch: rows count of the call that is scored against the batch's labels"


@dataclass
class ScoredCalls:
    """What losses have told of them.

    ``only``: of so many calls a batch, the one that is scored against the labels (beside unlabelled samples).
    ``in_parts``: the calls of this batch share its samples, each scored against its own labels (micro-batches).
    """

    only: dict[int, int] = field(default_factory=dict)
    in_parts: bool = False

    @property
    def is_watched(self) -> bool:
        """Whether each loss is to be looked at."""
        return bool(self.only) or self.in_parts

    def choose(
        self, calls: Sequence[Call], labels: Tensor, ignored: int, trains: bool, notes: dict[str, None]
    ) -> list[Call]:
        """The calls that hold labelled samples, as far as that is known; else all.

        Args:
            calls: of the head, two or more.
            labels: of the batch, one a sample.
            ignored: the label of samples without a class.
            trains: whether the batch is trained on.
            notes: what is said of it.
        """
        self.in_parts = False
        remembered = self.only.get(len(calls))
        scored = [one_a_row(one) for one in calls]
        if not trains or not any(one.scored for one in calls):
            return list(calls) if remembered is None else [calls[remembered]]
        whole = without_ignored(labels, ignored)
        told = [None if one is None else without_ignored(one.to(whole), ignored) for one in scored]
        if all(one is not None for one in told):
            every = torch.cat([one for one in told if one is not None])
            self.in_parts = every.shape == whole.shape and torch.equal(every.sort().values, whole.sort().values)
            return list(calls)
        own = [i for i, one in enumerate(told) if one is not None and torch.equal(one, whole)]
        others = [one for one in calls if not one.scored]
        if len(own) == 1 and len(others) == len(calls) - 1 and tells(whole):
            self.only[len(calls)] = own[0]
            notes[ONE_OF_THEM] = None
            return [calls[own[0]]]
        return list(calls)
