"""TrackioLogger: Trackio (local, free experiment tracking) as a Lightning logger, which neither project ships."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_featgeo import _compat, _loggers


class TrackioLogger(Logger):
    """Logs to Trackio: ``Trainer(logger=TrackioLogger("digits"))``, then ``trackio show --project digits``.

    Args:
        project: the project's name.
        name: the run's; None: Trackio invents one. A run of that name is gone on with.
        **init: passed to ``trackio.init``, such as ``space_id=`` for a dashboard on Hugging Face.

    Raises:
        ModuleNotFoundError: if trackio is not installed.
    """

    def __init__(self, project: str = "lightning", name: str | None = None, **init: Any) -> None:
        super().__init__()
        if not _compat.is_installed("trackio"):  # said now: not after the first epoch
            raise ModuleNotFoundError("TrackioLogger needs trackio: pip install trackio")
        self._project, self._name, self._init = project, name, init
        self._run: Any = None
        self._params: dict[str, Any] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``trackio.Run``; made when it is first used."""
        if self._run is None:
            import trackio

            resume = {} if self._name is None else {"resume": "allow"}  # a test goes on with the run of its fit
            self._run = trackio.init(self._project, self._name, config=self._params, **{**resume, **self._init})
            self._name = str(self._run.name)
        return self._run

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run's name, once there is one."""
        return self._name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A row of scalars."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Into the run's config: Trackio keeps what was known before the first row."""
        self._params.update(_loggers.flat_parameters(params))
        if self._run is not None:
            self._run.config.update(self._params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write everything down."""
        if self._run is not None:
            self._run.finish()
            self._run = None
