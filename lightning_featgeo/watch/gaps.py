"""What is recorded of a window that failed: a gap for every signal, on every rank."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.record import Record
from lightning_featgeo.watch.plan import ClosedWindow
from lightning_featgeo.watch.window import Window


def closed_as_gap(
    window: Window, number: int, epoch: float, step: int, counts: dict[str, int], settled: Sequence[str]
) -> list[ClosedWindow]:
    """A record of nothing but gaps for each layer, made by this rank alone: all of them know that it failed.

    Args:
        window: that failed.
        number, epoch, step: of it.
        counts: of all ranks, as far as they are known.
        settled: signals that were asked for, in case the layers could not be made.
    """
    plan = window.plan
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
            counts=counts,
            seconds=window.seconds,
            reference=plan.reference,
            facts=facts,
        )
        closed.append(ClosedWindow(record, {}, {}, plan.positions, signals))
    return closed
