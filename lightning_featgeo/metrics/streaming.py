"""What a GeometryMetric does with rows: it makes its accumulators for the first ones, and feeds them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import ConfigurationError, Gap, GapKind
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.metrics.accumulators.voters import VoterAccumulator
from lightning_featgeo.metrics.catalog import CATALOG, PRESETS
from lightning_featgeo.metrics.earlier import Earlier
from lightning_featgeo.metrics.merging import Mergeable
from lightning_featgeo.metrics.plan import (
    INPUTS,
    NOT_PAIRED,
    Shape,
    bank_capacity,
    build_accumulators,
    choose_preset,
    choose_signals,
    spectrum_limit,
)
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.metrics.statistics.bank import BY_VOTE, LEAST_NEAR
from lightning_featgeo.rows.label_rows import mixtures_of
from lightning_featgeo.rows.rows import UNLABELLED, Rows, build_rows, can_choose, finite_rows
from lightning_featgeo.rows.waiting import PlainRows, compact, copied
from lightning_featgeo.types import Tensor

_COUNTERS = ("seen", "nonfinite", "labelled", "out_of_range", "largest_label")


class Streaming(Mergeable):
    """Rows in; the chosen signals' accumulators are fed."""

    preset: str | None
    left_out: dict[str, str]
    impossible: dict[str, Gap]
    serve: tuple[str, ...]
    spectrum_rows: int | Literal["auto", "all"]
    spectrum_limit: int | None
    _reads_views: bool
    _target_width: int | None  # t, where a bank keeps targets
    _named: frozenset[str]
    _latest: Earlier | None  # of this window, once it was computed

    def update(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        sample_index: Tensor | None = None,
        view: int | Tensor | None = None,
        groups: Tensor | None = None,
        mixtures: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            features: (n, d), any real dtype.
            labels: (n,) class indices, negative for unlabelled; or (n,) or (n, t) floating-point regression targets.
            sample_index: (n,) where rows come from, the same number for the same sample on every rank; rows of one
                sample are never neighbours, and its views are found by it. None: all distinct.
            view: which view, an int or one a row; single-view signals read view 0.
            groups: (n,) what should not matter (site, scanner, speaker), for ``robustness_index``.
            mixtures: (n, C) weights of the classes that mixup or CutMix has mixed, for signals of mixed rows.

        Raises:
            ValueError: if a shape does not fit, or the dimension changed since the first batch.
            ConfigurationError: at the first batch, if a chosen signal can't be computed from what is given.
        """
        alone = sample_index is None and view is None and groups is None and mixtures is None
        if alone and (plain := self._plain(features, labels)):
            self._arrived += len(features)
            self.update_rows(plain, frozenset() if labels is None else frozenset({"labels"}))
            return
        targets = labels if labels is not None and labels.is_floating_point() else None
        classes = None if targets is not None else labels
        if mixtures is not None and (mixtures.ndim != 2 or len(mixtures) != len(features)):
            raise ValueError(
                f"mixtures must be weights of the classes, (rows, classes), got shape {tuple(mixtures.shape)} for "
                f"{len(features)} rows"
            )
        targets = targets if mixtures is None else mixtures_of(mixtures)
        places = None
        if sample_index is None and features.ndim == 2:  # rank r of W numbers its rows r, r + W, …
            ranks = self._ranks()
            arrived = torch.arange(self._arrived, self._arrived + len(features), device=features.device)
            sample_index, places = arrived * ranks.size + ranks.rank, torch.zeros_like(arrived)
        rows = build_rows(features, classes, sample_index, view, places, targets=targets, groups=groups)
        self._arrived += len(rows)
        present = {"labels": classes, "targets": targets, "views": view, "groups": groups}
        present |= {} if mixtures is None else {"targets": None, "mixtures": mixtures}
        self.update_rows(rows, frozenset(name for name, given in present.items() if given is not None), owned=False)

    def _plain(self, features: Tensor, labels: Tensor | None) -> PlainRows | None:
        """A copy of a small batch of which nothing is to be said but its labels; None: it is to be looked at."""
        if features.ndim != 2 or features.dtype not in (torch.float32, torch.float64):
            return None
        if labels is not None and (labels.shape != features.shape[:1] or labels.dtype != torch.int64):
            return None
        if labels is not None and labels.device != features.device:
            return None
        ranks = self._ranks()
        rows = PlainRows(features.detach(), labels, UNLABELLED, self._arrived, ranks.size, ranks.rank)
        if not self._waiting.has_room_for(rows):
            return None
        return replace(rows, features=rows.features.clone(), label=None if labels is None else labels.clone())

    def update_rows(self, rows: Rows | PlainRows, present: frozenset[str], owned: bool = True) -> None:
        """:meth:`update` for rows that are put together already. Small batches wait, and are added together.

        Args:
            rows: of any view.
            present: which of "labels", "targets", "views", "groups" the batch brings, and "tokens" if each row is one
                of no class but a vocabulary's; read from the first batch only.
            owned: nobody else will write into them; False: they are copied, if they have to wait.
        """
        if rows.features.shape[1] == 0:
            raise ValueError("features have 0 dimensions")
        if self.dim is None:
            rows = rows.full() if isinstance(rows, PlainRows) else rows
            with torch.inference_mode(False), torch.no_grad():
                self._build(rows, present)
        if rows.features.shape[1] != self.dim:
            raise ValueError(
                f"features had {self.dim} dimensions in the first batch and have {rows.features.shape[1]} now; "
                "watch one layer per metric, or pool to a fixed size"
            )
        width = 0 if isinstance(rows, PlainRows) else rows.target.shape[1]
        if width and self._target_width not in (None, width):
            raise ValueError(f"targets had {self._target_width} columns in the first batch and have {width} now")
        if not rows.features.shape[0]:
            return
        admitted = self._waiting.admits(rows)
        if not admitted:
            self.catch_up()
            admitted = self._waiting.admits(rows)
        waits = self._begun and admitted  # the same rows are added together in every window
        if waits:
            rows = compact(rows) if owned or isinstance(rows, PlainRows) else copied(rows)
        self._waiting.add(rows)
        if not waits:
            self.catch_up()

    def catch_up(self) -> None:
        """Add the rows that wait. Whoever reads ``accumulators`` finds them up to date."""
        rows = self._waiting.take() if self._waiting.batches else None
        if rows is not None:
            self._begun, self._lost = True, True
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(rows.features.device.type, enabled=False),
            ):
                self._accumulate(rows)
            self._lost = False

    def complete(self) -> None:
        """Add the rows that wait; what is computed then is of all rows that came.

        Raises:
            RuntimeError: if some were lost when they were added.
        """
        if self._lost:
            raise RuntimeError("rows were lost when they were added; begin anew with reset()")
        self.catch_up()

    def votes_on(self, others: Sequence[Streaming], ranks: Ranks | None = None) -> None:
        """Until ``reset``, every labelled row that comes votes on the kept rows of other metrics.

        Call it when all of their rows have come, and before those of this one. Their ``window(reference=…)`` then votes
        from all rows of this one, not only from those in its bank. With several processes, all of them must call it.

        Args:
            others: metrics of the same dimension. They get no further rows.
            ranks: the processes to merge with; None: as ``window``.

        Raises:
            ConfigurationError: if the number of classes is not known.
            RankFailure: on all ranks, if one of them failed.
        """
        if self.num_classes is None:
            raise ConfigurationError("a vote of all rows needs the number of classes: give num_classes=…")
        if self._begun or self._waiting.batches:
            raise ConfigurationError("votes_on() comes before the rows that vote: call reset() and begin anew")
        ranks = ranks or self._ranks()
        with torch.inference_mode(False), torch.no_grad():
            found = [other._voted_on(ranks) for other in others]
            queries = [rows for rows in found if rows is not None]
            if queries:
                k = max(self.neighbors.knn_k, LEAST_NEAR)
                self._made["voters"] = VoterAccumulator(queries, k, self.num_classes, queries[0].device)

    def _voted_on(self, ranks: Ranks) -> Tensor | None:
        """(n, d) the rows of all ranks that are voted on, L2-normalised; None: no row has come, or none is kept."""
        bank = (self.across(ranks) if ranks.several else self).bank
        if bank is None:
            return None
        kept = bank.compute()
        return kept.unit(kept.can_vote)

    @property
    def reads_votes(self) -> bool:
        """Whether any signal reads a vote of neighbours; False before the first batch."""
        return any(BY_VOTE & set(CATALOG[name].needs) for name in self.signals or ())

    @property
    def reads_views(self) -> bool:
        """Whether any signal reads views beyond the first; False before the first batch."""
        return self._reads_views

    @property
    @abstractmethod
    def policy(self) -> Policy:
        """What its owner has decided."""

    @property
    @abstractmethod
    def head(self) -> torch.nn.Module | None:
        """The classifier."""

    @abstractmethod
    def _ranks(self) -> Ranks:
        """The processes whose rows belong together."""

    @property
    def _not_paired(self) -> dict[str, Gap]:
        """Signals asked for by name that pair windows, where nobody can tell which samples are the same."""
        asked = () if self.policy.keeps_samples else sorted(self._named)
        return {name: Gap(GapKind.NOT_PAIRED, NOT_PAIRED) for name in asked if "earlier" in CATALOG[name].requires}

    def _build(self, rows: Rows, present: frozenset[str]) -> None:
        here = set(present)
        here |= {"classes"} if self.num_classes else set()
        here |= {"reference"} if self.has_reference else set()
        here |= {"earlier"} if self.policy.keeps_samples else set()
        here |= {"layers"} if self.policy.several_layers else set()
        here |= {"best"} if self.policy.knows_best else set()
        here |= {"places"} if not len(rows) or bool(rows.position.any()) else set()
        here |= {"anchor"} if self.policy.has_anchor else set()
        missing = INPUTS - here
        asked = self.signals
        if asked is None:
            unknown = "labels" in here and "classes" not in here and rows.label.numel() > 0
            largest = int(rows.label.max()) if unknown else None
            name, why = choose_preset(missing, "tokens" in present, self.head is not None, largest)
            also = tuple(one for one in self.policy.also if one not in PRESETS[name])
            asked, self.preset, self._named = (*PRESETS[name], *also), f"{name}: {why}", self._named | set(also)
        tolerated = self.policy.tolerated or frozenset()
        try:
            self.signals, self.left_out = choose_signals(asked, self._named, missing, tolerated)
        except ConfigurationError:
            if not self.policy.lenient:
                raise
            self.signals, self.left_out = choose_signals(asked, frozenset(), missing, tolerated)
            self.impossible = {
                name: Gap(GapKind.NO_INPUT, why) for name, why in self.left_out.items() if name in self._named
            }
        x = rows.features
        shape = Shape(x.shape[1], self.num_classes or 0, rows.target.shape[1], x.dtype, rows.target.dtype)
        capacity = bank_capacity(self.neighbors.bank_size, shape.dim, x.element_size())
        few = self.spectrum_limit = spectrum_limit(self.spectrum_rows, shape.dim)
        self._made.update(
            build_accumulators(self.signals, self.serve, shape, capacity, self.neighbors.seed, x.device, few)
        )
        bank = self._bank_as_is
        if bank is not None:
            bank.parts_repeats = self.policy.by_id
        self._reads_views, self._target_width = "views" in self._made, None if bank is None else bank.targets.shape[1]
        self.dim = shape.dim
        self._counters = {n: torch.zeros((), dtype=torch.int64, device=x.device) for n in _COUNTERS}

    def _accumulate(self, rows: Rows) -> None:
        first, chooses = rows.keep & (rows.view == 0), rows
        finite = may_choose = can_choose(rows.features) if "codes" in self._made else None
        if finite is None or len(self._made) > 1:
            finite = finite_rows(rows.features)
        if may_choose is not None:
            chooses = replace(rows, keep=first & may_choose)
        all_views, rows = replace(rows, keep=rows.keep & finite), replace(rows, keep=first & finite)
        count = self._counters
        count["nonfinite"] += (first & ~finite).sum()
        too_large = rows.keep & (rows.label >= (self.num_classes or math.inf))
        count["seen"] += rows.keep.sum()
        count["out_of_range"] += too_large.sum()
        count["labelled"] += (rows.keep & (rows.label >= 0) & ~too_large).sum()
        count["largest_label"] = torch.maximum(count["largest_label"], torch.where(rows.keep, rows.label, -1).max())
        for name, accumulator in self._made.items():
            if isinstance(accumulator, Accumulator):
                fed = all_views if name == "views" else chooses if name == "codes" else rows
                accumulator.update(fed if fed.features.device == accumulator.device else fed.to(accumulator.device))
