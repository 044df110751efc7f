"""A window: what one stage and one loader accumulate between opening and closing, for each watched layer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning_featgeo.assembly import RowAssembler
from lightning_featgeo.history import Record
from lightning_featgeo.metrics import GeometryMetric, WindowResult
from lightning_featgeo.metrics.catalog import PRESETS
from lightning_featgeo.types import Tensor


@dataclass
class Watched:
    """One layer's share of a window: how its rows are put together, and what they are streamed into."""

    layer: str | None
    assembler: RowAssembler
    metric: GeometryMetric
    failed: str | None = None

    def result(self, reference: GeometryMetric | None = None, no_reference: str = "") -> WindowResult:
        """Its numbers, or gaps if it failed. Before "auto" has seen a batch, the gaps are those of the preset."""
        if self.failed is None:
            return self.metric.window(reference, no_reference)
        preset = PRESETS["classifier" if self.metric.num_classes else "unlabelled"]
        names = preset if self.metric.signals is None else self.metric.signals
        return WindowResult({}, {}, dict.fromkeys(names, self.failed), {}, {})


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
    failed: str | None = None

    def open(self, step: int) -> None:
        """Forget everything and start the clocks."""
        for part in self.watched:
            part.metric.reset()
            part.failed = None
        self.started, self.start_step = time.perf_counter(), step
        self.seconds, self.samples, self.batches, self.failed = 0.0, 0, 0, None

    def add(self, caught: list[list[Tensor]], batch: Any) -> None:
        """Stream one batch: for each layer, one tensor a forward call."""
        size = 0
        for part, calls in zip(self.watched, caught, strict=True):
            if not calls:
                continue
            made = part.assembler.assemble(calls, batch, self.samples)
            size = max(size, made.samples)
            for piece in made.parts:
                if piece.may_hold_first_view or part.metric.reads_views:
                    part.metric.update_rows(piece.rows, made.present)
        self.samples += size
        self.batches += 1

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time inside as the monitor's own."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin

    def close(
        self, number: int, epoch: float, step: int, reference: Window | None = None, reference_name: str | None = None
    ) -> list[tuple[Record, Mapping[str, Tensor]]]:
        """A record and its curves for each layer. A failed window is all gaps.

        Args:
            number, epoch, step: of this window.
            reference: the window it is compared with, in whatever state that one is now.
            reference_name: what that one is called; None: nothing is compared.
        """
        begin = time.perf_counter()
        for part in self.watched:
            part.failed = self.failed or part.failed
        others, why_not = self._compared_with(reference, reference_name)
        results = [part.result(other, why_not) for part, other in zip(self.watched, others, strict=True)]
        now = time.perf_counter()
        seconds, elapsed = self.seconds + now - begin, max(now - self.started, 1e-9)
        return [
            (
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
                    counts={**result.counts, "batches": self.batches},
                    seconds=seconds,
                    share=min(1.0, seconds / elapsed),
                    notes=list(result.notes),
                    reference=reference_name,
                ),
                result.curves,
            )
            for part, result in zip(self.watched, results, strict=True)
        ]

    def _compared_with(self, reference: Window | None, name: str | None) -> tuple[list[GeometryMetric | None], str]:
        """The reference's metric for each layer, and why there is none where there is none."""
        if reference is None or len(reference.watched) != len(self.watched) or reference.failed is not None:
            failed = reference.failed if reference is not None else None
            reason = f"the reference {name!r} " + (f"is a gap: {failed}" if failed else "has not run")
            return [None] * len(self.watched), reason
        return [part.metric for part in reference.watched], f"the reference {name!r} has seen no rows"
