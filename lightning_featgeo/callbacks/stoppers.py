"""Between a run and its stoppers: they hear of every window, are asked, and act once everything is written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_featgeo.alarms import Alarm
from lightning_featgeo.callbacks.early_stopping import GeometryEarlyStopping
from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.history.record import Record
from lightning_featgeo.sinks import ALARM
from lightning_featgeo.watch.guard import Guard
from lightning_featgeo.watch.plan import ClosedWindow


class Judgement(NamedTuple):
    """What stoppers say of a window: alarms that are due and whose they are; and the state of all of them.

    The state is 1 while an alarm stands, 0 while none does, None where nobody watches or can tell.
    """

    due: list[tuple[GeometryEarlyStopping, Alarm]]
    state: float | None


UNWATCHED = Judgement([], None)


class Stoppers:
    """The stoppers of a trainer, and the alarms that nobody has acted on yet."""

    def __init__(self, trainer: Trainer, guard: Guard) -> None:
        self.trainer, self.guard = trainer, guard
        self._due: list[tuple[GeometryEarlyStopping, Alarm]] = []
        callbacks: Sequence[Any] = getattr(trainer, "callbacks", [])
        self.stoppers = [callback for callback in callbacks if isinstance(callback, GeometryEarlyStopping)]

    def names(self, logged: Sequence[str]) -> list[str]:
        """Logged names of the alarms' states, where something is logged beside them."""
        watched = {detector.prefix for stopper in self.stoppers for detector in stopper.detectors}
        return [prefix + ALARM for prefix in sorted(watched) if any(name.startswith(prefix) for name in logged)]

    def judge(self, closed: Sequence[ClosedWindow]) -> list[Judgement]:
        """What the stoppers say of windows that have closed together, window by window."""
        for stopper in self.stoppers:
            for one in closed:
                stopper.hear(one.record)  # all of them first: one may be compared with another
        return [self._ask(one.record) for one in closed]

    def _ask(self, record: Record) -> Judgement:
        due: list[tuple[GeometryEarlyStopping, Alarm]] = []
        for stopper in self.stoppers:
            with self.guard.around("asking the stopper", lost="it was not asked"):
                due += [(stopper, alarm) for alarm in stopper.observe(self.trainer, record, self.guard)]
                for reason in stopper.unsure():
                    self.guard.warn(reason, reason)
        self._due += due
        states = {state for stopper in self.stoppers for state in stopper.state_of(record)}
        return Judgement(due, 1.0 if "alarm" in states else 0.0 if states & {"quiet", "notice"} else None)

    def act(self) -> None:
        """Do what is to be done about the alarms that were due."""
        due, self._due = self._due, []
        for stopper, alarm in due:
            stopper.act(self.trainer, alarm, self.guard)
