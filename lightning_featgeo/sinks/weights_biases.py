"""Weights & Biases: panels, tables, charts, summary, alerts. All of it works offline; nothing waits for a server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_featgeo.sinks import pictures
from lightning_featgeo.sinks.sink import EPOCH, At, Sink
from lightning_featgeo.sinks.tables import Lines, Matrix, Scatter, Table
from lightning_featgeo.types import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class WandbSink(Sink):
    """A ``WandbLogger``. Rows are logged without a step: one behind W&B's own would be dropped."""

    def _log(self, values: dict[str, Any], at: At) -> None:
        self.logger.experiment.log({EPOCH: at.epoch, **values})

    def define(self, names: Mapping[str, str], shown: Collection[str]) -> None:
        """The fractional epoch as x axis, a summary of last and best, and no panel for what is not shown."""
        run = self.logger.experiment
        run.define_metric(EPOCH, hidden=True)
        for name, direction in names.items():
            best = {"higher": ",max", "lower": ",min"}.get(direction, "")
            run.define_metric(name, step_metric=EPOCH, summary=f"last{best}", hidden=name not in shown or None)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Into the run's config, under one key."""
        self.logger.experiment.config.update({"featgeo": dict(facts)}, allow_val_change=True)

    def histograms(self, values: Mapping[str, Tensor], at: At) -> None:
        """Histogram media."""
        import wandb

        self._log({name: wandb.Histogram(value.tolist()) for name, value in values.items()}, at)

    def figure(self, name: str, draw: Callable[[], Figure], at: At) -> None:
        """An image, if matplotlib is installed."""
        import wandb

        if pictures.can_draw():
            self._log({name: wandb.Image(draw())}, at)

    def lines(self, name: str, chart: Lines, at: At) -> None:
        """A chart that can be hovered."""
        import wandb

        xs, ys = zip(*chart.series.values(), strict=True)
        plot = wandb.plot.line_series(xs=xs, ys=ys, keys=list(chart.series), title=chart.title, xname=chart.x)
        self._log({name: plot}, at)

    def matrix(self, name: str, matrix: Matrix, at: At) -> None:
        """A table, and a picture of it."""
        rows = [[name, *values] for name, values in zip(matrix.names, matrix.values, strict=True)]
        self.table(name + "_table", Table(["class", *_distinct(matrix.names)], rows), at)
        super().matrix(name, matrix, at)

    def scatter(self, name: str, points: Scatter, at: At) -> None:
        """A chart that can be hovered, and a picture that is coloured."""
        import wandb

        rows = [[*p, g, s] for p, g, s in zip(points.points, points.groups, points.samples, strict=True)]
        table = wandb.Table(columns=["x", "y", "class", "sample"], data=rows)
        self._log({name: wandb.plot.scatter(table, "x", "y", title=points.title)}, at)
        super().scatter(name + "_picture", points, at)

    def table(self, name: str, table: Table, at: At) -> None:
        """A table that can be sorted and filtered."""
        import wandb

        table = table.titled()
        self._log({name: wandb.Table(columns=[*table.columns], data=table.rows, allow_mixed_types=True)}, at)

    def embedding(self, name: str, rows: Tensor, table: Table, at: At) -> None:
        """Raw features beside what is known of them: W&B's own 2-D projection takes it from here."""
        import wandb

        columns: list[str | int] = [*table.columns, *(f"x{i}" for i in range(rows.shape[1]))]
        data = [[*known, *row] for known, row in zip(table.rows, rows.tolist(), strict=True)]
        self._log({name: wandb.Table(columns=columns, data=data, allow_mixed_types=True)}, at)

    def note(self, key: str, text: str, at: At) -> None:
        """Into the run's summary."""
        self.logger.experiment.summary[key] = text

    def alert(self, title: str, text: str, failure: bool) -> None:
        """W&B sends it on, by mail or chat, as its user has chosen."""
        self.logger.experiment.alert(title=title, text=text, level="WARN" if failure else "INFO")


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names must differ."""
    seen: dict[str, int] = {"class": 1}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
