"""Weights & Biases: panels, tables, charts, summary, alerts. All of it works offline; nothing waits for a server."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_featgeo import _loggers
from lightning_featgeo.history.layouts import principal
from lightning_featgeo.sinks import pictures
from lightning_featgeo.sinks.sink import EPOCH, At, Sink
from lightning_featgeo.sinks.tables import Chart, Lines, Matrix, Scatter, Table
from lightning_featgeo.types import Tensor

CURVE_PANELS, MEDIA_PANELS = 14, 6  # of a run, whatever it watches
WIDEST_TABLE = 64  # columns of features
AGAIN = "featgeo/again"  # 1 in rows of windows that a resumed run had already
SEEN = (  # media that have a panel as long as there are some left
    "spectrum", "class_cosines", "classes_last", "lowest_density_last", "log_density", "depth_feature_std",
)  # fmt: skip


class WandbSink(Sink):
    """A ``WandbLogger``.

    Nothing here makes a row: what is logged waits (``commit=False``) for the row that Lightning, or the user, logs
    next, and becomes part of it. So W&B's own step counts as without us, and drops no row of the user's with a step.
    Of what has no panel of its own, everything still is there to be added to one.
    """

    own_rows = True
    keeps_files = True

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self._waiting = -1, 0.0, frozenset[str]()  # W&B's step and our epoch, and what waits for that row
        self._defined: set[str] = set()
        self._ends = False
        self._before: float | None = None  # the last epoch that a resumed run had when it was taken up
        self._panels = {CURVE_PANELS: 0, MEDIA_PANELS: 0}  # that there are

    @property
    def run(self) -> Any:
        """W&B's own run."""
        return self.logger.experiment

    @property
    def is_over(self) -> bool:
        """Whether the user has finished the run: what is sent to it then waits in vain."""
        return _loggers.has_ended(self.run)

    def ends(self) -> None:
        """What comes now has no row of Lightning's to wait for."""
        self._ends = True

    def _log(self, values: Mapping[str, Any], at: At) -> None:
        run, named = self.run, {self.named(name): value for name, value in values.items()}
        step, epoch, waiting = self._waiting
        if step != run.step:
            waiting = frozenset()  # it has got its row
        elif waiting & named.keys() or epoch != at.epoch:
            run.log({}, commit=True)  # the last window still waits: it would be overwritten
            waiting = frozenset()
        step_of_lightning = {"trainer/global_step": at.step} if self._ends else {}  # else its row has it, or the user's
        again = {self.named(AGAIN): 1.0} if at.epoch <= self._reached() else {}
        run.log({**step_of_lightning, **again, self.named(EPOCH): at.epoch, **named}, commit=False)
        self._waiting = run.step, at.epoch, waiting | named.keys()

    def _reached(self) -> float:
        """The last epoch of the run's first part, if it was resumed: what comes again up to there is marked.

        W&B takes back no row: a run that goes on from a checkpoint repeats the windows that were logged after it.
        """
        if self._before is None:
            known = self.run.summary.get(self.named(EPOCH)) if self.run.resumed else None
            self._before = float(known) if isinstance(known, (int, float)) else -1.0
            if known is not None:
                self.run.define_metric(self.named(AGAIN), hidden=True)
        return self._before

    def _log_media(self, values: Mapping[str, Any], at: At) -> None:
        for name in values:
            if name not in self._defined:
                self._define(name, MEDIA_PANELS, name.rpartition("/")[2] in SEEN)
        self._log(values, at)

    def _define(self, name: str, most: int, wanted: bool) -> None:
        shown = wanted and self._panels[most] < most
        self._panels[most] += shown
        self._defined.add(name)
        step = self.named(EPOCH)
        self.run.define_metric(self.named(name), step_metric=step, hidden=not shown or None)

    def define(self, names: Mapping[str, str], shown: Collection[str]) -> None:
        """The fractional epoch as x axis, and no panel for what is not shown. The summary is a curve's last value."""
        self.run.define_metric(self.named(EPOCH), hidden=True)
        for name in names:
            self._define(name, CURVE_PANELS, name in shown)

    def scalars(self, values: Mapping[str, float], at: At) -> None:
        """They wait for the next row, as all else."""
        self._log(values, at)

    def best(self, values: Mapping[str, tuple[float, float]]) -> None:
        """Into the summary, which sweeps and the table of runs read: ``…/best`` and ``…/best_epoch``."""
        summary = self.run.summary
        for name, (value, epoch) in values.items():
            summary[f"{self.named(name)}/best"], summary[f"{self.named(name)}/best_epoch"] = value, epoch

    def attach(self, path: Path) -> None:
        """Among the run's files, whatever it holds when the run ends."""
        self.run.save(str(path), base_path=str(path.parent.parent), policy="end")

    def attach_checkpoint(self, path: Path) -> None:
        """As an artifact of its own, with ``WandbLogger(log_model=…)``."""
        import wandb

        if _loggers.keeps_models(self.logger) and path.exists():
            run = self.run
            artifact = wandb.Artifact(f"featgeo-alarm-{run.id}", type="model", metadata={"file": path.name})
            artifact.add_file(str(path)) if path.is_file() else artifact.add_dir(str(path))
            run.log_artifact(artifact)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Into the run's config, under one key."""
        self.run.config.update({"featgeo": dict(facts)}, allow_val_change=True)

    def histograms(self, values: Mapping[str, Tensor], at: At) -> None:
        """Histogram media."""
        import wandb

        self._log_media({name: wandb.Histogram(value.tolist()) for name, value in values.items()}, at)

    def picture(self, name: str, chart: Chart, at: At) -> None:
        """An image, if matplotlib is installed."""
        import wandb

        if pictures.can_draw():
            self._log_media({name: wandb.Image(pictures.drawn(chart))}, at)

    def lines(self, name: str, chart: Lines, at: At) -> None:
        """A chart that can be hovered."""
        import wandb

        xs, ys = zip(*chart.series.values(), strict=True)
        plot = wandb.plot.line_series(xs=xs, ys=ys, keys=list(chart.series), title=chart.title, xname=chart.x)
        self._log_media({name: plot}, at)

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
        self._log_media({name: wandb.plot.scatter(table, "x", "y", title=points.title)}, at)
        super().scatter(name + "_picture", points, at)

    def table(self, name: str, table: Table, at: At) -> None:
        """A table that can be sorted and filtered."""
        import wandb

        table = table.titled()
        self._log_media({name: wandb.Table(columns=[*table.columns], data=table.rows, allow_mixed_types=True)}, at)

    def embedding(self, name: str, rows: Tensor, table: Table, at: At) -> None:
        """Features beside what is known of them: W&B's own 2-D projection takes it from here.

        Wide ones as their first principal components: W&B takes minutes for a table of a thousand wide rows.
        """
        import wandb

        name_of = "x"
        if rows.shape[1] > WIDEST_TABLE:
            rows, name_of = principal(rows, WIDEST_TABLE), "pc"
        columns: list[str | int] = [*table.columns, *(f"{name_of}{i}" for i in range(rows.shape[1]))]
        data = [[*known, *row] for known, row in zip(table.rows, rows.tolist(), strict=True)]
        made = wandb.Table(columns=columns, data=data[:1])  # of the first row: to infer types of all takes minutes
        made.data.extend(data[1:])
        self._log_media({name: made}, at)

    def note(self, key: str, text: str, at: At) -> None:
        """Into the run's summary."""
        self.run.summary[key] = text

    def alert(self, title: str, text: str, failure: bool) -> None:
        """W&B sends it on, by mail or chat, as its user has chosen."""
        self.run.alert(title=title, text=text, level="WARN" if failure else "INFO")


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names must differ."""
    seen: dict[str, int] = {"class": 1}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
