"""Sink: what a logger may be shown. Whatever one can't show, it leaves out; charts fall back to pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_featgeo import _loggers
from lightning_featgeo.sinks.tables import Chart, Lines, Matrix, Scatter, Table
from lightning_featgeo.types import Tensor

EPOCH = "featgeo/epoch"
ALARM = "alarm"  # beside the signals of a stage: 1 while an alarm stands, 0 while none does, a gap if nobody can tell


class At(NamedTuple):
    """When: the fractional epoch, and the step under which Lightning files its own values now."""

    epoch: float
    step: int


class Sink:
    """One logger. Methods do nothing where a logger has no such thing."""

    own_rows = False  # whether a row that Lightning logs for us could cost the user one of theirs
    joint = "-"  # between a logger's prefix and a name
    keeps_files = False  # whether a run there can have files
    draws = False  # whether charts become pictures: those cost time, so not every window gets them

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def named(self, name: str) -> str:
        """A name with the logger's own prefix, as Lightning puts it before those of scalars."""
        prefix = _loggers.logger_prefix(self.logger)
        return f"{prefix}{self.joint}{name}" if prefix else name

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return False

    @property
    def name(self) -> str:
        """The logger's class."""
        return type(self.logger).__name__

    def define(self, names: Mapping[str, str], shown: Collection[str]) -> None:
        """New scalars by name, each with which way is better ("higher", "lower", "none"); and which get a panel."""

    def describe(self, facts: Mapping[str, Any]) -> None:
        """What the run is: layer, signals, versions, backend, fingerprint."""

    def histograms(self, values: Mapping[str, Tensor], at: At) -> None:
        """One histogram a name."""

    def picture(self, name: str, chart: Chart, at: At) -> None:
        """A chart's picture; nothing where matplotlib is missing."""

    def chart(self, name: str, chart: Chart, at: At) -> None:
        """A chart, as the logger shows its kind best."""
        if isinstance(chart, Lines):
            self.lines(name, chart, at)
        elif isinstance(chart, Matrix):
            self.matrix(name, chart, at)
        elif isinstance(chart, Scatter):
            self.scatter(name, chart, at)
        else:
            self.picture(name, chart, at)

    def lines(self, name: str, chart: Lines, at: At) -> None:
        """Several lines in one chart."""
        self.picture(name, chart, at)

    def matrix(self, name: str, matrix: Matrix, at: At) -> None:
        """A matrix in colours."""
        self.picture(name, matrix, at)

    def scatter(self, name: str, points: Scatter, at: At) -> None:
        """Points in the plane."""
        self.picture(name, points, at)

    def table(self, name: str, table: Table, at: At) -> None:
        """A table."""

    def embedding(self, name: str, rows: Tensor, table: Table, at: At) -> None:
        """Feature rows for the logger's own projector, with what is known of each."""

    def scalars(self, values: Mapping[str, float], at: At) -> None:
        """Values of a window, where Lightning doesn't log them: inside an epoch, or beside a logger of its own rows."""
        self.logger.log_metrics({**values, EPOCH: at.epoch}, step=at.step)

    def best(self, values: Mapping[str, tuple[float, float]]) -> None:
        """The best value of each curve so far and its epoch, by logged name."""

    def ends(self) -> None:
        """The run ends: what is sent from now on are its last pictures and tables."""

    def attach(self, path: Path) -> None:
        """A file that belongs to the run: its history, a report of it."""

    def attach_checkpoint(self, path: Path) -> None:
        """A checkpoint that an alarm has written, where the logger was asked to keep models."""

    def note(self, key: str, text: str, at: At) -> None:
        """A sentence beside the run, such as why it was stopped."""

    def alert(self, title: str, text: str, failure: bool) -> None:
        """A message that the logger may send on; ``failure``: something went wrong."""
