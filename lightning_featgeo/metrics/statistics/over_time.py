"""Statistics of a window and an earlier one together: rows of the same samples in both."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property

import torch

from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.accumulators.histograms import Histograms
from lightning_featgeo.metrics.earlier import HANDED_IN, Earlier, Kept
from lightning_featgeo.metrics.functional.histograms import unit_moves
from lightning_featgeo.metrics.functional.same_samples import Pair, Side, paired
from lightning_featgeo.metrics.functional.sketch import SKETCH_ROWS, ladder, sketch
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.metrics.statistics.reference import ReferenceStatistics
from lightning_featgeo.types import Tensor

SAME_LABELS = 0.9  # share of samples whose label is what it was: some are corrected during a run


class TimeStatistics(ReferenceStatistics):
    """Statistics that pair rows by sample."""

    _earlier: Earlier
    _wanted: frozenset[str]

    @statistic("bank", "earlier")
    def earlier_neighbors(self) -> tuple[Tensor, Tensor]:
        """``neighbor_samples`` and ``samples`` of the window before."""
        if self._earlier.neighbors is None:
            raise Undefined("there is no window before this one", GapKind.NO_EARLIER)
        return self._earlier.neighbors

    @statistic("bank", "earlier", "earlier.previous")
    def with_previous(self) -> Pair:
        """Rows of the bank and those of the same samples in the window before: ``.now`` and ``.then``, (n, d)."""
        return self._pair("previous")[0]

    @statistic("bank", "earlier", "earlier.first")
    def with_first(self) -> Pair:
        """Rows of the bank and those of the same samples in the first window: ``.now`` and ``.then``, (n, d)."""
        return self._pair("first")[0]

    @statistic("bank", "earlier", "best", "earlier.best")
    def with_best(self) -> Pair:
        """Rows of the bank and those of the same samples in the best window so far: ``.now`` and ``.then``, (n, d)."""
        return self._pair("best")[0]

    @statistic("bank", "anchor")
    def with_anchor(self) -> Pair:
        """Rows of the bank and the anchor's of the same samples: ``.now``, (n, d), and ``.then``, (n, e)."""
        return self._pair("anchor")[0]

    @statistic("bank", "earlier", "earlier.previous", "labels")
    def labels_with_previous(self) -> Tensor:
        """(n,) classes of the rows of ``with_previous``; −1 where unknown."""
        return self._pair("previous")[1]

    @statistic("bank", "earlier", "earlier.first", "labels")
    def labels_with_first(self) -> Tensor:
        """(n,) classes of the rows of ``with_first``; −1 where unknown."""
        return self._pair("first")[1]

    @statistic("bank", "earlier", "best", "earlier.best", "labels")
    def labels_with_best(self) -> Tensor:
        """(n,) classes of the rows of ``with_best``; −1 where unknown."""
        return self._pair("best")[1]

    @statistic("bank", "anchor", "labels")
    def labels_with_anchor(self) -> Tensor:
        """(n,) classes of the rows of ``with_anchor``; −1 where unknown."""
        return self._pair("anchor")[1]

    @statistic("bank", "layers", "earlier.layer")
    def with_layer_before(self) -> Pair:
        """Rows of the bank and those of the same samples in the layer before: ``.now`` and ``.then``, (n, d) each."""
        return self._pair("layer")[0]

    @statistic("bank", "labels")
    def vote_count(self) -> int:
        """How many of the bank's labelled rows vote for a class."""
        return self._vote_count(torch.bincount(self.row_labels), not self._votes_elsewhere)

    @statistic("bank", "sketches")
    def sketches_with_previous(self) -> tuple[Tensor, Tensor]:
        """Sketches (1, 2 + 2m) of this window and of the one before, at that one's bandwidth."""
        return self._sketches("previous")

    @statistic("bank", "sketches")
    def sketches_with_first(self) -> tuple[Tensor, Tensor]:
        """Sketches (1, 2 + 2m) of this window and of the first one, at that one's bandwidth."""
        return self._sketches("first")

    @statistic("histograms", "past")
    def unit_moves_previous(self) -> Tensor:
        """(d,) how far each unit's values have moved since the window before, over their spread; NaN without any."""
        return self._unit_moves("previous")

    @statistic("histograms", "past")
    def unit_moves_first(self) -> Tensor:
        """(d,) how far each unit's values have moved since the first window, over their spread; NaN without any."""
        return self._unit_moves("first")

    @statistic("histograms", "reference", "reference.histograms")
    def unit_moves_reference(self) -> Tensor:
        """(d,) how far each unit's values are from those of the reference, over their spread; NaN without any."""
        return unit_moves(self.unit_histograms, self._of_reference("histograms").unit_histograms)

    def _unit_moves(self, which: str) -> Tensor:
        own = self.unit_histograms  # also in the first window: its table and picture
        then = self._then(self._earlier.histograms, which, "no unit's values were kept")
        if len(then) != self.dim:
            raise Undefined(f"features had {len(then)} dimensions then, and have {self.dim} now")
        return unit_moves(own, Histograms.of(then.to(own.counts.device)))

    def _then(self, kept: Mapping[str, Tensor], which: str, or_else: str) -> Tensor:
        if which not in kept:
            why, kind = self._without(which)
            raise Undefined(f"{why}, or {or_else}", kind)
        return kept[which]

    @cached_property
    def sketch(self) -> Tensor:
        """(3, 2 + 2m) the distribution of at most 4,096 rows at three bandwidths, for comparisons later on."""
        return ladder(self._sketched_rows)

    @property
    def _sketched_rows(self) -> Tensor:
        rows: Tensor = self._bank.rows[:SKETCH_ROWS]
        return rows

    def _sketch_at(self, octave: int) -> Tensor:
        """(1, 2 + 2m) at one bandwidth."""
        with contextlib.suppress(Undefined):
            there = (self.sketch[:, 0] == octave).nonzero()
            if len(there):
                return self.sketch[there[0]]
        own = self.__dict__.setdefault("_sketched", {})
        if octave not in own:
            own[octave] = sketch(self._sketched_rows, (octave,))
        found: Tensor = own[octave]
        return found

    def _sketches(self, which: str) -> tuple[Tensor, Tensor]:
        theirs = self._then(self._earlier.sketches, which, "its rows gave no bandwidth")
        if (dim := int(theirs[0, 1])) != self.dim:
            raise Undefined(f"features had {dim} dimensions then, and have {self.dim} now")
        own = self._sketch_at(int(theirs[0, 0]))
        return own, theirs.to(own.device)

    def _own_sketch(self) -> Tensor | None:
        """At the bandwidth of this window's own rows, for the next ones."""
        with contextlib.suppress(Undefined):
            return self.sketch[1:2]
        return None

    def as_earlier(self, windows: frozenset[str]) -> Earlier:
        """What the next window is compared with.

        Args:
            windows: of which rows are kept, "previous", "first" and "best"; "layer": its own, for the next layer.
        """
        earlier = self._paired_as_earlier(windows)
        if {"sketches_with_previous", "sketches_with_first"} & self._wanted:
            earlier = earlier.sketched(self._own_sketch())
        if {"unit_moves_previous", "unit_moves_first"} & self._wanted:
            earlier = earlier.with_histograms(self.unit_histograms.stacked() if self._count else None)
        return earlier

    def _paired_as_earlier(self, windows: frozenset[str]) -> Earlier:
        searched = "neighbor_samples" in self.__dict__
        if not searched and not windows and "anchor" not in self._earlier.rows:
            return self._earlier
        neighbors = (self.neighbor_samples, self.samples) if searched else None
        known = self._side.known if "_side" in self.__dict__ else {}
        kept = Kept(self._bank.rows, self._bank.samples, self._bank.labels, known) if windows else None
        anchor = self._earlier.rows.get("anchor")
        then = self._earlier.then(neighbors, kept, windows)
        return then if anchor is None else then.anchored(anchor.of(self._bank.samples))

    @cached_property
    def _side(self) -> Side:
        """All rows of the bank, which each pair has."""
        return Side(self._bank.rows)

    @cached_property
    def _pairs(self) -> dict[str, tuple[Pair, Tensor]]:
        return {}

    def _without(self, which: str) -> tuple[str, GapKind]:
        """Why there are no rows of this kind."""
        if which == "first" and self._earlier.is_late:
            return "the run was resumed, and its checkpoint has no rows of the first window", GapKind.LOST
        if which == "anchor":
            return self._earlier.no_anchor or "no anchor was given", GapKind.NO_REFERENCE
        none = {
            "layer": "no layer that is watched comes before this one",
            "best": "no window before is known to be the best: Windows(best=…) names a metric that has no value",
        }
        return none.get(which, "there is no window before this one"), GapKind.NO_EARLIER

    def _pair(self, which: str) -> tuple[Pair, Tensor]:
        if which not in self._pairs:
            kept = self._earlier.rows.get(which)
            if kept is None:
                raise Undefined(*self._without(which))
            if kept.rows.shape[1] != self.dim and which not in HANDED_IN:
                raise Undefined(f"features had {kept.rows.shape[1]} dimensions then, and have {self.dim} now")
            if which == "anchor":
                kept = kept.of(self._bank.samples)
            what = "anchor" if which == "anchor" else "earlier window"
            now, then = paired(self._bank.samples, kept.samples.to(self._bank.samples.device), what)
            rows = kept.rows.to(self._bank.rows.device)
            labels = self._bank.labels[now], kept.labels.to(rows.device)[then]
            both = (labels[0] >= 0) & (labels[1] >= 0)
            if bool(both.any()) and float((labels[0] == labels[1])[both].double().mean()) < SAME_LABELS:
                raise Undefined(
                    f"by their labels, other samples have the places of the {what}'s: "
                    + (
                        "it is of another data set or order, or its classes have other numbers"
                        if which == "anchor"
                        else "the loader draws new ones"
                    )
                )
            mine = self._side if len(now) == len(self._bank.rows) else Side(self._bank.rows[now])
            whole = len(then) == len(rows) and torch.equal(then, torch.arange(len(rows), device=then.device))
            theirs = Side(rows, kept.known) if whole else Side(rows[then])
            self._pairs[which] = Pair(mine, theirs), self._bank.labels[now]
        return self._pairs[which]
