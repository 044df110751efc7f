"""Lightning's own monitors that watch one of our names: find them at fit's start, and let gaps pass them by.

``EarlyStopping`` and ``ReduceLROnPlateau`` raise when a monitored key is missing, unless ``strict=False``.
``ModelCheckpoint`` raises without such a switch, so its ranking step is skipped while the key is missing
(``save_last`` still works). A name that can never be logged is an error here, before anything was trained.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.callbacks.settings import MonitorSettings
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.sinks import EPOCH
from lightning_featgeo.watch.announcement import say

PREFIXES = ("featgeo/", "featgeo_monitor/")


def watchers(trainer: Trainer) -> Iterator[tuple[Any, str]]:
    """Every callback and scheduler configuration that watches one of our names, and the name."""
    callbacks: Sequence[Any] = getattr(trainer, "callbacks", [])
    for watcher in [*callbacks, *trainer.lr_scheduler_configs]:
        for name in getattr(watcher, "geometry_names", [getattr(watcher, "monitor", None)]):
            if isinstance(name, str) and name.startswith(PREFIXES):
                yield watcher, name


def also_asked(trainer: Trainer, settings: MonitorSettings) -> tuple[str, ...]:
    """Signals that are watched or shown beside those of "auto": whoever names one wants it computed."""
    if settings.signals != "auto":
        return ()
    named = [name.rpartition("/")[2] for _, name in watchers(trainer) if name.startswith("featgeo/")]
    named += [settings.display.headline] if settings.display.headline is not None else []
    return tuple(dict.fromkeys(name for name in named if name in CATALOG))


def check_names(trainer: Trainer) -> None:
    """Refuse monitors of names that this run never logs, and two of ours that log the same name.

    Raises:
        ConfigurationError: with near misses and what to change.
    """
    callbacks: Sequence[Any] = getattr(trainer, "callbacks", [])
    stages = [name for ours in callbacks if hasattr(ours, "known_stages") for name in ours.known_stages()]
    for stopper in (one for one in callbacks if hasattr(one, "follow")):
        stopper.follow(stages)
    known: dict[str, Any] = {}
    for ours in callbacks:
        for name in ours.known_geometry_names() if hasattr(ours, "known_geometry_names") else ():
            other = known.setdefault(name, ours)
            if other is not ours and name.startswith("featgeo/") and name != EPOCH:
                raise ConfigurationError(
                    f"two FeatureGeometryMonitors would both log {name!r}, and Lightning would average them; watch "
                    'several layers with one monitor: FeatureGeometryMonitor(layer=["a", "b"])'
                )
    late = {name for ours in callbacks if _computes_beside(ours) for name in ours.known_geometry_names()}
    not_set_up = trainer.val_dataloaders is None and trainer.enable_validation
    for watcher, name in watchers(trainer):
        of_a_loader = re.sub(r"^(featgeo\w*)/(?!train/)[^/]+/", r"\1/val/", name) if not_set_up else name
        if {name, of_a_loader} & late and not hasattr(watcher, "geometry_names"):
            raise ConfigurationError(
                f"{_called(watcher)}(monitor={name!r}) looks when a window has closed, and with "
                'Windows(close="background") there is no value yet: leave out close=, or monitor another metric'
            )
        if name not in known and of_a_loader not in known:
            raise ConfigurationError(
                f"{_called(watcher)}(monitor={name!r}) watches a name that this run never logs."
                f"{near_misses(name, list(known))} Change monitor=…, or add the signal to "
                "FeatureGeometryMonitor(signals=[…]) and its stage to stages=(…)"
            )


def _computes_beside(callback: Any) -> bool:
    """Whether this is a monitor whose values come later than others look."""
    windows = getattr(getattr(callback, "settings", None), "windows", None)
    return getattr(windows, "close", "") == "background" and hasattr(callback, "known_geometry_names")


def _called(watcher: Any) -> str:
    return type(getattr(watcher, "scheduler", watcher)).__name__


def let_gaps_pass(trainer: Trainer) -> list[Callable[[], None]]:
    """Make stock monitors of our names skip a check whose value is a gap; returns how to undo it."""
    undo: list[Callable[[], None]] = []
    for watcher, name in watchers(trainer):
        if _compat.is_lightnings(watcher, "ModelCheckpoint"):
            restore = _compat.skip_ranking_on_gaps(watcher, name)
            undo += [] if restore is None else [restore]
        elif getattr(watcher, "strict", False):
            watcher.strict = False
            undo.append(functools.partial(setattr, watcher, "strict", True))
            who = "EarlyStopping" if _compat.is_lightnings(watcher, "EarlyStopping") else "the scheduler"
            if trainer.is_global_zero:
                say(
                    f"featgeo: {who} that watches {name!r} was set to strict=False: a gap skips its check instead of "
                    "ending the run"
                )
    return undo
