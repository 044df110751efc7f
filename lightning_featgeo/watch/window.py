"""A window: what one stage and one loader accumulate between opening and closing, for each watched layer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lightning_featgeo.distributed.ranks import RankFailure, Ranks
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics import GeometryMetric, WindowResult
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL, PRESETS
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.guard import repeats_note
from lightning_featgeo.watch.sample_ids import Identities
from lightning_featgeo.watch.samplers import Shard

if TYPE_CHECKING:
    from lightning_featgeo.callbacks.checkpointing import Saved


SPECTRUM_POINTS = 48  # eigenvalues that the history keeps of a window


def thin_spectrum(eigenvalues: Tensor | None) -> list[list[float]]:
    """(rank, eigenvalue) pairs at ranks that are even on a logarithmic axis."""
    if eigenvalues is None or not len(eigenvalues):
        return []
    n = len(eigenvalues)
    ranks = dict.fromkeys(round(n ** (i / (SPECTRUM_POINTS - 1))) for i in range(SPECTRUM_POINTS))
    values = eigenvalues.clamp(min=0).tolist()
    return [[float(rank), float(f"{values[rank - 1]:.5g}")] for rank in ranks]


@dataclass
class Watched:
    """One layer's share of a window: how its rows are put together, and what they are streamed into."""

    layer: str | None
    assembler: RowAssembler
    metric: GeometryMetric
    failed: str | None = None
    saved: Saved | None = None  # what the rows must be like to go on with a checkpoint's curves
    path: str = ""
    positions: bool = False  # whether samples are numbered by their positions in the data set

    @property
    def facts(self) -> dict[str, Any]:
        """What its numbers are of: those of two runs can be compared where this is the same."""
        made, metric = self.assembler, self.metric
        found = {
            "layer": self.path,
            "dim": metric.dim,
            "k": metric.k,
            "knn_vote_k": metric.knn_vote_k,
            "bank_size": metric.bank_rows,
            "pool": made.chosen_pool or made.pool,
            "views": made.views if isinstance(made.views, (int, str)) or made.views is None else "callable",
        }
        if made.chosen_pool == "tokens":
            found["tokens_per_sequence"] = made.tokens_per_sequence
        if made.chosen_pool in ("tokens", "mean", "last"):
            found["skip_tokens"] = made.skip_tokens
        return found

    def result(
        self,
        reference: GeometryMetric | None = None,
        no_reference: str = "",
        ranks: Ranks | None = None,
        last: bool = True,
        if_empty: str | None = None,
    ) -> WindowResult:
        """Its numbers, or gaps if it failed on any rank. Before "auto" has seen a batch, the gaps are the preset's.

        Args:
            reference, no_reference, ranks, last: see ``GeometryMetric.window``.
            if_empty: the reason where no rank has seen features.
        """
        ranks = ranks or Ranks.alone()
        if self.failed is not None and not ranks.several:
            return self._gaps(self.failed)
        try:
            result = self.metric.window(reference, no_reference, ranks, last, self.failed)
        except RankFailure as failure:
            self.failed = str(failure)
            return self._gaps(self.failed)
        if self.metric.dim is None and result.values.get(COUNT_SIGNAL) == 0 and if_empty is not None:
            self.failed = if_empty
            return self._gaps(if_empty)
        return result

    def _gaps(self, reason: str) -> WindowResult:
        preset = PRESETS["classifier" if self.metric.num_classes else "self_supervised"]
        plain = tuple(name for name in preset if not CATALOG[name].requires & {"views"})  # nobody knows of views yet
        names = plain if self.metric.signals is None else self.metric.signals
        return WindowResult({}, {}, dict.fromkeys(names, reason), {}, {})


class Shown(NamedTuple):
    """A closed window of one layer: its record, and on rank 0 what can be shown of it.

    ``curves``: tensors by name (see ``metrics.evaluation``, ``metrics.details``). ``ids``: the user's names of samples,
    by number. ``positions``: whether a sample's number is its position in the data set.
    """

    record: Record
    curves: Mapping[str, Tensor]
    ids: Mapping[int, str]
    positions: bool


@dataclass
class Window:
    """Opened, fed batch by batch, closed into records. ``failed`` says why it became a gap."""

    name: str
    watched: list[Watched]
    started: float = field(default_factory=time.perf_counter)
    start_step: int = 0
    seconds: float = 0.0
    samples: int = 0
    batches: int = 0
    repeats: int = 0
    failed: str | None = None
    serves: bool = False  # as others' reference: its rows are needed after it is closed
    shard: Shard | None = None
    identities: Identities | None = None

    def open(self, step: int) -> None:
        """Forget everything and start the clocks."""
        for part in self.watched:
            part.metric.reset()
            part.failed = None
        if self.identities is not None:
            self.identities.clear()
        self.started, self.start_step = time.perf_counter(), step
        self.seconds, self.samples, self.batches, self.repeats, self.failed = 0.0, 0, 0, 0, None

    def add(self, caught: list[list[Tensor]], batch: Any) -> int:
        """Stream one batch: for each layer, one tensor a forward call. Returns its samples."""
        size, shard = 0, self.shard or Shard(Ranks.alone())
        for part, calls in zip(self.watched, caught, strict=True):
            if not calls:
                continue
            made = part.assembler.assemble(calls, batch, self.samples, shard.ranks, shard.fresh)
            size = max(size, made.samples)
            for piece in made.parts:
                if part.saved is not None:
                    part.saved.check([], [piece.rows.features.shape[1]], part.saved.classes)
                part.metric.tokens = part.assembler.chosen_pool == "tokens"
                if piece.may_hold_first_view or part.metric.reads_views:
                    part.metric.update_rows(piece.rows, made.present)
        if self.identities is not None and size:
            self.identities.add(batch, self.samples, size, shard.ranks, [part.metric for part in self.watched])
        self.samples += size
        fresh = shard.fresh(size)
        self.repeats += 0 if fresh is None else max(0, size - fresh)
        self.batches += 1
        return size

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time inside as the monitor's own."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin

    def close(
        self,
        number: int,
        epoch: float,
        step: int,
        reference: Window | None = None,
        reference_name: str | None = None,
        ranks: Ranks | None = None,
        empty: Sequence[str] = (),
    ) -> list[Shown]:
        """A record for each layer, the same on every rank, with curves on rank 0. A failed one is all gaps.

        Args:
            number, epoch, step: of this window.
            reference: the window it is compared with, in whatever state that one is now.
            reference_name: what that one is called; None: nothing is compared.
            ranks: the processes to merge with; None: this one alone.
            empty: for each layer, the reason where no rank has caught anything.
        """
        ranks = ranks or Ranks.alone()
        begin = time.perf_counter()
        for part in self.watched:
            part.failed = self.failed or part.failed
        others, why_not = self._compared_with(reference, reference_name, ranks)
        last = reference is not self and not self.serves
        reasons: list[str | None] = [*empty] if empty else [None] * len(self.watched)
        results = [
            part.result(other, why_not, ranks, last, reason)
            for part, other, reason in zip(self.watched, others, reasons, strict=True)
        ]
        counts = self._counts(ranks)
        ids = [self._ids(result.curves, ranks) for result in results]
        now = time.perf_counter()
        seconds, elapsed = ranks.share((self.seconds + now - begin, max(now - self.started, 1e-9)))
        return [
            Shown(
                Record(
                    window=number,
                    stage=self.name,
                    layer=part.layer,
                    epoch=epoch,
                    step=step,
                    values=dict(result.values),
                    standard_errors=dict(result.standard_errors),
                    gaps=dict(result.gaps),
                    ceilings=dict(result.ceilings),
                    counts={**result.counts, **counts},
                    seconds=seconds,
                    share=min(1.0, seconds / elapsed),
                    notes=[*result.notes, *filter(None, [repeats_note(counts.get("repeated"))])],
                    reference=reference_name,
                    facts=part.facts,
                    spectrum=thin_spectrum(result.curves.get("eigenvalues")),
                ),
                result.curves,
                known,
                part.positions,
            )
            for part, result, known in zip(self.watched, results, ids, strict=True)
        ]

    def _ids(self, curves: Mapping[str, Tensor], ranks: Ranks) -> Mapping[int, str]:
        """The user's names of the samples in the curves."""
        if self.identities is None:
            return {}
        asked = [curves[name] for name in ("low_samples", "shown_samples") if name in curves]
        return self.identities.of(torch.cat(asked) if asked else None, ranks)

    def _counts(self, ranks: Ranks) -> dict[str, int]:
        """Batches of all ranks; and samples that came twice: ``padded`` were left out, of ``repeated`` nobody knows."""
        shard = self.shard or Shard(ranks)
        mine = (self.batches, self.repeats, self.samples), shard.droppable, shard.repeats, shard.length
        heard = ranks.gather(mine)
        batches, dropped, samples = map(sum, zip(*(each[0] for each in heard), strict=True))
        counts = {"batches": batches, "padded": dropped, "repeated": 0}
        if not all(each[1] for each in heard):
            bounds, lengths = {each[2] for each in heard}, {each[3] for each in heard}
            if bounds == {shard.repeats} and shard.repeats is not None:
                counts["repeated"] = shard.repeats
            elif lengths == {None}:
                counts["repeated"] = samples
            elif lengths == {shard.length} and shard.length is not None:  # else each rank has a data set of its own
                counts["repeated"] = max(0, samples - shard.length)
        return {name: count for name, count in counts.items() if count or name == "batches"}

    def _compared_with(
        self, reference: Window | None, name: str | None, ranks: Ranks
    ) -> tuple[list[GeometryMetric | None], str]:
        """The reference's metric for each layer, and why there is none where there is none: the same on all ranks."""
        reason = None
        if reference is None or len(reference.watched) != len(self.watched) or reference.failed is not None:
            failed = reference.failed if reference is not None else None
            reason = f"the reference {name!r} " + (f"is a gap: {failed}" if failed else "has not run")
        reason = next((told for told in ranks.gather(reason) if told is not None), None)
        if reason is not None or reference is None:
            return [None] * len(self.watched), reason or ""
        return [part.metric for part in reference.watched], f"the reference {name!r} has seen no rows"
