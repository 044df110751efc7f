"""An alarm: what was seen, how sure that is, and what to do next. It never claims that a run without one is healthy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from lightning_featgeo.alarms.checks import Check, Streak
from lightning_featgeo.alarms.evidence import confirmation
from lightning_featgeo.alarms.kinds import KINDS, Kind, Watch
from lightning_featgeo.alarms.past import Past
from lightning_featgeo.alarms.rules import Rule
from lightning_featgeo.history.checked import finite, items, mapping, name_of, optional, whole
from lightning_featgeo.metrics.catalog import CATALOG

SHOWN = 4  # signals that agree, and that disagree
MOVED = 0.05  # a loss from which on another signal has moved as well
MEASURED = "fixed on the runs of benchmarks/validity.py"


@dataclass
class Alarm:
    """One alarm, with all that a reader needs to believe it or not.

    ``grade``: "failure": the features are being lost. "notice": something moves, look at it; no stop acts on it.
    ``kind``: what was looked for, such as "collapse"; ``title``: what was found, such as "total collapse". ``epoch``,
    ``step``: when it was raised; ``since_epoch``, ``since_step``: the check at which it began.
    ``name``: logged name of the signal; ``old``, ``new``: its value then (``old_epoch``) and now. ``text``: what the
    rule saw; ``limit``, ``source``: its limit and where that comes from. ``noise``: of a difference between checks.
    ``also``: other rules of the kind that held. ``agree``, ``disagree``: other signals, and what they did meanwhile.
    """

    kind: str
    title: str
    name: str
    rule: str
    epoch: float
    step: int
    since_epoch: float
    since_step: int
    checks: int
    old_epoch: float
    old: float
    new: float
    text: str
    limit: str
    source: str
    noise: float
    level: float | None = None
    also: list[str] = field(default_factory=list)
    agree: list[str] = field(default_factory=list)
    disagree: list[str] = field(default_factory=list)
    grade: str = "failure"
    checkpoint: str | None = None
    causes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, given: Any) -> Alarm:
        """From plain data of a checkpoint; raises if a field is missing or something else."""
        checks = dict.fromkeys(cls.__annotations__, name_of) | _CHECKS
        found: dict[str, Any] = {name: checks[name](value) for name, value in mapping(given).items() if name in checks}
        return cls(**found)

    @property
    def is_failure(self) -> bool:
        """Whether something goes wrong: what has converged has not, and a notice can't tell."""
        return self.kind != "converged" and self.grade == "failure"

    @property
    def called(self) -> str:
        """What it is called in messages."""
        return "alarm" if self.grade == "failure" else self.grade

    @property
    def line(self) -> str:
        """The alarm in one sentence."""
        checks = f"{self.checks} check{'s' * (self.checks > 1)} in a row"
        return (
            f"{self.title} at epoch {self.epoch:.2f} (step {self.step}): {self.name} {self.text}, "
            f"{self.old:.4g} → {self.new:.4g} (limit {self.limit}), {checks}"
        )

    @property
    def report(self) -> str:
        """Everything, a line each."""
        change, checks = abs(self.new - self.old), f"{self.checks} check{'s' * (self.checks > 1)}"
        times = _against(change, self.noise)
        rows = {
            "what": f"{self.name} {self.text}",
            "since": f"epoch {self.since_epoch:.2f} (step {self.since_step}); the rule has held for {checks}",
            "values": f"{self.old:.4g} (epoch {self.old_epoch:.2f}) → {self.new:.4g} (epoch {self.epoch:.2f})",
            "limit": f"{self.limit}; {self.source}",
            "rule": self.rule,
            "noise": f"{self.noise:.2g} between checks{times}"
            if self.noise
            else "too little to measure, or too few checks",
            "also held": "; ".join(self.also),
            "agree": "; ".join(self.agree),
            "disagree": "; ".join(self.disagree) or "none of the computed signals",
            "checkpoint": f"{self.checkpoint} (existed at that time)"
            if self.checkpoint
            else "no checkpoint from before it exists",
            "usual causes": "; ".join(self.causes),
            "next": "; ".join(self.steps),
        }
        lines = [f"  {key + ':':14}{text}" for key, text in rows.items() if text]
        return "\n".join([f"featgeo {self.called}: {self.title}, epoch {self.epoch:.2f} (step {self.step})", *lines])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the history."""
        return asdict(self)


def _texts(given: Any) -> list[str]:
    return [name_of(one) for one in items(given)]


_CHECKS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("epoch", "since_epoch", "old_epoch", "old", "new", "noise"), finite),
    **dict.fromkeys(("step", "since_step", "checks"), whole),
    "grade": lambda given: "notice" if given == "notice" else "failure",
    **dict.fromkeys(("also", "agree", "disagree", "causes", "steps"), _texts),
    "level": lambda given: optional(given, finite),
    "checkpoint": lambda given: optional(given, name_of),
}


def _against(change: float, noise: float) -> str:
    """A change in multiples of the noise; "" where there is none to speak of."""
    if not noise:
        return ""
    times = change / noise
    return f"; the change is {times:.0f} times that" if times >= 1 else "; the change is smaller than that"


def rule_name(rule: Rule) -> str:
    """The rule in words that are the same in every process."""
    if is_dataclass(rule):
        return repr(rule)
    plain = {name: value for name, value in sorted(vars(rule).items()) if isinstance(value, (int, float, str, bool))}
    return f"{type(rule).__qualname__}({', '.join(f'{name}={value!r}' for name, value in plain.items())})"


def build(
    kind: Kind, prefix: str, watch: Watch, streak: Streak, others: list[Watch], past: Past, checks: list[Check]
) -> Alarm:
    """The alarm of a watch whose rule has held for long enough.

    Args:
        kind, prefix: what was looked for, and what the logged names start with.
        watch, streak: the rule that fired, and for how long it has held.
        others: watches of the kind whose rules hold as well.
        past, checks: the signal's values and their checks, as the rule has seen them.
    """
    found = streak.finding
    assert found is not None
    old, now = checks[found.old], checks[-1]
    began = None if found.began is None else checks[found.began]
    agree, disagree = _companions(kind, watch, old, now)
    level = None if found.level is None or not math.isfinite(found.level) else float(found.level)
    return Alarm(
        kind=kind.name,
        title=watch.title,
        name=prefix + watch.signal,
        rule=rule_name(watch.rule),
        epoch=now.epoch,
        step=now.step,
        since_epoch=streak.since_epoch if began is None else began.epoch,
        since_step=streak.since_step if began is None else began.step,
        checks=streak.held,
        old_epoch=old.epoch,
        old=old.values[watch.signal],
        new=now.values[watch.signal],
        text=str(found.text),
        limit=str(found.limit) + confirmation(watch, checks),
        source=found.source if KINDS.get(kind.name) is not kind else f"the ready-made {kind.name!r}, {MEASURED}",
        noise=float(past.noise(found.old, len(past.values) - 1, until=found.old)),
        level=level,
        grade=watch.grade,
        also=list(dict.fromkeys(_named(w) for w in others if _named(w) != _named(watch))),
        agree=agree,
        disagree=disagree,
        causes=list(kind.causes.get(watch.title, ())),
        steps=list(kind.steps.get(watch.title, ())),
    )


def _named(watch: Watch) -> str:
    return f"{type(watch.rule).__name__} of {watch.signal}"


def _companions(kind: Kind, watch: Watch, old: Check, now: Check) -> tuple[list[str], list[str]]:
    """Other signals between the same two checks: those that say the same, and those that don't."""
    ranked: list[tuple[float, str]] = []
    for name in now.values.keys() & old.values.keys() - {watch.signal}:
        if name in CATALOG and CATALOG[name].direction != "none":
            loss = Past(CATALOG[name], [old.values[name], now.values[name]]).loss(old.values[name], now.values[name])
            ranked.append((loss, f"{name} {old.values[name]:.4g} → {now.values[name]:.4g}"))
    ranked.sort()
    if kind.mode == "all":  # nothing got worse here: what still moves disagrees
        still = [text for loss, text in ranked if abs(loss) <= MOVED]
        return still[:SHOWN], [text for loss, text in ranked if abs(loss) > MOVED][:SHOWN]
    worse = [text for loss, text in reversed(ranked) if loss > MOVED]
    return worse[:SHOWN], [text for loss, text in ranked if loss <= MOVED][:SHOWN]
