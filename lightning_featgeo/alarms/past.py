"""What a rule is given, a signal's past, and what it answers with.

How much worse a value is than another one is measured as a *loss* in [0, 1]: the share of the way from the better value
to the worst end of the signal's range (0.3 of the way from 0.8 down to 0; from 0.1 dead units up to 1). Where the worst
end is infinite (``nc1``), it is the share that the better value lacks of the worse one: 0.5 is a doubling.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_featgeo.metrics.signals import Signal

CATALOGUE = "the catalogue's"
GIVEN = "given"


@dataclass(frozen=True)
class Past:
    """A signal's checks so far.

    Args:
        signal: its row of the catalogue: direction, range, default limits.
        values: oldest first, at least one, all finite.
        errors: standard errors of the values, None where there is none.
        other: values of the same signal elsewhere (another stage), for ``GeneralizationGap``; None where it had none.
        ease: factor on every limit: below 1 once a rule holds, so that it does not flicker (hysteresis).
        min_effect: changes smaller than this many times the noise are none.
        start: index of the first check whose value can be a best, or the start of a decline.
    """

    signal: Signal
    values: Sequence[float]
    errors: Sequence[float | None] = ()
    other: Sequence[float | None] = ()
    ease: float = 1.0
    min_effect: float = 3.0
    start: int = 0

    @property
    def worst(self) -> float | None:
        """The worst end of the signal's range, None where it is infinite or the signal has no direction."""
        low, high = self.signal.bounds
        end = {"higher": low, "lower": high}.get(self.signal.direction, math.inf)
        return end if math.isfinite(end) else None

    @property
    def best(self) -> int:
        """Index of the best value that counts; the first of equals."""
        return self.best_since(self.start)

    def best_since(self, start: int) -> int:
        """Index of the best value from ``start`` on; the first of equals."""
        values = self.values[start:]
        return start + values.index(max(values) if self.signal.direction == "higher" else min(values))

    def loss(self, better: float, value: float) -> float:
        """How much worse ``value`` is than ``better``, in [0, 1]; negative where it is better."""
        gap = better - value if self.signal.direction == "higher" else value - better
        if self.worst is not None:
            way = abs(better - self.worst)
            return gap / way if way else 0.0
        return gap / abs(value) if value else 0.0

    def value_at(self, better: float, loss: float) -> float:
        """The value that is worse than ``better`` by this loss."""
        if self.worst is not None:
            return better + loss * (self.worst - better)
        return better / (1 - loss) if loss < 1 else math.inf

    def noise(self, *indices: int, until: int | None = None) -> float:
        """Of a difference between values: standard errors of those, or the past's own jumping up and down.

        The latter is the interquartile range of the last eight steps from one check to the next (as a standard
        deviation), which neither a trend nor one jump moves; it takes at least five steps. ``until``: index of the
        check at which a change began; steps after it count only where there are too few before.
        """
        errors = [e for i in indices if i < len(self.errors) and (e := self.errors[i]) is not None]
        of_errors = math.sqrt(sum(e * e for e in errors))
        before = self.values if until is None or until < 5 else self.values[: until + 1]
        steps = [b - a for a, b in itertools.pairwise(before[-9:])]
        if len(steps) < 5:
            return of_errors
        low, _, high = statistics.quantiles(steps, n=4, method="inclusive")
        return max(of_errors, (high - low) / 1.349)

    def is_effect(self, change: float, since: int) -> bool:
        """Whether a change from the check at ``since`` to the last one is more than noise."""
        noise = self.noise(since, len(self.values) - 1, until=since)
        return change != 0 and abs(change) > self.min_effect * noise


@dataclass(frozen=True)
class Finding:
    """What a rule has seen.

    Args:
        text: a verb and what follows, such as "fell 40% of the way to 0, from its best 0.8".
        limit: the limit, in words, with its numbers.
        source: where the limit comes from.
        old: index of the check that the last one is compared with.
        level: the value beyond which the rule holds, if it is one value: a line in a chart.
        began: index of the check at which it began, if that was before the rule held.
    """

    text: str
    limit: str
    source: str = GIVEN
    old: int = 0
    level: float | None = None
    began: int | None = None
