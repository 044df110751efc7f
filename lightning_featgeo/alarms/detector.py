"""Detector: feeds closed windows to the rules of one kind and says when an alarm is due.

No trainer is needed: any loop, and a history read back from a file, can be judged.

>>> from lightning_featgeo.history import Record
>>> detector = Detector(KINDS["collapse"])
>>> for epoch, std in enumerate([0.60, 0.80, 0.79, 0.78, 0.60]):
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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_featgeo.alarms.alarm import Alarm
from lightning_featgeo.alarms.kinds import KINDS, Kind, Watch
from lightning_featgeo.alarms.rules import Finding, Gap, Past
from lightning_featgeo.history import Record
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL

__all__ = ["KINDS", "Detector"]

State = Literal["cannot tell", "quiet", "alarm"]
RECENT = 4  # windows: half of them gaps, and nothing can be told
LEARNING = 0.05  # a gain of another signal from which on a loss is learning
SHOWN = 4  # signals that agree, and that disagree
MEASURED = "fixed on runs that benchmarks/validity.py does not report on"


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
    """For how many checks in a row a watch has held, since when, compared with which past, and what it saw last."""

    held: int = 0
    start: int = 0
    since_epoch: float = 0.0
    since_step: int = 0
    finding: Finding | None = None


class Detector:
    """Watches one kind of alarm on one layer of one stage.

    Args:
        kind: what is looked for.
        stage, layer: as in the logged names; ``layer=None`` is the first one.
        patience: checks in a row for which a rule must hold; None: each watch's own.
        warmup: first checks that are not judged; None: each watch's own.
        hysteresis: share by which a limit is eased once its rule holds, [0, 1).
        min_effect: changes below so many times the noise are none, ≥ 0.
        min_rows: windows of fewer rows are no checks.

    ``state`` is "quiet" (no rule has fired, which is not a proof of health), "alarm" (from the alarm on, as long as its
    rule holds) or "cannot tell", with the reason in ``why``.
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
        self.raised: set[str] = set()
        self.recent: list[str] = []  # of the last windows: "" or why they told nothing
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
        return f"{len(gaps)} of the last {len(self.recent)} windows told nothing: {gaps[-1]}"

    @property
    def why(self) -> str:
        """Why nothing can be told, "" if it can."""
        if self.blind:
            return self.blind
        warmup = max(map(self._warmup, self.kind.watches))
        judged = max(len(self.checks) - warmup, 0)
        return "" if judged >= 2 else f"{judged} checks so far" + (f" after {warmup} of warm-up" if warmup else "")

    def _warmup(self, watch: Watch) -> int:
        return watch.warmup if self.warmup is None else self.warmup

    @property
    def state(self) -> State:
        """See the class."""
        if self.raised:
            return "alarm"
        return "cannot tell" if self.why else "quiet"

    # --- a window ----------------------------------------------------------------------------------------------------

    def observe(self, record: Record) -> Alarm | None:
        """Take in a closed window; returns an alarm where one is due, once until its rule has let go."""
        if record.stage in self.kind.stages and record.layer == self.layer and record.stage != self.stage:
            self._elsewhere.update({f"{record.stage}/{name}": value for name, value in record.values.items()})
        if record.prefix != self.prefix:
            return None
        self.recent = [*self.recent, self._told_nothing(record)][-RECENT:]
        if self.recent[-1]:
            return None
        self.checks.append(
            Check(
                record.epoch,
                record.step,
                {name: value for name, value in record.values.items() if _kept(name, self.kind)},
                {name: value for name, value in record.standard_errors.items() if _watched(name, self.kind)},
                dict(self._elsewhere),
            )
        )
        for watch, streak in zip(self.kind.watches, self.streaks, strict=True):
            self._judge(watch, streak)
        self.raised = {title for title in self.raised if any(s.held for _, s in self._of(title))}
        return self._due()

    def replay(self, records: Iterable[Record]) -> list[Alarm]:
        """The alarms that these windows would have raised."""
        return [alarm for record in records if (alarm := self.observe(record)) is not None]

    def _told_nothing(self, record: Record) -> str:
        missing = [name for name in self.kind.signals if name not in record.values]
        if missing and (self.kind.mode == "all" or len(missing) == len(self.kind.signals)):
            return record.gaps.get(missing[0], f"{missing[0]} has no value")
        rows = record.values.get(COUNT_SIGNAL)
        return f"only {rows:.0f} rows, fewer than {self.min_rows}" if rows is not None and rows < self.min_rows else ""

    def _judge(self, watch: Watch, streak: Streak) -> None:
        now = self.checks[-1]
        if watch.signal not in now.values:
            return  # a gap is no check: it neither ends a streak nor lengthens it
        past, _ = self._past(watch, streak)
        found = watch.rule.check(past) if past.values else None
        if found is None:
            streak.held, streak.finding = 0, None
            return
        if not streak.held:
            streak.since_epoch, streak.since_step, streak.start = now.epoch, now.step, past.start
        streak.held, streak.finding = streak.held + 1, found

    def _past(self, watch: Watch, streak: Streak) -> tuple[Past, list[Check]]:
        checks = [check for check in self.checks if watch.signal in check.values]
        checks = checks[self._warmup(watch) :]
        key = f"{watch.rule.to}/{watch.signal}" if isinstance(watch.rule, Gap) else ""
        past = Past(
            CATALOG[watch.signal],
            [check.values[watch.signal] for check in checks],
            [check.errors.get(watch.signal) for check in checks],
            [check.elsewhere.get(key) for check in checks] if key else (),
            1 - self.hysteresis if streak.held else 1.0,
            self.min_effect,
            streak.start if streak.held else self._learned(watch, checks),
        )
        return past, checks

    @staticmethod
    def _learned(watch: Watch, checks: list[Check]) -> int:
        """Index of the first check since which none of the signals named by ``unless`` has got much better."""
        start = 0
        for name in watch.unless:
            now = checks[-1].values.get(name) if checks else None
            if now is None:
                continue
            scale = Past(CATALOG[name], [now])
            for index, check in enumerate(checks):
                then = check.values.get(name)
                if then is not None and scale.loss(now, then) > LEARNING:
                    start = max(start, index + 1)
        return start

    def _of(self, title: str) -> list[tuple[Watch, Streak]]:
        pairs = zip(self.kind.watches, self.streaks, strict=True)
        return [(watch, streak) for watch, streak in pairs if watch.title == title]

    def _due(self) -> Alarm | None:
        pairs = list(zip(self.kind.watches, self.streaks, strict=True))
        if self.kind.mode == "all":  # all that have values, now
            pairs = [pair for pair in pairs if pair[0].signal in self.checks[-1].values]
        firing = [(w, s) for w, s in pairs if s.held >= (self.patience or w.patience)]
        if self.kind.mode == "all" and len(firing) < len(pairs):
            return None
        for watch, streak in firing:
            if watch.title not in self.raised:
                self.raised.add(watch.title)
                held = [w for w, s in pairs if s.held and w is not watch]
                return self._alarm(watch, streak, held)
        return None

    # --- what is said ------------------------------------------------------------------------------------------------

    def _alarm(self, watch: Watch, streak: Streak, others: list[Watch]) -> Alarm:
        found = streak.finding
        assert found is not None
        past, checks = self._past(watch, streak)
        old, now = checks[found.old], checks[-1]
        began = None if found.began is None else checks[found.began]
        agree, disagree = self._companions(watch, old, now)
        return Alarm(
            kind=self.kind.name,
            title=watch.title,
            name=self.prefix + watch.signal,
            rule=repr(watch.rule),
            epoch=now.epoch,
            step=now.step,
            since_epoch=streak.since_epoch if began is None else began.epoch,
            since_step=streak.since_step if began is None else began.step,
            checks=streak.held,
            old_epoch=old.epoch,
            old=old.values[watch.signal],
            new=now.values[watch.signal],
            text=found.text,
            limit=found.limit,
            source=found.source if self.kind.name not in KINDS else f"the ready-made {self.kind.name!r}, {MEASURED}",
            noise=past.noise(found.old, len(past.values) - 1, until=found.old),
            level=found.level,
            also=list(dict.fromkeys(f"{type(w.rule).__name__} of {w.signal}" for w in others)),
            agree=agree,
            disagree=disagree,
            causes=list(self.kind.causes.get(watch.title, ())),
            steps=list(self.kind.steps.get(watch.title, ())),
        )

    def _companions(self, watch: Watch, old: Check, now: Check) -> tuple[list[str], list[str]]:
        """Other signals between the same two checks: those that got worse as well, and those that did not."""
        ranked: list[tuple[float, str]] = []
        for name in now.values.keys() & old.values.keys() - {watch.signal}:
            row = CATALOG.get(name)
            if row is None or row.direction == "none":
                continue
            past = Past(row, [old.values[name], now.values[name]])
            loss = past.loss(*past.values)
            ranked.append((loss, f"{name} {old.values[name]:.4g} → {now.values[name]:.4g}"))
        worse = [text for loss, text in sorted(ranked, reverse=True) if loss > 0.05]
        rest = [text for loss, text in sorted(ranked) if loss <= 0.05]
        if self.kind.mode == "all":  # nothing got worse here: what still moves disagrees
            moving = [text for loss, text in sorted(ranked) if abs(loss) > 0.05]
            return [text for loss, text in sorted(ranked) if abs(loss) <= 0.05][:SHOWN], moving[:SHOWN]
        return worse[:SHOWN], rest[:SHOWN]

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything seen so far, as plain numbers and strings."""
        return {
            "checks": [vars(check).copy() for check in self.checks],
            "streaks": [[s.held, s.start, s.since_epoch, s.since_step] for s in self.streaks],
            "raised": sorted(self.raised),
            "recent": list(self.recent),
            "elsewhere": dict(self._elsewhere),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was seen before."""
        self.checks = [Check(**check) for check in state["checks"]]
        self.streaks = [Streak(int(h), int(start), float(at), int(step)) for h, start, at, step in state["streaks"]]
        self.raised, self.recent = set(state["raised"]), list(state["recent"])
        self._elsewhere = dict(state["elsewhere"])

    def forget(self) -> None:
        """Begin anew."""
        self.checks, self.raised, self.recent, self._elsewhere = [], set(), [], {}
        self.streaks = [Streak() for _ in self.kind.watches]


def _watched(name: str, kind: Kind) -> bool:
    return any(watch.signal == name or name in watch.unless for watch in kind.watches)


def _kept(name: str, kind: Kind) -> bool:
    """Watched, or able to agree or disagree."""
    return _watched(name, kind) or (name in CATALOG and CATALOG[name].direction != "none")
