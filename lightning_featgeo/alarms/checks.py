"""What a detector remembers: its checks, and for how long each rule has held."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_featgeo.alarms.past import Finding


@dataclass
class Check:
    """A window in which something watched had a value."""

    epoch: float
    step: int
    values: dict[str, float]
    errors: dict[str, float]
    elsewhere: dict[str, float] = field(default_factory=dict)  # "stage/signal" -> its latest value


@dataclass
class Streak:
    """For how many checks in a row a watch has held, since when, and what it saw last."""

    held: int = 0
    since_epoch: float = 0.0
    since_step: int = 0
    finding: Finding | None = None
