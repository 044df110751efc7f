"""What is recorded of a window that failed: a gap for every signal, on every rank."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import PRESETS
from lightning_featgeo.watch.plan import ClosedWindow, Report
from lightning_featgeo.watch.settings import WatchSettings
from lightning_featgeo.watch.window import Window, counted


def closed_as_gap(
    window: Window, number: int, epoch: float, step: int, reports: Sequence[Report] | None, settings: WatchSettings
) -> list[ClosedWindow]:
    """A record of nothing but gaps for each layer, made by this rank alone: all of them know that it failed.

    Args:
        window: that failed.
        number, epoch, step: of it.
        reports: of all ranks, as far as they are known.
        settings: what was asked for, in case the layers could not be made.
    """
    plan, settled = window.plan, settings.asked or PRESETS["self_supervised"]
    gap = window.failed or Gap(GapKind.FAILED, f"{plan.name} could not be closed")
    layers = [(part.name, part.facts, part.metric.signals or tuple(settled)) for part in window.layers]
    closed = []
    for name, facts, signals in layers or [(None, {}, tuple(settled))]:
        record = Record(
            window=number,
            stage=plan.name,
            layer=name,
            epoch=epoch,
            step=step,
            values={},
            gaps=dict.fromkeys(signals, gap),
            counts=counted(reports) if reports else {},
            seconds=window.seconds,
            reference=plan.reference,
            facts=facts,
        )
        closed.append(ClosedWindow(record, {}, {}, plan.positions, signals))
    return closed
