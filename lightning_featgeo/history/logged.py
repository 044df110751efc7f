"""What the run itself has logged (losses, accuracies), as it stood when windows closed: to compare curves with."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_featgeo.history.checked import finite, mapping, name_of, optional, whole

MOST_NAMES = 1024  # metrics of a run, the first ones
MOST_TIMES = 2048  # moments that stay in memory while a run goes on; the file has all of them
_SAME = 1e-9  # a difference of two epochs that is none


@dataclass(frozen=True)
class Logged:
    """The run's own metrics that have changed since the moment before; None: no number (NaN, infinity)."""

    epoch: float
    step: int
    values: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers; :meth:`checked` reads them back."""
        return {"epoch": self.epoch, "step": self.step, "values": self.values}

    @classmethod
    def checked(cls, given: Any) -> Logged:
        """One of a file or checkpoint that may come from anywhere.

        Raises:
            Exception: of those that ``History.load`` takes for a line that can't be read.
        """
        found = mapping(given)
        values = mapping(found["values"])
        return cls(
            finite(found["epoch"]), whole(found["step"]),
            {name_of(name): optional(value, finite) for name, value in values.items()},
        )  # fmt: skip


def is_ours(name: str) -> bool:
    """Whether a logged name is the project's own; the Hugging Face Trainer puts "eval_" or "eval_<set>_" before it."""
    return name.startswith("featgeo_") or "featgeo/" in name or "featgeo_monitor/" in name


class Metrics:
    """The metrics of a run over time."""

    def __init__(self) -> None:
        self.moments: list[Logged] = []
        self.is_full = False  # some were left out: there are too many
        self._now: dict[str, float | None] = {}

    def changed(self, values: Mapping[str, float]) -> dict[str, float | None]:
        """Of the values as they stand now, those that were not written down yet; the project's own are left out."""
        found: dict[str, float | None] = {}
        for name, value in values.items():
            if is_ours(name):
                continue
            if name not in self._now and len(self._now) + len(found) >= MOST_NAMES:
                self.is_full = True
                continue
            shown = value if math.isfinite(value) else None
            if name not in self._now or self._now[name] != shown:
                found[name] = shown
        return found

    def state_anew(self) -> None:
        """Nothing of it has been written yet: another file begins, which is to say what still stands."""
        self._now = dict.fromkeys(self._now, math.nan)  # differs from every value

    def add(self, moment: Logged, thin: bool = True) -> None:
        """Keep a moment. Of very many, every other one of the older half is joined with the one after it.

        Args:
            moment: later than those before.
            thin: False: keep all.
        """
        self.moments.append(moment)
        self._now.update(moment.values)
        if thin and len(self.moments) > MOST_TIMES:
            half = len(self.moments) // 2
            older, rest = self.moments[:half], self.moments[half:]
            pairs = zip(older[::2], older[1::2], strict=False)
            joined = [Logged(b.epoch, b.step, {**a.values, **b.values}) for a, b in pairs]
            self.moments = [*joined, *older[len(joined) * 2 :], *rest]

    def names(self) -> list[str]:
        """Every metric that had a number once, in the order in which they came."""
        return list(dict.fromkeys(n for m in self.moments for n, value in m.values.items() if value is not None))

    def series(self, name: str) -> list[tuple[float, float]]:
        """(epoch, value) of a metric, whenever it had changed."""
        found = ((moment.epoch, moment.values.get(name)) for moment in self.moments)
        return [(epoch, value) for epoch, value in found if value is not None]

    def last(self, name: str) -> float | None:
        """A metric as it stood at the end: NaN where that is no number, None where it was never logged."""
        for moment in reversed(self.moments):
            if name in moment.values:
                given = moment.values[name]
                return math.nan if given is None else given
        return None

    def at(self, name: str, times: Iterable[tuple[float, int]]) -> list[float]:
        """A metric as it stood at each (epoch, step) of a run, which don't go back; NaN before it was logged."""
        found, value, waiting = [], math.nan, deque(self.moments)
        for epoch, step in times:
            while waiting and waiting[0].epoch <= epoch + _SAME and waiting[0].step <= step:
                values = waiting.popleft().values
                if name in values:
                    given = values[name]
                    value = math.nan if given is None else given
            found.append(value)
        return found
