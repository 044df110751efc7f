"""Several calls of a head in one batch: which of them the batch's labels are of, as the training loss tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.rows.scored_rows import UNSCORED, one_a_row, tells, without_ignored
from lightning_featgeo.types import Tensor

ONE_OF_THEM = "the head runs several times a batch: rows count of the call that is scored against the batch's labels"
SOME_OF_THEM = "labelled and unlabelled samples enter together: the rows that are scored against the labels count"


@dataclass
class ScoredCalls:
    """What losses have told of them.

    ``only``: of so many calls a batch, the one that is scored against the labels (beside unlabelled samples).
    ``in_parts``: the calls of this batch share its samples, each scored against its own labels (micro-batches);
    ``had_parts``: those of some batch did.
    ``is_cut``: a call holds unlabelled samples, too.
    """

    only: dict[int, int] = field(default_factory=dict)
    in_parts: bool = False
    is_cut: bool = False
    had_parts: bool = False

    @property
    def is_watched(self) -> bool:
        """Whether each loss is to be looked at."""
        return bool(self.only) or self.had_parts or self.is_cut

    def agree(self, only: Sequence[dict[int, int]], had_parts: bool, is_cut: bool) -> None:
        """What several ranks have seen; where they disagree about which call it is, nobody knows."""
        pairs = {pair for each in only for pair in each.items()}
        self.only = {count: i for count, i in pairs if not any(a == count and b != i for a, b in pairs)}
        self.had_parts, self.is_cut = had_parts, is_cut

    def choose(
        self, calls: Sequence[Call], labels: Tensor, ignored: int, trains: bool, notes: dict[str, None]
    ) -> list[Call]:
        """The calls that hold labelled samples, as far as that is known; else all.

        Args:
            calls: of the head.
            labels: of the batch, one a sample.
            ignored: the label of samples without a class.
            trains: whether the batch is trained on.
            notes: what is said of it.
        """
        self.in_parts = False
        if len(calls) == 1:
            return [self._labelled_rows(calls[0], without_ignored(labels, ignored), notes)]
        remembered = self.only.get(len(calls))
        scored = [one_a_row(one) for one in calls]
        if not trains or not any(one.scored for one in calls):
            return list(calls) if remembered is None else [calls[remembered]]
        whole = without_ignored(labels, ignored)
        told = [None if one is None else without_ignored(one.to(whole), ignored) for one in scored]
        if all(one is not None for one in told):
            every = torch.cat([one for one in told if one is not None])
            self.in_parts = every.shape == whole.shape and torch.equal(every.sort().values, whole.sort().values)
            self.had_parts = self.had_parts or self.in_parts
            return list(calls)
        own = [i for i, one in enumerate(told) if one is not None and torch.equal(one, whole)]
        others = [one for one in calls if not one.scored]
        if len(own) == 1 and len(others) == len(calls) - 1 and tells(whole):
            self.only[len(calls)] = own[0]
            notes[ONE_OF_THEM] = None
            return [calls[own[0]]]
        return list(calls)

    def _labelled_rows(self, call: Call, whole: Tensor, notes: dict[str, None]) -> Call:
        """Of a call of labelled and unlabelled samples together, the rows that the labels are scored in."""
        n = len(call.features) if call.features.ndim else 0
        found = [own for one in call.scored if (own := _where(one, whole, n)) is not None]
        if len(found) == 1 and call.rows is None and tells(whole):
            own = found[0]
            notes[SOME_OF_THEM], self.is_cut = None, True
            entered = None if call.entered is None else tuple(x[own] if len(x) == n else x for x in call.entered)
            real = None if call.real is None else call.real[own]
            return replace(call, features=call.features[own], entered=entered, real=real, scored=(whole,))
        some = [_as_left_out(one, whole) for one in call.scored]
        if len(some) == 1 and some[0] is not None:
            return replace(call, scored=(some[0],))
        whole_ones = tuple(one for one in call.scored if _scored_rows(one) is None)
        return call if len(whole_ones) == len(call.scored) else replace(call, scored=whole_ones)


def scored_part(calls: Sequence[Call]) -> Tensor | None:
    """The classes of some of a call's rows, where a loss scores these alone; None: it is not so."""
    scored = calls[0].scored if len(calls) == 1 else ()
    own = _scored_rows(scored[0]) if len(scored) == 1 else None
    return None if own is None else scored[0][own]


def _scored_rows(scored: Tensor) -> Tensor | None:
    """Which rows a loss scores, of a call of which it does not score all; None: all."""
    if scored.ndim != 1 or scored.is_floating_point():
        return None
    there = scored != UNSCORED
    return None if bool(there.all()) else there.nonzero().flatten()


def _as_left_out(scored: Tensor, whole: Tensor) -> Tensor | None:
    """Classes of the rows that a loss reads, −1 for the others, where these are the batch's own; None: they are not."""
    own = _scored_rows(scored) if scored.shape == whole.shape else None
    if own is None or not torch.equal(without_ignored(scored[own].to(whole), UNLABELLED), whole[own]):
        return None
    return torch.where(scored == UNSCORED, UNLABELLED, scored)


def _where(scored: Tensor, whole: Tensor, rows: int) -> Tensor | None:
    """Which of so many rows are scored, where it is against the labels; None: all are, or against something else."""
    own = _scored_rows(scored) if scored.shape == (rows,) else None
    if own is None or len(own) != len(whole):
        return None
    return own if torch.equal(without_ignored(scored[own].to(whole), UNLABELLED), whole) else None
