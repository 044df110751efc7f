"""Lightning's own monitors that watch one of our names: find them at fit's start, and let gaps pass them by.

``EarlyStopping`` and ``ReduceLROnPlateau`` raise when a monitored key is missing, unless ``strict=False``.
``ModelCheckpoint`` raises without such a switch, so its ranking step is skipped while the key is missing
(``save_last`` still works). A name that can never be logged is an error here, before anything was trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_featgeo.types import ConfigurationError, Tensor, near_misses

PREFIXES = ("featgeo/", "featgeo_monitor/")


def watchers(trainer: pl.Trainer) -> Iterator[tuple[Any, str]]:
    """Every callback and scheduler configuration that watches one of our names, and the name."""
    callbacks: Sequence[Any] = getattr(trainer, "callbacks", [])
    for watcher in [*callbacks, *trainer.lr_scheduler_configs]:
        name = getattr(watcher, "monitor", None)
        if isinstance(name, str) and name.startswith(PREFIXES):
            yield watcher, name


def check_names(trainer: pl.Trainer, known: Sequence[str]) -> None:
    """Refuse monitors of names that this run never logs.

    Raises:
        ConfigurationError: with near misses and what to change.
    """
    for watcher, name in watchers(trainer):
        if name not in known:
            who = type(getattr(watcher, "scheduler", watcher)).__name__
            raise ConfigurationError(
                f"{who}(monitor={name!r}) watches a name that this run never logs.{near_misses(name, known)} "
                "Change monitor=…, or add the signal to FeatureGeometryMonitor(signals=[…]) "
                "and its stage to stages=(…)"
            )


def let_gaps_pass(trainer: pl.Trainer) -> list[Callable[[], None]]:
    """Make stock monitors of our names skip a check whose value is a gap; returns how to undo it."""
    undo: list[Callable[[], None]] = []
    for watcher, name in watchers(trainer):
        if isinstance(watcher, ModelCheckpoint):
            original = getattr(watcher, "_save_topk_checkpoint", None)
            if callable(original) and not isinstance(original, functools.partial):
                watcher._save_topk_checkpoint = functools.partial(_rank_unless_gap, original, name)  # type: ignore[method-assign]
                undo.append(functools.partial(_restore, watcher))
        elif getattr(watcher, "strict", False):
            watcher.strict = False
            undo.append(functools.partial(setattr, watcher, "strict", True))
            who = "EarlyStopping" if isinstance(watcher, EarlyStopping) else "the scheduler"
            rank_zero_info(
                f"featgeo: {who} that watches {name!r} was set to strict=False: a gap skips its check instead of "
                "ending the run"
            )
    return undo


def _rank_unless_gap(
    original: Callable[[pl.Trainer, dict[str, Tensor]], None],
    name: str,
    trainer: pl.Trainer,
    monitor_candidates: dict[str, Tensor],
) -> None:
    if name in monitor_candidates:
        original(trainer, monitor_candidates)


def _restore(checkpoint: ModelCheckpoint) -> None:
    checkpoint.__dict__.pop("_save_topk_checkpoint", None)
