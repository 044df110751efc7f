"""An alarm: what was seen, how sure that is, and what to do next. It never claims that a run without one is healthy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Alarm:
    """One alarm, with all that a reader needs to believe it or not.

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
    checkpoint: str | None = None
    causes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

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
        times = f"; the change is {change / self.noise:.0f} times that" if self.noise else ""
        rows = {
            "what": f"{self.name} {self.text}",
            "since": f"epoch {self.since_epoch:.2f} (step {self.since_step}); the rule has held for {checks}",
            "values": f"{self.old:.4g} (epoch {self.old_epoch:.2f}) → {self.new:.4g} (epoch {self.epoch:.2f})",
            "limit": f"{self.limit}; {self.source}",
            "rule": self.rule,
            "noise": f"{self.noise:.2g} between checks{times}" if self.noise else "not known yet: too few checks",
            "also held": "; ".join(self.also),
            "agree": "; ".join(self.agree),
            "disagree": "; ".join(self.disagree) or "no other signal that was computed",
            "checkpoint": self.checkpoint or "none was saved before it",
            "usual causes": "; ".join(self.causes),
            "next": "; ".join(self.steps),
        }
        lines = [f"  {key + ':':14}{text}" for key, text in rows.items() if text]
        return "\n".join([f"featgeo alarm: {self.title}, epoch {self.epoch:.2f} (step {self.step})", *lines])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the history."""
        return asdict(self)
