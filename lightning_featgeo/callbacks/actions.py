"""What is done about an alarm: warn, stop, a W&B alert, a checkpoint, or a callable of the user's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_featgeo import sinks
from lightning_featgeo.alarms import Alarm
from lightning_featgeo.types import ConfigurationError, FeatureGeometryWarning, near_misses

NAMES = ("warn", "stop", "alert", "checkpoint")
Action = str | Callable[[Alarm], object]


def check_actions(given: Action | Sequence[Action], trainer: pl.Trainer | None = None) -> tuple[Action, ...]:
    """The actions as a tuple; with a trainer, also whether it can do them.

    Raises:
        ConfigurationError: for an unknown one, none, or an alert without Weights & Biases.
    """
    actions: tuple[Action, ...] = (given,) if isinstance(given, str) or callable(given) else tuple(given)
    if not actions:
        raise ConfigurationError(f"action= is empty: choose of {', '.join(NAMES)}, or give a callable")
    for action in actions:
        if not callable(action) and action not in NAMES:
            raise ConfigurationError(f"unknown action {action!r}.{near_misses(str(action), NAMES)}")
    if trainer is not None and "alert" in actions and not sinks.wandb_loggers(trainer.loggers):
        raise ConfigurationError(
            'action="alert" sends a Weights & Biases alert: give the trainer a WandbLogger, or use action="warn"'
        )
    return actions


def do(action: Action, trainer: pl.Trainer, alarm: Alarm) -> None:
    """One action, on every rank. "stop" only speaks: the stopper has told the trainer already."""
    if callable(action):
        action(alarm)
    elif action == "stop":
        rank_zero_info(alarm.report.replace("featgeo alarm:", "featgeo: stopping,", 1))
    elif action == "warn":
        if trainer.is_global_zero:
            warnings.warn(alarm.report, FeatureGeometryWarning, stacklevel=2)
    elif action == "alert":
        if trainer.is_global_zero:
            for logger in sinks.wandb_loggers(trainer.loggers):
                sinks.wandb_alert(logger, f"featgeo: {alarm.title}", alarm.report)
    elif action == "checkpoint":
        trainer.save_checkpoint(_path(trainer, alarm))


def _path(trainer: pl.Trainer, alarm: Alarm) -> str:
    """Beside the run's other files; remote stores keep their address."""
    folder = str(trainer.log_dir or trainer.default_root_dir)  # log_dir is the same on every rank
    name = f"{alarm.kind}-step={alarm.step}.ckpt"
    return f"{folder.rstrip('/')}/featgeo/{name}" if "://" in folder else str(Path(folder) / "featgeo" / name)


@dataclass
class Checkpoints:
    """Which checkpoints were there at which step, as far as ``ModelCheckpoint`` tells."""

    seen: dict[str, int] = field(default_factory=dict)

    def look(self, trainer: pl.Trainer) -> None:
        """Note what is new."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                step = int(getattr(callback, "_last_global_step_saved", trainer.global_step))
                for path in (callback.last_model_path, callback.best_model_path, *callback.best_k_models):
                    if path:
                        kept = path != callback.last_model_path  # "last" is written again under its old name
                        self.seen[str(path)] = self.seen.get(str(path), step) if kept else step

    def before(self, step: int) -> str | None:
        """The newest one of an earlier step that still is there."""
        there = [(at, path) for path, at in self.seen.items() if at < step and ("://" in path or os.path.exists(path))]
        return max(there)[1] if there else None
