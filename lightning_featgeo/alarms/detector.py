"""Detector: feeds closed windows to the rules of one kind and says when an alarm is due.

No trainer is needed: any loop, and a history read back from a file, can be judged.

>>> from lightning_featgeo.alarms import KINDS
>>> from lightning_featgeo.history.record import Record
>>> detector = Detector(KINDS["collapse"])
>>> for epoch, std in enumerate([0.60, 0.80, 0.79, 0.05, 0.04]):
...     values = {"feature_std": std, "effective_rank": 20.0, "n_samples": 500.0}
...     alarm = detector.observe(Record(epoch, "val", None, float(epoch), 10 * epoch, values))
...     print(detector.state, alarm.title if alarm else "-")
cannot tell -
cannot tell -
cannot tell -
quiet -
alarm total collapse
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, runtime_checkable

from lightning_featgeo.alarms import not_finite
from lightning_featgeo.alarms.alarm import Alarm, build
from lightning_featgeo.alarms.checks import Check, Streak, grade_and_title, thinned, unmoved
from lightning_featgeo.alarms.evidence import is_confirmed, is_kept, is_watched, learned_since, needed_of, suffices
from lightning_featgeo.alarms.kinds import Kind, Watch
from lightning_featgeo.alarms.past import Past
from lightning_featgeo.alarms.rules import GeneralizationGap
from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.checked import finite, items, name_of, table, whole
from lightning_featgeo.history.fingerprint import short
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL

State = Literal["cannot tell", "quiet", "notice", "alarm"]
RECENT = 4  # windows: half of them gaps, and nothing can be told


@runtime_checkable
class ErrorGuard(Protocol):
    """What keeps an error of a rule from ending a run: ``watch.guard.Guard``, or another one like it."""

    def around(
        self, doing: str, fail: Callable[[Gap], None], refuses: bool = False, lost: str = ""
    ) -> AbstractContextManager[None]:
        """Take what is raised inside, in words, to ``fail``."""


class Detector:
    """Watches one kind of alarm on one layer of one stage.

    Args:
        kind: what is looked for.
        stage, layer: as in the logged names; ``layer=None`` is the first one.
        patience: checks in a row for which a rule must hold; None: each watch's own.
        warmup: first checks that are not judged; None: each watch's own.
        hysteresis: share by which a limit is eased once its alarm is raised, [0, 1).
        min_effect: changes below so many times the noise are none, ≥ 0.
        min_rows: windows of fewer rows are no checks.

    ``state`` is "quiet" (no rule has fired, which is not a proof of health), "alarm" (from the alarm on, as long as its
    rule holds), "notice" likewise, or "cannot tell", with the reason in ``why``. Windows of something else than those
    before them (another layer width, pooling or number of neighbours) begin anew.
    """

    def __init__(
        self,
        kind: Kind,
        stage: str = "val",
        layer: str | None = None,
        patience: int | None = None,
        warmup: int | None = None,
        hysteresis: float = 0.2,
        min_effect: float = 3.0,
        min_rows: int = 32,
    ) -> None:
        self.kind, self.stage, self.layer = kind, stage, layer
        self.patience, self.warmup = patience, warmup
        self.hysteresis, self.min_effect, self.min_rows = hysteresis, min_effect, min_rows
        self.checks: list[Check] = []
        self.streaks = [Streak() for _ in kind.watches]
        self.raised: set[tuple[str, str]] = set()  # grade and title
        self.recent: list[str] = []  # of the last windows: "" or why they told nothing
        self.lost = Streak()  # windows without a finite row
        self._elsewhere: dict[str, float] = {}

    @property
    def prefix(self) -> str:
        """What the logged names of the watched stage and layer start with."""
        return f"featgeo/{self.stage}/" + (f"{self.layer}/" if self.layer else "")

    @property
    def names(self) -> list[str]:
        """Logged names without which this kind can't be told, also those of other stages."""
        stages = [self.prefix, *(self.prefix.replace(f"/{self.stage}/", f"/{s}/", 1) for s in self.kind.stages)]
        return [stage + signal for stage in stages for signal in self.kind.signals]

    @property
    def blind(self) -> str:
        """Why the last windows tell nothing, "" if at least half of them do."""
        gaps = [reason for reason in self.recent if reason]
        if len(self.recent) < 2 or 2 * len(gaps) < len(self.recent):
            return ""
        return f"{len(gaps)} of the last {len(self.recent)} windows were no checks: {gaps[-1]}"

    @property
    def why(self) -> str:
        """Why nothing can be told, "" if it can."""
        if self.blind:
            return self.blind
        needed: dict[str, list[int]] = {}  # by title: what its watches take, counted from the first check
        for watch in self.kind.watches:
            if watch.needed:
                needed.setdefault(watch.title, []).append(self._warmup(watch) + watch.rule.least)
        of_title = max if self.kind.mode == "all" else min
        least = max([2, *(of_title(counts) for counts in needed.values())])
        seen = len(self.checks)
        return "" if seen >= least else f"{seen} check{'s' * (seen != 1)} so far; {least} are needed"

    def _warmup(self, watch: Watch) -> int:
        return watch.warmup if self.warmup is None else self.warmup

    @property
    def state(self) -> State:
        """What the class says."""
        if any(grade == "failure" for grade, _ in self.raised):
            return "alarm"
        return "notice" if self.raised else "cannot tell" if self.why else "quiet"

    # --- a window ----------------------------------------------------------------------------------------------------

    def hear(self, record: Record) -> None:
        """Note a window of another stage that is compared with; of windows that close together, all before a check."""
        if record.stage in self.kind.stages and record.layer == self.layer and record.stage != self.stage:
            here = {name: value for name, value in record.values.items() if is_watched(name, self.kind)}
            self._elsewhere.update({f"{record.stage}/{name}": value for name, value in here.items()})

    def observe(self, record: Record, guard: ErrorGuard | None = None) -> Alarm | None:
        """Take in a closed window; returns an alarm where one is due, once until its rule has let go.

        Args:
            record: a window; those of other stages and layers are no checks.
            guard: takes the errors of rules, which then can't tell; None: they are raised.
        """
        self.hear(record)
        if record.prefix != self.prefix or self._only_begins(record):
            return None
        self.recent = [*self.recent, self._told_nothing(record)][-RECENT:]
        self.lost = not_finite.streak_of(self.lost, record)
        if self.recent[-1]:
            return self._not_finite(record)
        check = Check(
            record.epoch,
            record.step,
            {name: float(value) for name, value in record.values.items() if is_kept(name, self.kind)},
            {name: float(value) for name, value in record.standard_errors.items() if is_watched(name, self.kind)},
            dict(self._elsewhere),
            float(record.values.get(COUNT_SIGNAL, 0.0)),
            tuple(sorted(name for name in record.ceilings if is_watched(name, self.kind))),
            needed_of(record),
            short(record.facts) if record.facts else "",
        )
        if self.checks and check.of and self.checks[-1].of not in ("", check.of):
            self._begin_anew()
        self.checks = [*thinned(self.checks), check]
        for watch, streak in zip(self.kind.watches, self.streaks, strict=True):
            doing = f"the rule {type(watch.rule).__name__} of {watch.signal}"
            lost = "nothing can be told of this window"
            with guard.around(doing, self._could_not, lost=lost) if guard else nullcontext():
                self._judge(watch, streak)
        self.raised = {each for each in self.raised if self._stands(*each)}
        alarm: Alarm | None = None
        with guard.around("writing an alarm", self._could_not) if guard else nullcontext():
            alarm = self._due()
        return alarm

    def _not_finite(self, record: Record) -> Alarm | None:
        key, patience = ("failure", not_finite.TITLE), self.patience or not_finite.PATIENCE
        if not self.kind.needs_finite or not self.checks or key in self.raised or self.lost.held < patience:
            return None
        self.raised.add(key)
        return not_finite.build(self.kind, self.prefix, self.lost, self.checks[-1], record)

    def replay(self, records: Iterable[Record]) -> list[Alarm]:
        """The alarms that these windows would have raised."""
        alarms = []
        for _, together in itertools.groupby(records, key=lambda record: (record.epoch, record.step)):
            group = list(together)
            for record in group:
                self.hear(record)
            alarms += [alarm for record in group if (alarm := self.observe(record)) is not None]
        return alarms

    def _could_not(self, reason: str) -> None:
        self.recent[-1] = str(reason)

    def _stands(self, grade: str, title: str) -> bool:
        """Whether an alarm that was raised still holds: one of its rules does, or all that have values."""
        all_of = zip(self.kind.watches, self.streaks, strict=True)
        pairs = [(watch, streak) for watch, streak in all_of if (watch.grade, watch.title) == (grade, title)]
        held = [s.held > 0 for w, s in pairs if self.kind.mode == "any" or w.signal in self.checks[-1].values]
        return any(held) if self.kind.mode == "any" else all(held)

    def _only_begins(self, record: Record) -> bool:
        """Whether all that is missing compares with an earlier window, which a first one can't: that is no failure."""
        missing = [record.gaps[name] for name in self.kind.signals if name in record.gaps]
        return bool(missing) and all(gap.kind is GapKind.NO_EARLIER for gap in missing)

    def _told_nothing(self, record: Record) -> str:
        if self.kind.of_training and (still := unmoved(record, self.checks, self.kind.signals)):
            return still
        missing = [name for name in self.kind.signals if name not in record.values]
        if missing and (self.kind.mode == "all" or len(missing) == len(self.kind.signals)):
            return str(record.gaps.get(missing[0], f"{missing[0]} has no value"))
        unheard = [stage for stage in self.kind.stages if not any(n.startswith(f"{stage}/") for n in self._elsewhere)]
        if unheard:
            return f"no window of {unheard[0]!r} has closed yet"
        rows = record.values.get(COUNT_SIGNAL)
        return f"only {rows:.0f} rows, fewer than {self.min_rows}" if rows is not None and rows < self.min_rows else ""

    def _judge(self, watch: Watch, streak: Streak) -> None:
        now = self.checks[-1]
        if watch.signal not in now.values:
            return  # a gap is no check: it neither ends a streak nor lengthens it
        past, checks = self._past(watch, (watch.grade, watch.title) in self.raised)
        found = watch.rule.check(past) if past.values else None
        if found is None or not is_confirmed(watch, checks, self.min_effect) or suffices(watch, checks):
            streak.held, streak.finding = 0, None
            return
        if not streak.held:
            streak.since_epoch, streak.since_step = now.epoch, now.step
        streak.held, streak.finding = streak.held + 1, found

    def _past(self, watch: Watch, raised: bool) -> tuple[Past, list[Check]]:
        """The watch's signal so far, and its checks; limits are eased once an alarm is raised."""
        signal, now = watch.signal, self.checks[-1]
        checks = [c for c in self.checks if signal in c.values][self._warmup(watch) :]
        checks = [check for check in checks if check.compares(now, signal)]
        key = f"{watch.rule.to}/{watch.signal}" if isinstance(watch.rule, GeneralizationGap) else ""
        past = Past(
            CATALOG[watch.signal],
            [check.values[watch.signal] for check in checks],
            [check.errors.get(watch.signal) for check in checks],
            [check.elsewhere.get(key) for check in checks] if key else (),
            1 - self.hysteresis if raised else 1.0,
            self.min_effect,
            learned_since(watch, checks),
        )
        return past, checks

    def _due(self) -> Alarm | None:
        pairs = [p for p in zip(self.kind.watches, self.streaks, strict=True) if p[0].signal in self.checks[-1].values]
        firing = [(w, s) for w, s in pairs if s.finding is not None and s.held >= (self.patience or w.patience)]
        if self.kind.mode == "all" and len(firing) < len(pairs):
            return None
        for watch, streak in sorted(firing, key=lambda pair: pair[0].grade == "notice"):  # a failure is more
            if not self.raised & {("failure", watch.title), (watch.grade, watch.title)}:
                held = [w for w, s in pairs if s.held and w.grade == watch.grade and w is not watch]
                alarm = build(self.kind, self.prefix, watch, streak, held, *self._past(watch, raised=False))
                self.raised.add((watch.grade, watch.title))
                return alarm
        return None

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything seen so far, as plain numbers and strings."""
        return {
            "checks": [vars(check).copy() for check in self.checks],
            "streaks": [[s.held, s.since_epoch, s.since_step] for s in self.streaks],
            "raised": [list(each) for each in sorted(self.raised)],
            "recent": list(self.recent),
            "elsewhere": dict(self._elsewhere),
            "lost": [self.lost.held, self.lost.since_epoch, self.lost.since_step],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was seen before; raises if the state is none of this detector's, and takes nothing then."""
        checks = [Check.read(check) for check in items(state["checks"])]
        streaks = [Streak(whole(held), finite(epoch), whole(step)) for held, epoch, step in items(state["streaks"])]
        if len(streaks) != len(self.kind.watches):
            raise ValueError("they are of other rules")
        recent, raised = list(map(name_of, items(state["recent"]))), set(map(grade_and_title, items(state["raised"])))
        held, epoch, step = items(state.get("lost", [0, 0.0, 0]))
        self.lost = Streak(whole(held), finite(epoch), whole(step))
        self._elsewhere = table(state["elsewhere"], finite)
        self.checks, self.streaks, self.raised, self.recent = checks, streaks, raised, recent

    def forget(self) -> None:
        """Begin anew."""
        self._begin_anew()
        self.recent, self._elsewhere = [], {}

    def _begin_anew(self) -> None:
        self.checks, self.raised, self.streaks = [], set(), [Streak() for _ in self.kind.watches]
        self.lost = Streak()
