"""What is done about an alarm: warn, stop, a W&B alert, a checkpoint, or a callable of the user's."""

from __future__ import annotations

import itertools
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.alarms import Alarm
from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.callbacks.trainer import folder_of_run
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning, near_misses
from lightning_featgeo.sinks import WandbSink, sinks_of
from lightning_featgeo.watch.announcement import fill, say

NAMES = ("warn", "stop", "alert", "checkpoint")
Action = str | Callable[[Alarm], object]


def check_actions(given: Any) -> tuple[Action, ...]:
    """The actions as a tuple; an import path such as "package.module.function" becomes what it names.

    Raises:
        ConfigurationError: for an unknown one, or none.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    actions = list(given) if several and not callable(given) else [given]
    if not actions:
        raise ConfigurationError(f"action= is empty: choose of {', '.join(NAMES)}, or give a callable")
    for index, action in enumerate(actions):
        if isinstance(action, str) and "." in action:
            try:
                actions[index] = action = pkgutil.resolve_name(action)
            except (ImportError, AttributeError, ValueError) as error:
                raise ConfigurationError(f"action {action!r} can't be imported: {error}") from None
        if not callable(action) and action not in NAMES:
            raise ConfigurationError(
                f"unknown action {action!r}: choose of {', '.join(NAMES)}, or give a callable."
                f"{near_misses(str(action), NAMES)}"
            )
    return tuple(actions)


def check_possible(actions: Sequence[Action], trainer: Trainer) -> None:
    """Refuse what this trainer can't do.

    Raises:
        ConfigurationError: for an alert without Weights & Biases.
    """
    dry = getattr(trainer, "fast_dev_run", False)  # it has no loggers
    if "alert" in actions and not dry and not any(isinstance(sink, WandbSink) for sink in sinks_of(trainer.loggers)):
        raise ConfigurationError(
            'action="alert" sends a Weights & Biases alert: give the trainer a WandbLogger, or use action="warn"'
        )


def action_name(action: Action) -> str:
    """What an action is called in messages."""
    return action if isinstance(action, str) else getattr(action, "__qualname__", type(action).__qualname__)


def do(action: Action, trainer: Trainer, alarm: Alarm) -> None:
    """One action, on every rank. "stop" only speaks: the stopper has told the trainer already.

    "alert" has happened: every alarm reaches the loggers that have alerts; naming it demands such a logger.
    """
    if callable(action):
        action(alarm)
    elif action == "stop":
        if trainer.is_global_zero and alarm.grade == "notice":
            say(fill(f"featgeo notice: {alarm.line}", 16))
        elif trainer.is_global_zero:
            say(fill(alarm.report.replace("featgeo alarm:", "featgeo: stopping,", 1), 16))
    elif action == "warn":
        if trainer.is_global_zero:
            warnings.warn(alarm.report, FeatureGeometryWarning, stacklevel=2)
    elif action == "checkpoint":
        path = _path(trainer, alarm)
        trainer.save_checkpoint(path)
        for sink in sinks_of(trainer.loggers) if trainer.is_global_zero else []:
            sink.attach_checkpoint(Path(path))


def _path(trainer: Trainer, alarm: Alarm) -> str:
    """A new file beside the run's history; remote stores keep their address. The same on every rank."""
    folder = str(trainer.log_dir or trainer.default_root_dir)  # log_dir is the same on every rank
    told = [str(logger.version) for logger in trainer.loggers[:1] if logger.version is not None]
    run = told[0] if told else datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "-".join([alarm.kind, run, f"step={alarm.step}"])
    beside = folder_of_run(trainer)  # as the history is
    path = f"{folder.rstrip('/')}/featgeo/{name}" if "://" in folder else str(beside / name)
    copy = next(n for n in itertools.count() if not os.path.exists(_numbered(path, n)))
    found: str = trainer.strategy.broadcast(_numbered(path, copy))
    return found


def _numbered(path: str, copy: int) -> str:
    return f"{path}-v{copy}.ckpt" if copy else f"{path}.ckpt"


@dataclass
class Checkpoints:
    """Which checkpoints were there at which step, as far as ``ModelCheckpoint`` tells.

    ``seen``: path -> step and time of writing; a file that was written again holds a later step.
    """

    seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def look(self, trainer: Trainer) -> None:
        """Note what is new."""
        callbacks: Sequence[Any] = trainer.checkpoint_callbacks
        for callback in callbacks:
            step = _compat.last_saved_step(callback)
            if _compat.is_lightnings(callback, "ModelCheckpoint") and step:  # 0: nothing was saved since the run began
                for path in (callback.last_model_path, callback.best_model_path, *callback.best_k_models):
                    self._note(str(path), step)

    def _note(self, path: str, step: int) -> None:
        if not path:
            return
        remote = "://" in path
        written = step if remote else os.stat(path).st_mtime_ns if os.path.exists(path) else 0
        if written and self.seen.get(path, (0, 0))[1] != written:
            self.seen[path] = step, written

    def before(self, step: int) -> str | None:
        """The newest one of an earlier step that still is there."""
        there = [(at, p) for p, (at, _) in self.seen.items() if at < step and ("://" in p or os.path.exists(p))]
        return max(there)[1] if there else None
