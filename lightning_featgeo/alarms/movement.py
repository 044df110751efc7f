"""Rules of movement: has a signal come to rest, or jumped?"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_featgeo.alarms.past import CATALOGUE, GIVEN, Finding, Past
from lightning_featgeo.alarms.rules import Rule, is_count
from lightning_featgeo.errors import ConfigurationError


@dataclass(frozen=True)
class Plateau(Rule):
    """The signal has converged: over its last ``checks`` values it moved by no more than ``tolerance`` of its past.

    The movement is that of a line fitted to those values, so that noise alone is none; it is compared with the range of
    all values so far (what is left to come is judged by what has come). None: the catalogue's.
    """

    checks: int = 5
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not is_count(self.checks, 3) or (self.tolerance is not None and not self.tolerance >= 0):
            raise ConfigurationError(
                f"Plateau(checks={self.checks}, tolerance={self.tolerance}): "
                "needs at least 3 checks and a tolerance ≥ 0"
            )

    @property
    def least(self) -> int:
        """Fewest checks with a value before it can hold."""
        return self.checks + 1

    def check(self, past: Past) -> Finding | None:
        """A finding while the rule holds at the last value, else None."""
        limit = past.signal.limits.plateau if self.tolerance is None else self.tolerance
        recent = past.values[-self.checks :]
        if len(recent) < self.checks or (len(past.values) == self.checks and max(recent) != min(recent)):
            return None  # there is no earlier past to compare with
        scale = max(past.values) - min(past.values)
        moved = abs(_slope(recent)) * (self.checks - 1)
        if moved > limit / past.ease * scale:
            return None
        share = moved / scale if scale else 0.0
        return Finding(
            f"moved by {share:.1%} of its range in {self.checks} checks",
            f"{limit:.1%} of the range of all values so far, {min(past.values):.4g} to {max(past.values):.4g}",
            CATALOGUE if self.tolerance is None else GIVEN,
            len(past.values) - self.checks,
        )


@dataclass(frozen=True)
class ChangePoint(Rule):
    """The signal has jumped: its last ``checks`` values lie on another level than the ``before`` ones before them.

    A jump takes each of them from the median of those by more than ``size`` times the noise between checks; in the
    worse direction, or in either where a signal has none.
    """

    checks: int = 2
    before: int = 6
    size: float = 8.0

    def __post_init__(self) -> None:
        if not is_count(self.checks, 1) or not is_count(self.before, 6) or not self.size > 0:
            raise ConfigurationError(
                f"ChangePoint(checks={self.checks}, before={self.before}, size={self.size}): needs at least 1 check, "
                "6 before them, and a size above 0"
            )

    @property
    def least(self) -> int:
        """Fewest checks with a value before it can hold."""
        return self.checks + self.before

    def check(self, past: Past) -> Finding | None:
        """A finding while the rule holds at the last value, else None."""
        recent, earlier = past.values[-self.checks :], past.values[-self.checks - self.before : -self.checks]
        if len(earlier) < self.before:
            return None
        start = len(past.values) - self.checks - self.before
        level = statistics.median(earlier)
        now = min(recent, key=lambda value: abs(value - level))
        errors = past.errors[start : len(past.values) - self.checks]
        calm = Past(past.signal, earlier, errors).noise(0, 1)
        # a constant that moves in its last digits has not jumped
        floor = max(1e-6 * max(abs(level), abs(now)), sys.float_info.min)
        change = now - level
        if (past.signal.direction == "higher" and change > 0) or (past.signal.direction == "lower" and change < 0):
            return None
        # the trend that was going on is no jump
        change -= math.copysign(min(abs(change), abs(_slope(earlier)) * (self.before + self.checks) / 2), change)
        if abs(change) <= past.ease * self.size * max(calm, floor):
            return None
        return Finding(
            f"jumped by {abs(change) / max(calm, floor):.0f} times its noise, from a level of {level:.4g} to {now:.4g}",
            f"{self.size:g} times the noise between checks, {calm:.2g}",
            GIVEN,
            len(past.values) - self.checks - 1,
        )


def _slope(values: Sequence[float]) -> float:
    """Of the least-squares line, a check."""
    scale = max(map(abs, values)) or 1.0  # or huge values overflow
    return scale * statistics.linear_regression(range(len(values)), [value / scale for value in values]).slope
