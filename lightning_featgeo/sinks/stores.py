"""TensorBoard, MLflow, Comet and Trackio: what each can show of histograms, pictures, tables and words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_featgeo import _loggers
from lightning_featgeo.sinks import pictures
from lightning_featgeo.sinks.sink import At, Sink
from lightning_featgeo.sinks.tables import Chart, Table
from lightning_featgeo.types import Tensor


class TensorBoardSink(Sink):
    """A ``TensorBoardLogger``: histograms, images, text, and its projector."""

    draws = True

    def describe(self, facts: Mapping[str, Any]) -> None:
        """As text."""
        self.logger.experiment.add_text("featgeo/run", _as_table(facts).markdown(), 0)

    def histograms(self, values: Mapping[str, Tensor], at: At) -> None:
        """A histogram over time."""
        for name, value in values.items():
            self.logger.experiment.add_histogram(self.named(name), value, at.step)

    def picture(self, name: str, chart: Chart, at: At) -> None:
        """An image."""
        if pictures.can_draw():
            self.logger.experiment.add_image(self.named(name), pictures.drawn(chart), at.step, dataformats="HWC")

    def table(self, name: str, table: Table, at: At) -> None:
        """As text."""
        self.logger.experiment.add_text(self.named(name), f"{table.title}\n\n{table.markdown()}", at.step)

    def embedding(self, name: str, rows: Tensor, table: Table, at: At) -> None:
        """For the projector, on which pip's ``tensorboard`` has a tab."""
        known = [[str(value) for value in row] for row in table.rows]
        self.logger.experiment.add_embedding(
            rows, known, None, at.step, self.named(name).replace("/", "_"), table.columns
        )

    def note(self, key: str, text: str, at: At) -> None:
        """As text."""
        self.logger.experiment.add_text(key.replace("featgeo_", "featgeo/", 1), text, at.step)


class MLflowSink(Sink):
    """An ``MLFlowLogger``: pictures, tables and files as artifacts, words as tags."""

    draws = True
    keeps_files = True

    def describe(self, facts: Mapping[str, Any]) -> None:
        """As tags."""
        for key, value in _flat(facts).items():
            self.logger.experiment.set_tag(self.logger.run_id, f"featgeo.{key}", str(value)[:4000])

    def picture(self, name: str, chart: Chart, at: At) -> None:
        """An artifact for each window that is drawn."""
        if pictures.can_draw():
            file = f"{self.named(name)}/step_{at.step:08d}.png"
            self.logger.experiment.log_image(self.logger.run_id, pictures.drawn(chart), file)

    def table(self, name: str, table: Table, at: At) -> None:
        """An artifact."""
        self.logger.experiment.log_text(
            self.logger.run_id, f"{table.title}\n\n{table.markdown()}", f"{self.named(name)}.md"
        )

    def attach(self, path: Path) -> None:
        """An artifact."""
        self.logger.experiment.log_artifact(self.logger.run_id, str(path), "featgeo")

    def attach_checkpoint(self, path: Path) -> None:
        """An artifact, with ``MLFlowLogger(log_model=…)``."""
        if _loggers.keeps_models(self.logger) and path.is_file():
            self.logger.experiment.log_artifact(self.logger.run_id, str(path), "featgeo")

    def note(self, key: str, text: str, at: At) -> None:
        """As a tag."""
        self.logger.experiment.set_tag(self.logger.run_id, key, text[:4000])


class CometSink(Sink):
    """A ``CometLogger``: histograms, images, tables and files, words beside the metrics, notifications."""

    joint = "_"
    draws = True
    keeps_files = True

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Beside the metrics, under "Other"."""
        for key, value in _flat(facts).items():
            self.logger.experiment.log_other(f"featgeo.{key}", str(value))

    def histograms(self, values: Mapping[str, Tensor], at: At) -> None:
        """Histograms over steps."""
        for name, value in values.items():
            self.logger.experiment.log_histogram_3d(value.tolist(), name=self.named(name), step=at.step)

    def picture(self, name: str, chart: Chart, at: At) -> None:
        """An image."""
        if pictures.can_draw():
            self.logger.experiment.log_image(pictures.drawn(chart), name=self.named(name), step=at.step)

    def table(self, name: str, table: Table, at: At) -> None:
        """A file in CSV, which Comet shows as a table."""
        table = table.titled()
        file = f"{self.named(name)}/step_{at.step:08d}.csv"
        self.logger.experiment.log_table(file, [list(row) for row in table.rows], headers=[*table.columns])

    def attach(self, path: Path) -> None:
        """An asset."""
        self.logger.experiment.log_asset(str(path), file_name=f"featgeo/{path.name}")

    def note(self, key: str, text: str, at: At) -> None:
        """Beside the metrics, under "Other"."""
        self.logger.experiment.log_other(key, text)

    def alert(self, title: str, text: str, failure: bool) -> None:
        """Comet sends it by mail, as its user has chosen; from an offline experiment it sends none."""
        self.logger.experiment.send_notification(title, "failure" if failure else "notice", {"alarm": text})


class TrackioSink(Sink):
    """A ``TrackioLogger``: histograms, pictures, tables, alerts."""

    draws = True

    def describe(self, facts: Mapping[str, Any]) -> None:
        """As a table: Trackio's config is closed with the first row."""
        self.table("featgeo/run", _as_table(facts), At(0.0, 0))

    def histograms(self, values: Mapping[str, Tensor], at: At) -> None:
        """Histogram media."""
        import trackio

        made = {self.named(name): trackio.Histogram(value.tolist()) for name, value in values.items()}
        self.logger.experiment.log(made, step=at.step)

    def picture(self, name: str, chart: Chart, at: At) -> None:
        """An image."""
        import trackio

        if pictures.can_draw():
            self.logger.experiment.log({self.named(name): trackio.Image(pictures.drawn(chart))}, step=at.step)

    def table(self, name: str, table: Table, at: At) -> None:
        """A table."""
        import trackio

        table = table.titled()
        made = trackio.Table(columns=table.columns, data=table.rows, allow_mixed_types=True)
        self.logger.experiment.log({self.named(name): made}, step=at.step)

    def alert(self, title: str, text: str, failure: bool) -> None:
        """Trackio shows it, and sends it to a webhook if one was given."""
        import trackio

        level = trackio.AlertLevel.WARN if failure else trackio.AlertLevel.INFO
        self.logger.experiment.alert(title=title, text=text, level=level)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts under dotted names."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _as_table(facts: Mapping[str, Any]) -> Table:
    return Table(["fact", "value"], [[key, str(value)] for key, value in _flat(facts).items()])
