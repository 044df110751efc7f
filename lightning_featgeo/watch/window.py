"""A window: what is accumulated between opening and closing, for each watched layer, and what comes of it.

A *window* is a validation run, a training epoch, or every n training steps. It is opened, fed batch by batch, and
closed into one :class:`~lightning_featgeo.history.Record` a layer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import Gap, Note, NoteKind
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.results import WindowResult
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.draw import hash_of
from lightning_featgeo.rows.words import is_known
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.anchors import Anchor
from lightning_featgeo.watch.between_layers import RowsOfLayers
from lightning_featgeo.watch.plan import ClosedWindow, Compared, Report, WindowPlan
from lightning_featgeo.watch.reasons import did_not_run
from lightning_featgeo.watch.sample_ids import SampleIds
from lightning_featgeo.watch.samplers import Shard
from lightning_featgeo.watch.watched_layer import WatchedLayer, kept_curves


@dataclass
class Window:
    """Opened, fed batch by batch, closed into records. ``failed`` says why it became a gap."""

    plan: WindowPlan
    layers: list[WatchedLayer] = field(default_factory=list)
    ids: SampleIds | None = None
    shard: Shard | None = None
    anchor: Anchor | None = None
    positions: Tensor | None = None  # of the next batch's samples, where other ranks read the batches between
    started: float = field(default_factory=time.perf_counter)
    start_step: int = 0
    moment: int = 0  # of the run, as it was opened
    seconds: float = 0.0
    samples: int = 0
    batches: int = 0
    repeats: int = 0
    failed: Gap | None = None
    is_outdated: bool = False  # what is watched has changed since its layers were made

    def open(self, step: int) -> None:
        """Forget everything and start the clocks."""
        if self.is_outdated:
            self.layers, self.is_outdated = [], False
        for part in self.layers:
            part.metric.reset()
            part.failed = None
        if self.ids is not None:
            self.ids.clear()
        if self.anchor is not None:
            self.anchor.open(self.plan)
        self.started, self.start_step = time.perf_counter(), step
        self.seconds, self.samples, self.batches, self.repeats, self.failed = 0.0, 0, 0, 0, None

    def fail(self, gap: Gap) -> None:
        """From now on this window is a gap."""
        self.failed = gap

    @property
    def signals(self) -> tuple[str, ...]:
        """The chosen signals, from a layer that has seen rows."""
        return next((part.metric.signals for part in self.layers if part.metric.signals), ())

    def add(self, caught: list[list[Call]], batch: Any, ranks: Ranks) -> None:
        """Stream one batch: for each layer, one tensor a forward call."""
        by_id = self.ids is not None and self.plan.pairs_by_id
        size, numbers = 0, self.ids.numbers(batch) if self.ids is not None and by_id else self.positions
        for part, calls in zip(self.layers, caught, strict=True):
            if calls:
                size = max(size, part.add(calls, batch, self.samples, ranks, self.shard, numbers))
        if self.ids is not None and size:
            self.ids.add(batch, self.samples, size, ranks, [part.metric for part in self.layers], numbers)
        if self.anchor is not None and size:
            fresh = None if self.shard is None else self.shard.fresh(size)
            self.anchor.add(self.samples, size, ranks, fresh, numbers, [part.metric for part in self.layers])
        self.samples += size
        self.batches += 1
        if self.shard is not None:
            self.repeats += self.shard.advance(size)

    def takes(self, batch: str) -> bool:
        """Whether a batch of that name is watched: all are, or the first and one in ``every_n_batches``.

        A hash of the name chooses: no period of the loader, the same batches on every rank and in every run.
        """
        n = self.plan.every_n_batches
        return n == 1 or not self.batches or hash_of(batch) % n == 0

    def pass_over(self, samples: int) -> None:
        """A batch is left out on purpose: samples behind it keep their numbers."""
        self.samples += samples
        if self.shard is not None:
            self.shard.advance(samples)

    def note(self, text: str) -> None:
        """Say something of the rows of all layers, once."""
        for part in self.layers:
            part.assembler.notes[text] = None

    def doubt(self, knows: bool) -> bool:
        """Whether rows are known to be their samples'; said where they are not, and the run has said so (``knows``)."""
        doubtful = [part.assembler for part in self.layers if not is_known(part.assembler.evidence.summary)]
        for made in doubtful if knows else ():
            made.notes[f"rows of {self.plan.name} are {made.evidence.summary}"] = None
        return not doubtful

    def catch_up(self) -> None:
        """Add the rows that wait."""
        for part in self.layers:
            part.metric.catch_up()

    # --- closing ---------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """What other ranks must know."""
        shard = self.shard
        drops, bound, length = (False, 0, None) if shard is None else (shard.droppable, shard.repeats, shard.length)
        needed = self.layers[0].needed if self.layers else None
        return Report(
            self.batches, self.repeats, self.samples, self.failed, bool(self.layers), drops, bound, length, needed
        )  # fmt: skip

    def close(
        self,
        number: int,
        epoch: float,
        step: int,
        ranks: Ranks,
        reports: Sequence[Report],
        reference: Compared | Window,
        ran_instead: Sequence[str] = (),
    ) -> list[ClosedWindow]:
        """A record for each layer, the same on every rank, with curves on rank 0. A failed one is all gaps.

        Args:
            number, epoch, step: of this window.
            ranks: the processes to merge with.
            reports: of every rank.
            reference: the window that it is compared with, or why there is none.
            ran_instead: modules that the step called while nothing watched ran.
        """
        begin = time.perf_counter()
        self._hear(reports)
        others = [reference] * len(self.layers) if isinstance(reference, Compared) else _compared(self, reference)
        last = reference is not self and not self.plan.serves
        no_batch = None if any(told.batches for told in reports) else f"no batch arrived in {self.plan.name}"
        alone = len(self.layers) == 1 and self.anchor is None
        results, rows = [], None if alone else RowsOfLayers(self.anchor, ranks)
        for part, other in zip(self.layers, others, strict=True):
            if rows is not None:
                rows.give(part)
            why = no_batch or ("" if part.ran else did_not_run(part.path, self.plan, ran_instead))
            results.append(part.result(other, ranks, last, why))
            if rows is not None:
                rows.take(part)
        results = results if rows is None else rows.compared(results)
        counts = counted(reports)
        ids = [self.ids.of(_shown_samples(result.curves), ranks) if self.ids else {} for result in results]
        seconds = self.seconds + time.perf_counter() - begin
        price = seconds, min(1.0, seconds / max(time.perf_counter() - self.started, 1e-9))
        price = ranks.share(price) if ranks.several else price

        def records() -> list[ClosedWindow]:
            return [
                ClosedWindow(
                    self._record(part, result, number, epoch, step, counts, price),
                    result.curves,
                    names,
                    self.plan.positions,
                    self.signals,
                    self.plan.keeps_samples,
                )
                for part, result, names in zip(self.layers, results, ids, strict=True)
            ]

        # what fails here must fail on all ranks: stoppers and loggers take the same records everywhere
        return ranks.attempt(records) if ranks.several else records()

    def snapshot(self, ranks: Ranks, reports: Sequence[Report]) -> Window:
        """The window as it is now, of all ranks, in memory of its own: rank 0 can close it alone, beside what goes on.

        All ranks must call it.
        """
        self._hear(reports)
        layers = [part.snapshot(ranks) for part in self.layers]
        ids = None if self.ids is None else self.ids.snapshot(ranks)
        return replace(self, layers=layers, ids=ids, shard=None, anchor=None)

    def _hear(self, reports: Sequence[Report]) -> None:
        needed = [told.needed for told in reports if told.needed is not None]
        for part in self.layers:
            part.failed, part.needed = self.failed or part.failed, min(needed, default=None)  # each saw its own loss

    def _record(
        self, part: WatchedLayer, result: WindowResult, number: int, epoch: float, step: int, counts: Mapping[str, int],
        price: tuple[float, float],
    ) -> Record:  # fmt: skip
        return Record(
            window=number,
            stage=self.plan.name,
            layer=part.name,
            epoch=epoch,
            step=step,
            values=dict(result.values),
            standard_errors=dict(result.standard_errors),
            gaps=dict(result.gaps),
            ceilings=dict(result.ceilings),
            counts={**result.counts, **counts},
            seconds=price[0],
            share=price[1],
            notes=[*result.notes, *repeats_note(counts.get("repeated")), *part.new_notes()],
            reference=self.plan.reference,
            facts=part.facts,
            **kept_curves(result.curves, number),
        )


def counted(reports: Sequence[Report]) -> dict[str, int]:
    """Batches of all ranks; and samples that came twice: ``padded`` were left out, of ``repeated`` nobody knows."""
    counts = {"batches": sum(told.batches for told in reports), "padded": sum(told.repeats for told in reports)}
    if not all(told.drops_repeats for told in reports) and len(reports) > 1:
        bounds, lengths = {told.bound for told in reports}, {told.length for told in reports}
        samples, bound, length = sum(told.samples for told in reports), reports[0].bound, reports[0].length
        if bounds == {bound} and bound is not None:
            counts["repeated"] = bound
        elif lengths == {None}:
            counts["repeated"] = samples
        elif lengths == {length} and length is not None:  # else each rank has a data set of its own
            counts["repeated"] = max(0, samples - length)
    return {name: count for name, count in counts.items() if count or name == "batches"}


def repeats_note(repeated: int | None) -> list[Note]:
    """What to say of samples that may have come twice."""
    if not repeated:
        return []
    return [
        Note(
            NoteKind.REPEATS,
            f"up to {repeated} samples may have been counted twice: this loader's sampler is not one that is known to "
            "repeat samples only at its end (torch's DistributedSampler, read in order)",
        )
    ]


def _compared(window: Window, reference: Window) -> list[Compared]:
    why_not = f"the reference {window.plan.reference!r} has seen no rows"
    return [Compared(part.metric, why_not) for part in reference.layers]


def _shown_samples(curves: Mapping[str, Tensor]) -> Tensor | None:
    asked = [curves[name] for name in ("low_samples", "suspect_samples", "shown_samples") if name in curves]
    return torch.cat(asked) if asked else None


def key_of(window: Window) -> tuple[str, int]:
    """Names may be the same in two stages; this is not."""
    return window.plan.stage, window.plan.number


def compared_with(
    window: Window, reference: Window | None, told: Mapping[tuple[str, int], list[Report]]
) -> Compared | Window:
    """The window's reference, or why there is none: the same on all ranks.

    One that ran before the window was opened, but for training itself, is of other weights.
    """
    name = window.plan.reference
    if name is None:
        return Compared()
    reports = told.get(key_of(reference), []) if reference is not None else []
    failed = [report.failed for report in reports if report.failed is not None]
    if failed:
        return Compared(why_not=f"the reference {name!r} is a gap: {failed[0]}")
    if reference is None or len(reference.layers) != len(window.layers):
        return Compared(why_not=f"the reference {name!r} has not run")
    if reference.plan.stage != "train" and reference.moment < window.moment:
        return Compared(why_not=f"the reference {name!r} ran before this window began, and weights have changed since")
    return reference
