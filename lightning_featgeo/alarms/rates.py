"""How often a kind of alarm is right on a user's own runs, and limits that are fixed on them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning_featgeo.alarms.alarm import Alarm
from lightning_featgeo.alarms.detector import Detector
from lightning_featgeo.alarms.kinds import Kind
from lightning_featgeo.alarms.limits import fraction_of, with_fractions
from lightning_featgeo.history.record import Record

STEPS = 12  # halvings of the interval in which a limit is looked for


@dataclass(frozen=True)
class Replayed:
    """What a kind would have said of a run of so many windows. ``why``: why nothing could be told, "" if it could."""

    name: str
    windows: int
    notice: Alarm | None
    failure: Alarm | None
    why: str


def replay(name: str, records: Sequence[Record], kind: Kind, stage: str, layer: str | None) -> Replayed:
    """The first failure, and the first notice before it, that a kind would have raised."""
    detector = Detector(kind, stage, layer)
    first: dict[str, Alarm] = {}
    for alarm in detector.replay(records):
        first.setdefault(alarm.grade, alarm)
    windows = sum(record.prefix == detector.prefix for record in records)
    there = sorted({record.prefix.rstrip("/") for record in records})
    nowhere = f"it has no window of {detector.prefix.rstrip('/')}, but of {', '.join(there)}" if not windows else ""
    why = "" if first else nowhere or (detector.why if detector.state == "cannot tell" else "")
    notice, failure = first.get("notice"), first.get("failure")
    later = notice is not None and failure is not None and notice.epoch > failure.epoch  # which says no more
    return Replayed(name, windows, None if later else notice, failure, why)


def interval(hits: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """The exact (Clopper–Pearson) confidence interval of a rate."""
    tail = (1 - level) / 2

    def above(rate: float) -> float:  # probability of at least so many hits
        return sum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(hits, of + 1))

    def below(rate: float) -> float:
        return sum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(hits + 1))

    low = _crossing(lambda rate: above(rate) >= tail) if hits else 0.0
    high = _crossing(lambda rate: below(rate) <= tail) if hits < of else 1.0
    return low, high


def _crossing(holds: Callable[[float], bool]) -> float:
    """The smallest rate from which on something holds, in [0, 1]."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def rate(hits: int, of: int) -> str:
    """A rate with its interval, in words."""
    if not of:
        return "no run"
    low, high = interval(hits, of)
    return f"{hits} of {of} = {hits / of:.0%} ({low:.0%} to {high:.0%})"


def summary(intact: Sequence[Replayed], failed: Sequence[Replayed]) -> list[str]:
    """Rates of both grades, a line each; runs of which nothing can be told are none."""
    lines = []
    known, broken = ([run for run in runs if not run.why] for runs in (intact, failed))
    for grade in ("failure", "notice"):
        false = [run for run in known if getattr(run, grade)]
        found = [alarm for run in broken if (alarm := run.failure if grade == "failure" else run.notice or run.failure)]
        if intact:
            lines.append(f"{grade}: false in {rate(len(false), len(known))} of the intact runs")
        if failed:
            at = f", at a median of epoch {statistics.median(a.epoch for a in found):.4g}" if found else ""
            lines.append(f"{grade}: found in {rate(len(found), len(broken))} of the failed runs{at}")
    return lines


@dataclass(frozen=True)
class Fixed:
    """A limit that was fixed. ``run``: the one that needs it."""

    fraction: float
    run: str


def calibrate(runs: Mapping[str, Sequence[Record]], kind: Kind, stage: str, layer: str | None) -> dict[int, Fixed]:
    """Limits at which none of the runs, which the user calls intact, has a failure: by a watch's number.

    Only limits that are too tight are changed: to the smallest loss at which all runs are quiet, and a tenth of what is
    left up to 1 is added. A watch without a limit of its own stays as it is.
    """
    found: dict[int, Fixed] = {}
    for at, watch in enumerate(kind.watches):
        own = fraction_of(watch)
        if own is None or watch.grade != "failure":
            continue

        needed, by = own, ""
        for name, records in runs.items():

            def is_quiet(limit: float, at: int = at, records: Sequence[Record] = records) -> bool:
                alone = (with_fractions(kind, {at: limit}).watches[at],)
                return not Detector(Kind(kind.name, alone, of_training=kind.of_training), stage, layer).replay(records)

            if not is_quiet(needed):
                low, high = needed, 1.0
                for _ in range(STEPS):
                    middle = (low + high) / 2
                    low, high = (low, middle) if is_quiet(middle) else (middle, high)
                needed, by = high, name
        if by:
            found[at] = Fixed(min(needed + 0.1 * (1 - needed), 0.999), by)
    return found
