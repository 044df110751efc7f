"""One monitor, several trainers: one after the other, one inside of another's hook, and evaluation after a fit."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import Any

from lightning_featgeo.callbacks.lightning_types import LightningModule, Trainer
from lightning_featgeo.callbacks.run import LightningRun
from lightning_featgeo.errors import ConfigurationError


class OtherTrainers:
    """What a monitor knows of the trainer and the model of its last fit, and of runs that wait for a nested one."""

    def __init__(self) -> None:
        self._trainer: weakref.ref[Trainer] | None = None
        self._model: weakref.ref[LightningModule] | None = None
        self._waiting: list[dict[str, Any]] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()  # neither copies nor pickles know of any

    def fits(self, trainer: Trainer, model: LightningModule) -> bool:
        """A fit begins; whether the trainer is that of the last one."""
        same = self._trainer is not None and self._trainer() is trainer
        self._trainer, self._model = weakref.ref(trainer), weakref.ref(model)
        return same

    def adopt(self, run: LightningRun, of_fit: Mapping[str, Any]) -> None:
        """An evaluation of the model that was fitted watches what the fit has watched."""
        layers, sources = of_fit.get("layers") or [], run.watcher.sources
        same = self._model is not None and self._model() is run.pl_module
        if same and sources.scouting and layers and (len(layers) == 1 or of_fit.get("outputs")):
            with contextlib.suppress(ConfigurationError):  # its modules were replaced since
                sources.adopt(layers, bool(of_fit.get("outputs")), "as in the fit")

    def are_inside(self, run: LightningRun | None, trainer: Trainer) -> bool:
        """Whether this trainer runs inside of a hook of another one's run."""
        other = None if run is None or run.trainer is trainer else run.trainer
        return other is not None and str(getattr(other.state.status, "value", "")) == "running"

    def wait(self, state: dict[str, Any]) -> None:
        """What is to be gone on with, once the nested trainer has ended."""
        self._waiting.append(state)

    def go_on(self) -> dict[str, Any]:
        """What waits, if anything does."""
        return self._waiting.pop() if self._waiting else {}
