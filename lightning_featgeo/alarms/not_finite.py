"""Windows without a finite row: the one failure that leaves no value to judge."""

from __future__ import annotations

from lightning_featgeo.alarms.alarm import Alarm
from lightning_featgeo.alarms.checks import Check, Streak
from lightning_featgeo.alarms.kinds import Kind
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import COUNT_SIGNAL

TITLE = "no finite features"
PATIENCE = 2  # windows
CAUSES = ["a learning rate that is too high", "an overflow in half precision", "a division by zero, or the log of it"]
STEPS = [
    "go on from the checkpoint, with a lower learning rate or with gradients clipped",
    "torch.autograd.set_detect_anomaly(True) names the operation that gives the first NaN",
]


def streak_of(before: Streak, record: Record) -> Streak:
    """In how many windows up to this one all rows were NaN or infinite."""
    if record.counts.get("seen", 0) or not record.counts.get("nonfinite", 0):
        return Streak()
    if not before.held:
        return Streak(1, record.epoch, record.step)
    return Streak(before.held + 1, before.since_epoch, before.since_step)


def build(kind: Kind, prefix: str, streak: Streak, last: Check, record: Record) -> Alarm:
    """The alarm of such windows.

    Args:
        kind, prefix: what was looked for, and what the logged names start with.
        streak: since when.
        last: the last check with a value.
        record: the window now.
    """
    return Alarm(
        kind=kind.name,
        title=TITLE,
        name=prefix + COUNT_SIGNAL,
        rule="all rows are NaN or infinite",
        epoch=record.epoch,
        step=record.step,
        since_epoch=streak.since_epoch,
        since_step=streak.since_step,
        checks=streak.held,
        old_epoch=last.epoch,
        old=last.rows,
        new=0.0,
        text=f"fell to 0: all {record.counts['nonfinite']:,} rows are NaN or infinite",
        limit="no finite row",
        source="a fact, no limit",
        noise=0.0,
        causes=list(CAUSES),
        steps=list(STEPS),
    )
