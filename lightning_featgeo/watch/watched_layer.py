"""One layer's share of a window: how its rows are put together, and what they are streamed into."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_featgeo.distributed.ranks import RankFailure, Ranks
from lightning_featgeo.errors import Gap, GapKind, Note, NoteKind
from lightning_featgeo.history import sketches
from lightning_featgeo.history.layouts import is_due
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL, PRESETS
from lightning_featgeo.metrics.functional.votes import VOTE_TEMPERATURE
from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.metrics.results import WindowResult
from lightning_featgeo.metrics.snapshot import snapshot
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.plan import Compared
from lightning_featgeo.watch.samplers import Shard

SPECTRUM_POINTS = 48  # eigenvalues that the history keeps of a window

FROZEN = (
    "no weight before this layer is being trained (a frozen backbone): its features move by statistics of "
    "normalisation layers at most"
)


@dataclass
class WatchedLayer:
    """One layer's share of a window: how its rows are put together, and what they are streamed into.

    Args:
        name: in the logged names; None for the first layer.
        path: of the module.
        assembler: makes rows of what was caught.
        metric: takes them.
        check: refuses rows of a dimension that the run can't go on with; asked before the first ones.
        needed: directions that the head's outputs can need, if that is known.
        every_n_batches: of a window's batches, one in so many is watched.
        failed: why this layer is a gap.
        noted: what the notes of earlier windows have said.
        frozen: whether no weight before it is being trained.
        ran: whether anything of it was caught since the last result.
    """

    name: str | None
    path: str
    assembler: RowAssembler
    metric: GeometryMetric
    check: Callable[[int], None] | None = None
    needed: int | None = None
    every_n_batches: int = 1
    failed: Gap | None = None
    noted: set[str] = field(default_factory=set)
    frozen: bool = False
    ran: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What its numbers are of: those of two runs can be compared where this is the same."""
        made, metric = self.assembler, self.metric
        found: dict[str, Any] = {
            "layer": self.path,
            "dim": metric.dim,
            "k": metric.neighbors.k,
            "knn_vote_k": metric.neighbors.knn_k,
            "bank_size": metric.bank_size or 0,
            "pool": made.chosen_pool or made.pool,
            "every_n_batches": self.every_n_batches,
            "views": made.views if isinstance(made.views, (int, str)) or made.views is None else "callable",
        }
        if metric.neighbors.knn_t != VOTE_TEMPERATURE:
            found["knn_t"] = metric.neighbors.knn_t
        if metric.neighbors.reference_rows != "bank":
            found["reference_rows"] = metric.neighbors.reference_rows
        if metric.dim is not None:
            found["spectrum_rows"] = metric.spectrum_limit or "all"
        if self.needed is not None:
            found["needed_directions"] = self.needed
        if made.chosen_pool == "tokens":
            found["tokens_per_sequence"] = made.tokens.per_sequence
        if made.chosen_pool in ("tokens", "mean", "last"):
            found["skip_tokens"] = made.tokens.skip
        return found

    def new_notes(self) -> list[Note]:
        """What was assumed of the rows since the last window, and whether other evidence holds now."""
        made = self.assembler
        notes = [Note(NoteKind.ROWS, text) for text in made.notes if text not in self.noted]
        self.noted.update(made.notes)
        if made.evidence.changed and made.evidence.changed not in self.noted:
            self.noted.add(made.evidence.changed)
            told = f"rows were {made.evidence.summary}, and in some batches now: {made.evidence.changed}"
            notes.append(Note(NoteKind.EVIDENCE, told))
        if self.frozen:
            notes.append(Note(NoteKind.FROZEN, FROZEN))
        return notes

    def add(
        self, calls: list[Call], batch: Any, first_sample: int, ranks: Ranks, shard: Shard | None,
        ids: Tensor | None = None,
    ) -> int:  # fmt: skip
        """Stream one batch, one tensor a forward call; returns its samples."""
        self.ran, fresh = True, None if shard is None else shard.fresh
        made = self.assembler.assemble(calls, batch, first_sample, ranks, fresh, ids)
        for piece in made.parts:
            if self.check is not None and self.metric.dim is None:
                self.check(piece.given.features.shape[1])
            if piece.may_hold_first_view or self.metric.reads_views:
                self.metric.update_rows(piece.given, made.present)
        return made.samples

    def snapshot(self, ranks: Ranks) -> WatchedLayer:
        """This layer's share of the window as it is now, in memory of its own; all ranks must call it."""
        made = copy.copy(self.assembler)
        made.notes, made.evidence = dict(made.notes), copy.copy(made.evidence)
        failed, metric = self.failed, self.metric
        try:
            if failed is None or ranks.several:
                metric = snapshot(self.metric, ranks, self.failed)
        except RankFailure as failure:
            failed = failure.gap
        copied = replace(self, assembler=made, metric=metric, failed=failed, noted=set(self.noted))
        self.new_notes()  # the copy will say them
        self.ran = False
        return copied

    def result(self, compared: Compared, ranks: Ranks, last: bool, if_empty: str) -> WindowResult:
        """Its numbers, or gaps if it failed on any rank.

        Args:
            compared: the reference's metric, and why there is none.
            ranks: the processes to merge with.
            last: see ``GeometryMetric.window``.
            if_empty: the reason where no rank has seen features.
        """
        ran, self.ran = self.ran, False
        self.metric.unlabelled = self.assembler.unlabelled
        if self.failed is not None and not ranks.several:
            return self._all_gaps(self.failed)
        try:
            result = self.metric.window(compared.metric, compared.why_not, ranks, last, self.failed)
        except RankFailure as failure:
            self.failed = failure.gap
            return self._all_gaps(self.failed)
        if not ran and result.values.get(COUNT_SIGNAL) == 0:
            self.failed = Gap(GapKind.NO_ROWS, if_empty)
            return self._all_gaps(self.failed)
        return result

    def _all_gaps(self, gap: Gap) -> WindowResult:
        """Every signal has the same reason; before "auto" has seen a batch, those of the usual preset."""
        preset = PRESETS["classifier" if self.metric.num_classes else "self_supervised"]
        plain = tuple(name for name in preset if not CATALOG[name].requires & {"views"})  # nobody knows of views yet
        names = plain if self.metric.signals is None else self.metric.signals
        return WindowResult({}, {}, dict.fromkeys(names, gap), {}, {})


def kept_curves(curves: Mapping[str, Tensor], window: int) -> dict[str, Any]:
    """Fields of a record, by name.

    Args:
        curves: of a window.
        window: its number; later on, not each one has all of them.
    """
    return {
        "spectrum": thin_spectrum(curves.get("eigenvalues")),
        "layer_cka": shown_matrix(curves, window) if "layer_cka_matrix" in curves else [],
        "sketch": sketches.packed(curves["sketch"]) if "sketch" in curves and is_due(window) else "",
    }


def thin_spectrum(eigenvalues: Tensor | None) -> list[list[float]]:
    """(rank, eigenvalue) pairs at ranks that are even on a logarithmic axis."""
    if eigenvalues is None or not len(eigenvalues):
        return []
    n = len(eigenvalues)
    ranks = dict.fromkeys(round(n ** (i / (SPECTRUM_POINTS - 1))) for i in range(SPECTRUM_POINTS))
    values = eigenvalues.clamp(min=0).tolist()
    return [[float(rank), float(f"{values[rank - 1]:.5g}")] for rank in ranks]


def shown_matrix(curves: Mapping[str, Tensor], window: int) -> list[list[float | None]]:
    """What the history keeps of how alike layers are: rows of the matrix up to the diagonal, None without a value.

    Args:
        curves: of a window.
        window: its number; later on, not each one is kept.
    """
    rows = curves["layer_cka_matrix"].tolist() if is_due(window) else []
    return [[float(f"{v:.4g}") if math.isfinite(v) else None for v in row[:i]] for i, row in enumerate(rows)]
