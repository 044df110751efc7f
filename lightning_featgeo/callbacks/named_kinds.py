"""What a stopper is to watch, from what the user named: a kind of alarm, or a logged name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lightning_featgeo.alarms import KINDS, Kind, Rule
from lightning_featgeo.alarms.kinds import of_signal
from lightning_featgeo.alarms.limits import read as read_limits
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics.catalog import CATALOG


def named_kind(
    monitor: str, rule: Rule | Sequence[Rule] | None, stage: str, layer: str | None, limits: str | Path | None
) -> tuple[Kind, str, str | None]:
    """A kind, a stage and a layer from what the user named.

    Raises:
        ConfigurationError: with near misses.
    """
    if monitor in KINDS:
        return KINDS[monitor] if limits is None else read_limits(limits, monitor), stage, layer
    if limits is not None:
        raise ConfigurationError(f"limits= are of a kind of alarm; for {monitor!r}, give rule=Drop(0.3) or another one")
    parts = str(monitor).split("/")
    if parts[0] != "featgeo" or len(parts) not in (3, 4) or parts[-1] not in CATALOG:
        known = [*KINDS, *(f"featgeo/{stage}/{signal}" for signal in CATALOG)]
        raise ConfigurationError(
            f"GeometryEarlyStopping watches kinds ({', '.join(KINDS)}) or geometry names such as "
            f"'featgeo/val/feature_std', got {monitor!r}.{near_misses(monitor, known)} (A signal of your own is known "
            "once a monitor has had it in signals=: build the monitor first.)"
        )
    for part in parts[1:]:
        if not re.fullmatch("[a-z0-9_]+", part):
            raise ConfigurationError(f"{monitor!r}: stage and layer are logged as [a-z0-9_], {part!r} is not")
    if re.fullmatch(r"test(_\d+)?", parts[1]):
        raise ConfigurationError(f"{monitor!r}: test windows close after training, when there is nothing left to stop")
    kind = of_signal(parts[-1], rule)
    if parts[1] in kind.stages:
        raise ConfigurationError(
            f"GeneralizationGap(to={parts[1]!r}) compares {monitor!r} with itself: name another stage or loader"
        )
    return kind, parts[1], parts[2] if len(parts) == 4 else None
