"""GeometryEarlyStopping and GeometryAlarm: alarms in a Lightning run, and what is done about them.

Whether there is an alarm is decided by detectors (``lightning_featgeo.alarms``) from closed windows alone, which are
the same on every rank; so every rank decides the same, and a run that was resumed decides as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping

from lightning_featgeo import _compat
from lightning_featgeo.alarms import KINDS, Alarm, Detector, Rule
from lightning_featgeo.alarms.alarm import rule_name
from lightning_featgeo.callbacks import stopper_state
from lightning_featgeo.callbacks.actions import Action, Checkpoints, action_name, check_actions, check_possible, do
from lightning_featgeo.callbacks.checkpointing import warn_of_lost_state
from lightning_featgeo.callbacks.lightning_types import LightningModule, Trainer
from lightning_featgeo.callbacks.named_kinds import named_kind
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.history.record import Record
from lightning_featgeo.watch.guard import Guard


class GeometryEarlyStopping(EarlyStopping):
    """Stops training (or does something else) when rules on geometry signals hold.

    Args:
        monitor: a kind of alarm, "collapse" (total and dimensional), "converged", "memorising" or "tail_merging"; or a
            logged name such as "featgeo/val/feature_std"; or several of these. Direction, scale and default limits come
            from the catalogue.
        rule: for logged names, a rule or several, any of which is enough: ``Drop()``, ``Decline()``, ``Peak()``,
            ``Plateau()``, ``Threshold(below=…)``, ``GeneralizationGap(to="train_clean")``, ``ChangePoint()``, or a
            ``Rule`` of your own. None: ``Drop()``, or ``ChangePoint()`` for a signal that has no better and worse.
        patience: checks in a row for which a rule must hold, ≥ 1. None: the kind's own, 2 for a logged name.
        warmup: first checks that are not judged and are nobody's best, ≥ 0. None: the kind's own, 0 for a logged name.
        action: "stop", "warn", "alert" (a W&B alert), "checkpoint" (saves one, named after the alarm), or a callable
            that is given the ``Alarm``; or several of these. A callable runs on every rank.
        stage, layer: of a kind, as in the logged names. None: the first validation loader (training, where there is no
            validation), and the first watched layer.
        hysteresis: share by which a limit is eased once its rule holds, so that it does not flicker, [0, 1).
        alerts: which alarms W&B and Trackio send on as messages: "failure" (all but "converged"), "all" or False.
            ``action="alert"`` is "all", and demands W&B.
        min_effect: changes smaller than so many times the signal's noise (its standard error, or how it jumps between
            checks) are none, ≥ 0.
        limits: of a kind, a file with limits fixed on your own runs, which
            ``python -m lightning_featgeo.alarms calibrate RUN…`` writes.

    Alarms have two grades: a failure (the features are being lost) stops; a notice (something moves, look at it) is
    said, marked and kept, and stops nothing. A gap is no check. Windows that close inside an epoch are checks, and stop
    there. After a stop ``stopping_reason_message`` tells why in a sentence, ``alarms`` in full; ``state`` is "quiet",
    "notice", "alarm" or "cannot tell". Needs a ``FeatureGeometryMonitor`` among the trainer's callbacks.
    """

    default_action: Action = "stop"

    def __init__(
        self,
        monitor: str | Sequence[str] = "collapse",
        rule: Rule | Sequence[Rule] | None = None,
        patience: int | None = None,
        warmup: int | None = None,
        action: Action | Sequence[Action] | None = None,
        stage: str | None = None,
        layer: str | None = None,
        hysteresis: float = 0.2,
        min_effect: float = 3.0,
        alerts: bool | str = "failure",
        limits: str | Path | None = None,
    ) -> None:
        for name, value, least in (("patience", patience, 1), ("warmup", warmup, 0)):
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigurationError(f"{name} is a whole number of checks, at least {least}; got {value!r}")
        if not 0 <= hysteresis < 1 or not min_effect >= 0:
            raise ConfigurationError(
                f"needs hysteresis in [0, 1) and min_effect ≥ 0, got {hysteresis} and {min_effect}"
            )
        self.actions = check_actions(self.default_action if action is None else action)
        if alerts not in (True, False, "failure", "all"):
            raise ConfigurationError(f'alerts={alerts!r}: choose "failure", "all" or False')
        self.alerts = "all" if alerts is True or "alert" in self.actions else alerts
        watched = [monitor] if isinstance(monitor, str) else list(monitor)
        for each in [rule] if rule is None or isinstance(rule, Rule) else list(rule):
            if each is not None and not isinstance(each, Rule):
                raise ConfigurationError(f"rule={each!r} is no rule: give an instance, for example Drop(0.3)")
        if not watched:
            raise ConfigurationError('monitor= is empty: name a kind, such as "collapse", or a logged name')
        if rule is not None and all(each in KINDS for each in watched):
            raise ConfigurationError(
                f"{watched[0]!r} brings its own rules; give rule= with a logged name, such as 'featgeo/val/feature_std'"
            )
        self.detectors = [
            Detector(kind, of_stage, of_layer, patience, warmup, hysteresis, min_effect)
            for kind, of_stage, of_layer in (named_kind(each, rule, stage or "val", layer, limits) for each in watched)
        ]
        self.watched, self.rule, self.limits = tuple(watched), rule, limits
        self._stated_stage = self.detectors[0].stage
        self._following = [
            d for each, d in zip(watched, self.detectors, strict=True) if each in KINDS and stage is None
        ]
        super().__init__(
            monitor=self.detectors[0].names[0], patience=patience or 1, strict=False, check_finite=False, verbose=False
        )
        self.alarms: list[Alarm] = []
        self.checkpoints = Checkpoints()
        self._told_unsure: set[int] = set()
        self._resumed = False
        self._stage: str | None = None  # "fit", "validate", …: what the trainer runs

    @property
    def state_key(self) -> str:
        """Distinct for stoppers that watch something else, or otherwise."""
        rules = [self.rule] if isinstance(self.rule, Rule) else [*(self.rule or ())]
        first = self.detectors[0]
        return _compat.state_key(
            self,
            monitor=self.watched, rule=[rule_name(each) for each in rules],
            patience=first.patience, warmup=first.warmup, stage=self._stated_stage, layer=first.layer,
            hysteresis=first.hysteresis, min_effect=first.min_effect,
            action=[action_name(action) for action in self.actions],
            **({} if self.limits is None else {"limits": [rule_name(w.rule) for w in first.kind.watches]}),
        )  # fmt: skip

    @property
    def geometry_names(self) -> list[str]:
        """Logged names without which this can't be told."""
        return [name for detector in self.detectors for name in detector.names]

    @property
    def state(self) -> str:
        """ "alarm", "notice", "cannot tell" or "quiet", of all detectors: the first of these that one is in."""
        states = {detector.state for detector in self.detectors}
        return next(state for state in ("alarm", "notice", "cannot tell", "quiet") if state in states)

    @property
    def why(self) -> str:
        """Why nothing can be told, "" if it can."""
        return next((detector.why for detector in self.detectors if detector.why), "")

    def follow(self, stages: Sequence[str]) -> None:
        """Watch the first of the stages that have windows, where none was named."""
        for detector in self._following if stages else ():
            detector.stage = self._stated_stage if self._stated_stage in stages else stages[0]
        self.monitor = self.detectors[0].names[0]

    # --- a run begins ------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to stand alone: values come from a monitor.

        Raises:
            ConfigurationError: with the line to paste.
        """
        super().setup(trainer, pl_module, stage)
        self._stage = stage
        callbacks: Sequence[Any] = getattr(trainer, "callbacks", [])
        if not any(hasattr(callback, "known_geometry_names") for callback in callbacks):
            me = type(self).__name__
            raise ConfigurationError(
                f"{me}({self.watched[0]!r}) needs a FeatureGeometryMonitor: "
                f"Trainer(callbacks=[FeatureGeometryMonitor(), {me}(…)])"
            )
        if stage == "fit":
            check_possible(self.actions, trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Whatever began is over: a state that is loaded now is for the next fit."""
        self._stage = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A new run has no past, unless it was loaded or the trainer goes on; none has stopped yet."""
        if not self._resumed and (trainer.global_step == 0 or trainer.ckpt_path is not None):
            for detector in self.detectors:
                detector.forget()
            self.alarms, self.stopped_epoch, self.checkpoints = [], 0, Checkpoints()
        if "stop" in self.actions:  # an alarm that still stands stops a run that goes on after it, too
            for detector in self.detectors:
                detector.raised = {each for each in detector.raised if each[0] == "notice"}
        _compat.mark_stopped(self, None)
        self._resumed = False

    # --- a window closes ---------------------------------------------------------------------------------------------

    def state_of(self, record: Record) -> set[str]:
        """States of the detectors that judge windows of this stage and layer."""
        return {detector.state for detector in self.detectors if detector.prefix == record.prefix}

    def hear(self, record: Record) -> None:
        """Note a window that others may be compared with."""
        for detector in self.detectors:
            detector.hear(record)

    def observe(self, trainer: Trainer, record: Record, guard: Guard) -> list[Alarm]:
        """Look at a window that just closed; returns the alarms that are due now."""
        if _compat.skips_early_stopping(self, trainer) or getattr(trainer, "fast_dev_run", False):
            return []
        with guard.around("looking for checkpoints", lost="an alarm will name none"):
            self.checkpoints.look(trainer)
        found = [alarm for detector in self.detectors if (alarm := detector.observe(record, guard)) is not None]
        for alarm in found:
            alarm.checkpoint = self.checkpoints.before(alarm.since_step)
        self.alarms += found
        return found

    def stop(self, trainer: Trainer, alarm: Alarm) -> bool:
        """Tell the trainer to stop, if that is the action and this is the first alarm; returns whether it was.

        Never for a notice.
        """
        if "stop" not in self.actions or self.stopping_reason_message is not None or alarm.grade == "notice":
            return False
        self.stopped_epoch = trainer.current_epoch
        _compat.mark_stopped(self, f"featgeo: stopping, {alarm.line}.")
        trainer.should_stop = True
        return True

    def sends_alert(self, alarm: Alarm) -> bool:
        """Whether an alarm is sent on as a message."""
        return self.alerts == "all" or (self.alerts == "failure" and alarm.is_failure)

    def unsure(self) -> Iterator[str]:
        """Reasons, each once in a row, why nothing can be told where windows told nothing."""
        for index, detector in enumerate(self.detectors):
            if not detector.blind:
                self._told_unsure.discard(index)
            elif index not in self._told_unsure and detector.state == "cannot tell":
                self._told_unsure.add(index)
                yield f'can\'t tell whether there is "{detector.kind.name}" in {detector.prefix}: {detector.blind}'

    def act(self, trainer: Trainer, alarm: Alarm, guard: Guard) -> None:
        """Do what is to be done about an alarm, each on its own."""
        for action in self.actions:
            told = f"the alarm's action {action_name(action)}"
            with guard.around(told, lost="the alarm stands"):
                do(action, trainer, alarm)

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        """Lightning's check at an epoch's end: nothing to do, the rules were asked when the window closed."""

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the detectors have seen is the state."""
        return {
            **super().state_dict(),
            "version": stopper_state.VERSION,
            "detectors": [detector.state_dict() for detector in self.detectors],
            "alarms": [alarm.as_dict() for alarm in self.alarms],
            "checkpoints": {path: list(told) for path, told in self.checkpoints.seen.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was seen before: in a fit. To evaluate a checkpoint is no reason to take up its past."""
        if self._stage not in (None, "fit"):
            return
        lost = stopper_state.load(self, state_dict)
        if lost:
            warn_of_lost_state(f"{type(self).__name__}({self.watched[0]!r})", lost)
        self._resumed = True


class GeometryAlarm(GeometryEarlyStopping):
    """A :class:`GeometryEarlyStopping` that warns, with the whole report, in place of stopping."""

    default_action: Action = "warn"
