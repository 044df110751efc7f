"""Rules: pure functions of a signal's past, that say whether something has happened and what.

How much worse a value is than another one is measured as a *loss* in [0, 1]: the share of the way from the better value
to the worst end of the signal's range (0.3 of the way from 0.8 down to 0; from 0.1 dead units up to 1). Where the worst
end is infinite (``nc1``), it is the share that the better value lacks of the worse one: 0.5 is a doubling.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_featgeo.metrics.signals import Signal
from lightning_featgeo.types import ConfigurationError

CATALOGUE = "the catalogue's"
GIVEN = "given"


@dataclass(frozen=True)
class Past:
    """A signal's checks so far.

    Args:
        signal: its row of the catalogue: direction, range, default limits.
        values: oldest first, at least one, all finite.
        errors: standard errors of the values, None where there is none.
        other: the values of the same signal elsewhere (another stage), for ``Gap``; None where it had none.
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


class Rule(ABC):
    """A rule: subclass it (best as a frozen dataclass) for one of your own."""

    @property
    def least(self) -> int:
        """Checks that it takes before anything can be told."""
        return 1

    @abstractmethod
    def check(self, past: Past) -> Finding | None:
        """What has happened by the last of ``past.values``, or None."""

    def refuse(self, signal: Signal) -> None:  # noqa: B027  # most rules have nothing to refuse
        """Raise where the rule makes no sense for a signal.

        Raises:
            ConfigurationError: with what to use in its place.
        """


def _is_count(number: object, least: int) -> bool:
    return isinstance(number, int) and number >= least


def _need_direction(rule: Rule, signal: Signal) -> None:
    low, high = signal.bounds
    name = type(rule).__name__
    if signal.direction == "none":
        raise ConfigurationError(
            f"{name} needs a signal with a better and a worse direction, and {signal.name!r} has none; "
            "use Threshold(below=…), ChangePoint() or Plateau() for this one"
        )
    towards = low if signal.direction == "higher" else high
    if math.isinf(towards) and low < 0:
        raise ConfigurationError(
            f"{name} measures a share, and {signal.name!r} has no worst value to measure towards; "
            "use Threshold(below=…) or ChangePoint() for this one"
        )


@dataclass(frozen=True)
class Drop(Rule):
    """The signal is worse than its best so far.

    Args:
        fraction: by more than this loss (see the module); None: the catalogue's.
        below: only while the signal has stayed below this value; above it, where lower is better.
        within: the best of so many checks before the last one counts, not of all; None: of all.
    """

    fraction: float | None = None
    below: float | None = None
    within: int | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ConfigurationError(f"Drop(fraction={self.fraction}): must be between 0 and 1, for example 0.3")
        if self.within is not None and not _is_count(self.within, 1):
            raise ConfigurationError(f"Drop(within={self.within}): must be at least 1 check")

    def refuse(self, signal: Signal) -> None:
        """See the base class."""
        _need_direction(self, signal)

    @property
    def least(self) -> int:
        """See the base class."""
        return 2

    def check(self, past: Past) -> Finding | None:
        """See the class."""
        limit = past.signal.limits.drop if self.fraction is None else self.fraction
        start = past.start if self.within is None else max(past.start, len(past.values) - 1 - self.within)
        best = past.best_since(start)
        old, new = past.values[best], past.values[-1]
        if self.below is not None and past.loss(self.below, old) <= 0:
            return None
        loss = past.loss(old, new)
        if loss <= limit * past.ease or not past.is_effect(new - old, best):
            return None
        level = past.value_at(old, limit)
        also = "" if self.below is None else f", as it never got past {self.below:g}"
        return Finding(
            f"{_verb(past)} {_share(past, loss)} its best",
            f"{limit:.0%} of that way, that is {level:.4g}{also}",
            CATALOGUE if self.fraction is None else GIVEN,
            best,
            level,
        )


@dataclass(frozen=True)
class Decline(Rule):
    """The signal gets worse steadily: at each of the last ``checks`` checks, and by more than ``fraction`` in all.

    It sees a slow loss before ``Drop`` does. None: the catalogue's, a fraction of ``Drop``'s.
    """

    checks: int = 3
    fraction: float | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.checks, 2) or (self.fraction is not None and not 0 < self.fraction < 1):
            raise ConfigurationError(
                f"Decline(checks={self.checks}, fraction={self.fraction}): needs at least 2 checks and a fraction "
                "in (0, 1)"
            )

    def refuse(self, signal: Signal) -> None:
        """See the base class."""
        _need_direction(self, signal)

    @property
    def least(self) -> int:
        """See the base class."""
        return self.checks + 1

    def check(self, past: Past) -> Finding | None:
        """See the class."""
        limit = past.signal.limits.decline if self.fraction is None else self.fraction
        recent = past.values[past.start :][-self.checks - 1 :]
        if len(recent) <= self.checks:
            return None
        steady = all(past.loss(a, b) > 0 for a, b in itertools.pairwise(recent))
        start = len(past.values) - 1 - self.checks
        while start > past.start and past.loss(past.values[start - 1], past.values[start]) > 0:
            start -= 1  # as far back as it has been falling
        loss = past.loss(past.values[start], recent[-1])
        if not steady or loss <= limit * past.ease or not past.is_effect(recent[-1] - past.values[start], start):
            return None
        return Finding(
            f"{_verb(past)} at each of {len(past.values) - 1 - start} checks, {_share(past, loss)} where it was",
            f"{self.checks} such checks and {limit:.0%} of that way",
            CATALOGUE if self.fraction is None else GIVEN,
            start,
            began=start + 1,
        )


@dataclass(frozen=True)
class Peak(Rule):
    """The signal is past its best: for ``checks`` checks none came near it, and it is worse by more than ``fraction``.

    "Near" is half of that loss. None: the catalogue's limit, which is smaller than ``Drop``'s.
    """

    checks: int = 4
    fraction: float | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.checks, 1) or (self.fraction is not None and not 0 < self.fraction < 1):
            raise ConfigurationError(
                f"Peak(checks={self.checks}, fraction={self.fraction}): needs at least 1 check and a fraction in (0, 1)"
            )

    def refuse(self, signal: Signal) -> None:
        """See the base class."""
        _need_direction(self, signal)

    @property
    def least(self) -> int:
        """See the base class."""
        return self.checks + 1

    def check(self, past: Past) -> Finding | None:
        """See the class."""
        limit = past.signal.limits.peak if self.fraction is None else self.fraction
        best = past.best
        if len(past.values) - 1 - best < self.checks:
            return None
        old, since = past.values[best], past.values[-self.checks :]
        loss = past.loss(old, past.values[-1])
        nearest = min(past.loss(old, value) for value in since)
        if (
            loss <= limit * past.ease
            or nearest <= limit * past.ease / 2
            or not past.is_effect(past.values[-1] - old, best)
        ):
            return None
        return Finding(
            f"is past its best, and {_verb(past)} {_share(past, loss)} it since",
            f"{limit:.0%} of that way, and none of the last {self.checks} within half of it",
            CATALOGUE if self.fraction is None else GIVEN,
            best,
            past.value_at(old, limit),
            best + 1,
        )


@dataclass(frozen=True)
class Plateau(Rule):
    """The signal has converged: over its last ``checks`` values it moved by no more than ``tolerance`` of its past.

    The movement is that of a line fitted to those values, so that noise alone is none; it is compared with the range of
    all values so far (what is left to come is judged by what has come). None: the catalogue's.
    """

    checks: int = 5
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.checks, 3) or (self.tolerance is not None and not self.tolerance >= 0):
            raise ConfigurationError(
                f"Plateau(checks={self.checks}, tolerance={self.tolerance}): "
                "needs at least 3 checks and a tolerance ≥ 0"
            )

    @property
    def least(self) -> int:
        """See the base class."""
        return self.checks + 1

    def check(self, past: Past) -> Finding | None:
        """See the class."""
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
class Threshold(Rule):
    """The signal is below ``below`` or above ``above``; neither given: the catalogue's bound, where there is one."""

    below: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.below, self.above) if limit is not None]
        if any(math.isnan(limit) for limit in given) or (len(given) == 2 and given[0] >= given[1]):
            raise ConfigurationError(
                f"Threshold(below={self.below}, above={self.above}): below must be less than above"
            )

    def refuse(self, signal: Signal) -> None:
        """See the base class."""
        if self.below is None and self.above is None and signal.limits.bound is None:
            raise ConfigurationError(
                f"Threshold needs a limit for {signal.name!r}: Threshold(below=0.1) or Threshold(above=10)"
            )

    def check(self, past: Past) -> Finding | None:
        """See the class."""
        below, above, source = self.below, self.above, GIVEN
        if below is None and above is None:
            source, bound = CATALOGUE, past.signal.limits.bound
            below, above = (bound, None) if past.signal.direction == "higher" else (None, bound)
        value, first = past.values[-1], past.best if past.signal.direction != "none" else 0
        slack = 1 / past.ease - 1
        if below is not None and value < below + slack * abs(below):
            return Finding(f"is {value:.4g}", f"below {below:.4g}", source, first, below)
        if above is not None and value > above - slack * abs(above):
            return Finding(f"is {value:.4g}", f"above {above:.4g}", source, first, above)
        return None


@dataclass(frozen=True)
class Gap(Rule):
    """The signal is worse than in another stage (or loader) by more than ``fraction``: it no longer generalises.

    Each check is compared with the other stage's latest window. ``train`` windows close after validation, so theirs is
    the epoch before; a validation loader of clean training rows (``loader_names=``) has seen the same weights.
    """

    to: str = "train"
    fraction: float | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ConfigurationError(f"Gap(fraction={self.fraction}): must be between 0 and 1, for example 0.3")

    def refuse(self, signal: Signal) -> None:
        """See the base class."""
        _need_direction(self, signal)

    def check(self, past: Past) -> Finding | None:
        """See the class."""
        limit = past.signal.limits.gap if self.fraction is None else self.fraction
        there = past.other[-1] if past.other else None
        if there is None:
            return None
        here = past.values[-1]
        loss = past.loss(there, here)
        if loss <= limit * past.ease or not past.is_effect(here - there, len(past.values) - 1):
            return None
        return Finding(
            f"is {here:.4g} and {there:.4g} in {self.to}, worse by {loss:.0%}",
            f"{limit:.0%}, that is {past.value_at(there, limit):.4g} here",
            CATALOGUE if self.fraction is None else GIVEN,
            past.best,
            past.value_at(there, limit),
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
        if not _is_count(self.checks, 1) or not _is_count(self.before, 6) or not self.size > 0:
            raise ConfigurationError(
                f"ChangePoint(checks={self.checks}, before={self.before}, size={self.size}): needs at least 1 check, "
                "6 before them, and a size above 0"
            )

    @property
    def least(self) -> int:
        """See the base class."""
        return self.checks + self.before

    def check(self, past: Past) -> Finding | None:
        """See the class."""
        recent, earlier = past.values[-self.checks :], past.values[-self.checks - self.before : -self.checks]
        if len(earlier) < self.before:
            return None
        start = len(past.values) - self.checks - self.before
        level = statistics.median(earlier)
        now = min(recent, key=lambda value: abs(value - level))
        errors = past.errors[start : len(past.values) - self.checks]
        calm = Past(past.signal, earlier, errors).noise(0, 1)
        floor = max(
            1e-6 * max(abs(level), abs(now)), sys.float_info.min
        )  # a constant that moves in its last digits has not jumped
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


def _verb(past: Past) -> str:
    return "fell" if past.signal.direction == "higher" else "rose"


def _share(past: Past, loss: float) -> str:
    if past.worst is None:
        return f"by a factor of {1 / max(1 - loss, 1e-9):.3g} from"
    return f"{loss:.0%} of the way to {past.worst:g} from"
