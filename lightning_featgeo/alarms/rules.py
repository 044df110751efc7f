"""Rules of loss and level: pure functions of a signal's past, that say whether something has happened and what."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from lightning_featgeo.alarms.past import CATALOGUE, GIVEN, Finding, Past
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.metrics.signals import Signal


class Rule(ABC):
    """A rule: subclass it (best as a frozen dataclass) for one of your own.

    ``measures_loss``: whether it asks how much worse a value is, which takes a better and a worse.
    """

    measures_loss: ClassVar[bool] = False

    @property
    def least(self) -> int:
        """Checks that it takes before anything can be told."""
        return 1

    @abstractmethod
    def check(self, past: Past) -> Finding | None:
        """What has happened by the last of ``past.values``, or None."""

    def refuse(self, signal: Signal) -> None:
        """Raise where the rule makes no sense for a signal.

        Raises:
            ConfigurationError: with what to use in its place.
        """
        if not self.measures_loss:
            return
        name, (low, high) = type(self).__name__, signal.bounds
        if signal.direction == "none":
            raise ConfigurationError(
                f"{name} needs a signal with a better and a worse direction, and {signal.name!r} has none; "
                "use Threshold(below=…), ChangePoint() or Plateau() for this one"
            )
        if math.isinf(low if signal.direction == "higher" else high) and low < 0:
            raise ConfigurationError(
                f"{name} measures a share, and {signal.name!r} has no worst value to measure towards; "
                "use Threshold(below=…) or ChangePoint() for this one"
            )


class LossRule(Rule):
    """A rule with a limit on a loss (see ``past``): its ``fraction``, or the catalogue's for this kind of rule."""

    measures_loss = True
    limit_name: ClassVar[str]  # a field of the catalogue's ``Limits``
    fraction: float | None

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ConfigurationError(f"{self}: fraction must be between 0 and 1, for example 0.3")

    def limit(self, past: Past) -> float:
        """The loss from which on the rule holds."""
        known: float = getattr(past.signal.limits, self.limit_name)
        return known if self.fraction is None else self.fraction

    @property
    def source(self) -> str:
        """Where the limit comes from."""
        return CATALOGUE if self.fraction is None else GIVEN


def is_count(number: object, least: int) -> bool:
    """Whether this is a whole number, at least so large."""
    return isinstance(number, int) and number >= least


@dataclass(frozen=True)
class Drop(LossRule):
    """The signal is worse than its best so far.

    Args:
        fraction: by more than this loss (see ``past``); None: the catalogue's.
        below: only while the signal has stayed below this value; above it, where lower is better.
        within: the best of so many checks before the last one counts, not of all; None: of all.
        to: only once it has come down to this value; up to it, where lower is better.
    """

    limit_name = "drop"
    fraction: float | None = None
    below: float | None = None
    within: int | None = None
    to: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.within is not None and not is_count(self.within, 1):
            raise ConfigurationError(f"Drop(within={self.within}): must be at least 1 check")

    @property
    def least(self) -> int:
        """Fewest checks with a value before it can hold."""
        return 2

    def check(self, past: Past) -> Finding | None:
        """A finding while the rule holds at the last value, else None."""
        limit = self.limit(past)
        start = past.start if self.within is None else max(past.start, len(past.values) - 1 - self.within)
        best = past.best_since(start)
        old, new = past.values[best], past.values[-1]
        if self.below is not None and past.loss(self.below, old) <= 0:
            return None
        if self.to is not None and (new > self.to if past.signal.direction == "higher" else new < self.to):
            return None
        loss = past.loss(old, new)
        if loss <= limit * past.ease or not past.is_effect(new - old, best):
            return None
        level = past.value_at(old, limit)
        since = f" of the last {len(past.values) - start} checks" if start else ""
        also = "" if self.below is None else f", as it never got past {self.below:g}"
        also += "" if self.to is None else f", and {self.to:g} or worse"
        return Finding(
            f"{_verb(past)} {_share(past, loss)} its best{since}",
            f"{limit:.0%} of that way, that is {level:.4g}{also}",
            self.source,
            best,
            level,
        )


@dataclass(frozen=True)
class Decline(LossRule):
    """The signal gets worse steadily: at each of the last ``checks`` checks, and by more than ``fraction`` in all.

    It sees a slow loss before ``Drop`` does. None: the catalogue's, a fraction of ``Drop``'s.
    """

    limit_name = "decline"
    checks: int = 3
    fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.checks, 2):
            raise ConfigurationError(f"{self}: needs at least 2 checks")

    @property
    def least(self) -> int:
        """Fewest checks with a value before it can hold."""
        return self.checks + 1

    def check(self, past: Past) -> Finding | None:
        """A finding while the rule holds at the last value, else None."""
        limit = self.limit(past)
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
            self.source,
            start,
            began=start + 1,
        )


@dataclass(frozen=True)
class Peak(LossRule):
    """The signal is past its best: for ``checks`` checks none came near it, and it is worse by more than ``fraction``.

    "Near" is half of that loss. None: the catalogue's limit, which is smaller than ``Drop``'s.
    """

    limit_name = "peak"
    checks: int = 4
    fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.checks, 1):
            raise ConfigurationError(f"{self}: needs at least 1 check")

    @property
    def least(self) -> int:
        """Fewest checks with a value before it can hold."""
        return self.checks + 1

    def check(self, past: Past) -> Finding | None:
        """A finding while the rule holds at the last value, else None."""
        limit = self.limit(past)
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
            self.source,
            best,
            past.value_at(old, limit),
            best + 1,
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
        """Refuse a signal that it can't judge."""
        if self.below is None and self.above is None and signal.limits.bound is None:
            raise ConfigurationError(
                f"Threshold needs a limit for {signal.name!r}: Threshold(below=0.1) or Threshold(above=10)"
            )

    def check(self, past: Past) -> Finding | None:
        """A finding while the rule holds at the last value, else None."""
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
class GeneralizationGap(LossRule):
    """The signal is worse than in another stage (or loader) by more than ``fraction``: it no longer generalises.

    Each check is compared with the other stage's latest window. ``train`` windows close after validation, so theirs is
    the epoch before; a validation loader of clean training rows (``loader_names=``) has seen the same weights.
    """

    limit_name = "gap"
    to: str = "train"
    fraction: float | None = None

    def check(self, past: Past) -> Finding | None:
        """A finding while the rule holds at the last value, else None."""
        limit = self.limit(past)
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
            self.source,
            past.best,
            past.value_at(there, limit),
        )


def _verb(past: Past) -> str:
    return "fell" if past.signal.direction == "higher" else "rose"


def _share(past: Past, loss: float) -> str:
    if past.worst is None:
        return f"by a factor of {1 / max(1 - loss, 1e-9):.3g} from"
    return f"{loss:.0%} of the way to {past.worst:g} from"
