"""What a detector remembers: its checks, and for how long each rule has held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_featgeo.alarms.past import Finding
from lightning_featgeo.errors import NoteKind
from lightning_featgeo.history.checked import finite, items, mapping, name_of, table, whole
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG

MOST = 512  # checks that are remembered one by one
MORE_ROWS = 1.25  # a factor between the rows of two windows from which on what depends on them is not compared


@dataclass
class Check:
    """A window in which something watched had a value."""

    epoch: float
    step: int
    values: dict[str, float]
    errors: dict[str, float]
    elsewhere: dict[str, float] = field(default_factory=dict)  # "stage/signal" -> its latest value
    rows: float = 0.0  # 0: not known
    ceiling: tuple[str, ...] = ()  # signals whose largest value is set by the rows
    needed: int = 0  # directions that the outputs can need that are made of the features; 0: not known
    of: str = ""  # fingerprint of what the numbers are of; "": not known

    @classmethod
    def read(cls, given: Any) -> Check:
        """From plain data of a checkpoint; raises if it is none."""
        found = mapping(given)
        values, errors, elsewhere = (table(found.get(name, {}), finite) for name in ("values", "errors", "elsewhere"))
        return cls(
            finite(found["epoch"]),
            whole(found["step"]),
            values,
            errors,
            elsewhere,
            rows=finite(found.get("rows", 0.0)),
            ceiling=tuple(map(name_of, items(found.get("ceiling", ())))),
            needed=whole(found.get("needed", 0)),
            of=name_of(found.get("of", "")),
        )

    def compares(self, other: Check, signal: str) -> bool:
        """Whether a signal's values here and there are of as many rows, where they depend on how many there are."""
        if self.rows == other.rows or not (self.rows and other.rows):
            return True
        if max(self.rows, other.rows) <= MORE_ROWS * min(self.rows, other.rows):
            return True
        return signal not in self.ceiling and signal not in other.ceiling and "bank" not in CATALOG[signal].requires


@dataclass
class Streak:
    """For how many checks in a row a watch has held, since when, and what it saw last."""

    held: int = 0
    since_epoch: float = 0.0
    since_step: int = 0
    finding: Finding | None = None


def grade_and_title(given: Any) -> tuple[str, str]:
    """Of an alarm that stands; states of an earlier version have the title alone."""
    if isinstance(given, str):
        return "failure", given
    grade, title = map(name_of, items(given))
    return grade, title


def thinned(checks: list[Check], most: int = MOST) -> list[Check]:
    """The checks, every second of the older half where there are too many: a check costs the same after a month.

    What was best or worst of a signal stays, so that a loss since the best is what it was.
    """
    if len(checks) <= most:
        return checks
    old, recent = checks[: -most // 2], checks[-most // 2 :]
    kept = {*range(0, len(old), 2)}
    for name in dict.fromkeys(name for check in old for name in check.values):
        there = [index for index, check in enumerate(old) if name in check.values]
        kept |= {choose(there, key=lambda index: old[index].values[name]) for choose in (min, max)}
    return [old[index] for index in sorted(kept)] + recent


def unmoved(record: Record, checks: Sequence[Check], signals: Sequence[str]) -> str:
    """Why features have not come to rest but can't move at all, "" where they can.

    Weights that are frozen say so in the record's notes; where nobody could tell, nothing has moved since the first
    check, which then stays the only one.
    """
    frozen = next((str(note) for note in record.notes if note.kind is NoteKind.FROZEN), "")
    if frozen or len(checks) != 1:
        return frozen
    first = checks[0].values
    seen = [name for name in signals if name in first and name in record.values]
    if not seen or any(record.values[name] != first[name] for name in seen):
        return ""
    return "the features have not moved at all so far: are the weights before them frozen?"
