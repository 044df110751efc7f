"""Windows of given values, and what a detector makes of them."""

from lightning_featgeo.alarms import (
    Detector,
)
from lightning_featgeo.alarms.kinds import of_signal
from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.record import Record

EMPTY = Gap(GapKind.UNDEFINED, "every row is the same")


def windows(
    stage: str = "val", layer: str | None = None, start: int = 0, **signals: list[float | None]
) -> list[Record]:
    length = len(next(iter(signals.values())))
    return [
        Record(
            start + i, stage, layer, float(start + i + 1), 10 * (start + i + 1),
            {"n_samples": 500.0, **{name: v for name, values in signals.items() if (v := values[i]) is not None}},
            gaps={name: EMPTY for name, values in signals.items() if values[i] is None},
        )
        for i in range(length)
    ]  # fmt: skip


def watch(*rules, patience: int = 2, **options) -> Detector:
    return Detector(of_signal("feature_std", list(rules), patience), **options)
