"""How often windows are made, what they are compared with over time, and where they are computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_featgeo.capture.names import segment
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.watch.feature_files import check_path
from lightning_featgeo.watch.settings import check_whole


@dataclass(frozen=True)
class Windows:
    """How often windows are made, of how much of training, and what they are compared with over time.

    ``FeatureGeometryMonitor(windows=Windows(every_n_epochs=5))``.

    Args:
        every_n_epochs: a window every so many epochs.
        every_n_train_steps: training windows of so many optimiser steps instead of epochs; of so many batches where
            several processes optimise by hand (``automatic_optimization = False``), as they may step differently.
        every_n_batches: of a training window's batches, the first and one in so many of the others are watched, chosen
            by a hash: the rest costs next to nothing. Validation is always watched whole.
        best: name of the metric, as the run logs it ("val_loss"), that tells which window was the best so far: signals
            whose names end in ``_best`` compare with it.
        best_mode: "min" or "max": whether the lowest or the highest value is best.
        anchor: what signals whose names end in ``_anchor`` compare the first validation loader's windows with (of
            training, where there is no validation): a file of features (``.npz``, ``.npy``, ``.pt``), a checkpoint of
            another run (``.ckpt``), a model that is not trained, or a function ``batch -> (samples, e) features``. A
            model is called as a probe set's is, on the same batches, at a price of its own. By name of the window:
            ``{"val": "old_index.npz", "clean": teacher}``.
        close: "in place": training waits until a window's curves are computed. "background": its rows are copied, and
            the curves are computed by another thread while training goes on, and published as soon as they are there
            (with several processes, and at the latest, when the stage's next window closes), under the window's own
            epoch. The numbers are the same. Alarms and stops act one check later, and nothing of Lightning's can
            monitor our names, as there is no value yet when it looks. At its best where a window takes long beside an
            epoch, and there is a processor to spare.

    Raises:
        ConfigurationError: if a number is below 1 or not whole, or the anchor is no such thing.
    """

    every_n_epochs: int = 1
    every_n_train_steps: int | None = None
    every_n_batches: int = 1
    best: str | None = None
    best_mode: Literal["min", "max"] = "min"
    anchor: Any = None
    close: Literal["in place", "background"] = "in place"

    def __post_init__(self) -> None:
        numbers = ("every_n_epochs", "every_n_train_steps", "every_n_batches")
        given = {**{name: getattr(self, name) for name in numbers}, numbers[1]: self.every_n_train_steps or 1}
        check_whole(**given)
        if None in given.values() or self.every_n_train_steps == 0 or min(given.values()) < 1:
            raise ConfigurationError("every_n_epochs, every_n_train_steps and every_n_batches must be at least 1")
        if self.best_mode not in ("min", "max"):
            raise ConfigurationError(f'Windows(best_mode={self.best_mode!r}): choose "min" or "max"')
        if self.close not in ("in place", "background"):
            raise ConfigurationError(f'Windows(close={self.close!r}): choose "in place" or "background"')
        self._check_anchors()

    @property
    def anchors(self) -> dict[str | None, Any]:
        """By name of the window: the path of a file, a model or a function; None: of the first loader."""
        if self.anchor is None:
            return {}
        given = self.anchor if isinstance(self.anchor, Mapping) else {None: self.anchor}
        return {
            None if name is None else segment(str(name)): Path(one) if isinstance(one, (str, os.PathLike)) else one
            for name, one in given.items()
        }

    def _check_anchors(self) -> None:
        for one in self.anchors.values():
            if isinstance(one, Path):
                check_path(one)
            elif not callable(one):
                raise ConfigurationError(
                    f'Windows(anchor={type(one).__name__}): give the path of a file, as in anchor="features.npz", a '
                    "model, or a function of the batch"
                )


USUAL_WINDOWS = Windows()
