"""What a run shows beyond scalars: spectra, histograms, depth charts, class tables, lonely rows; best and last.

They come with windows 1, 2, 4, 8, … and with the last one; numbers and histograms with every window.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.callbacks.remembered import Depth, Shown, pairs_of_layers
from lightning_featgeo.callbacks.settings import Display
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.sinks import At, Sink, every_sink, pictures, tables
from lightning_featgeo.sinks.tables import Chart
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.announcement import say
from lightning_featgeo.watch.guard import Guard
from lightning_featgeo.watch.layouts import Layouts
from lightning_featgeo.watch.plan import ClosedWindow

PANELS, LATER_PANELS = 8, 4  # in the section of the first stage, and of others
HISTOGRAMS = ("log_density", "local_dimension")
LAYOUT_ONLY = "layout only: the first two principal components; distances and clusters mean little"


class LoggerDisplay:
    """Shows closed windows in the loggers that can. A logger that fails costs only itself.

    Args:
        trainer: whose loggers are used, on rank 0.
        guard: turns errors of a logger into one warning.
        display: what the user has asked for.
        history: where layouts go.
    """

    def __init__(self, trainer: Trainer, guard: Guard, display: Display, history: History) -> None:
        self.guard, self.asked_for, self.trainer = guard, display, trainer
        self.layouts: Layouts | None = None
        if display.embedding_rows:
            asked = f"embedding_rows={display.embedding_rows}"
            self.layouts = Layouts(history, asked, lambda told: guard.warn(told, told), display.class_names)
        self.loggers = every_sink(trainer.loggers) if trainer.is_global_zero else []
        self.sinks = [sink for sink in self.loggers if type(sink) is not Sink]  # that can show more than scalars
        self._shown: dict[str, Shown] = {}
        self._depth = Depth()
        self._defined: set[str] = set()

    def leave_out_finished(self) -> None:
        """A logger that was finished in the middle of the fit is sent nothing more, and that is said."""
        for sink in [sink for sink in self.loggers if sink.is_over]:
            self.loggers.remove(sink)
            told = f"{sink.name} was finished before the fit's end: it is sent nothing more, monitor.history has all"
            self.guard.warn(told, told)
        self.sinks = [sink for sink in self.loggers if type(sink) is not Sink]

    @property
    def details(self) -> Details | None:
        """What windows must bring along."""
        if not self.sinks and (self.layouts is None or not self.trainer.is_global_zero):
            return None
        return Details(self.asked_for.matrix_classes, self.asked_for.embedding_rows)

    def define(self, names: Collection[str], closed: ClosedWindow) -> None:
        """New names of scalars: the first eight of a stage get panels, what is beyond and beside them is hidden."""
        signals = {name: CATALOG.get(name.rpartition("/")[2]) for name in names if name not in self._defined}
        new = {name: signal.direction if signal is not None else "none" for name, signal in signals.items()}
        self._defined.update(new)
        prefix = closed.record.prefix
        panels = PANELS if len(self._shown) < 1 else LATER_PANELS
        first = [prefix + signal for signal in closed.signals][:panels] if closed.record.layer is None else []
        for sink in self.sinks if new else []:
            with self._guarded(sink, "naming metrics"):
                sink.define(new, first)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """What the run is."""
        for sink in self.sinks:
            with self._guarded(sink, "describing the run"):
                sink.describe(facts)
        if any(sink.draws for sink in self.sinks) and not pictures.can_draw():
            names = ", ".join(sink.name for sink in self.sinks if sink.draws)
            say(f"featgeo: pictures in {names} need matplotlib: {pictures.HOW_TO}")

    def _names(self, curves: Mapping[str, Tensor]) -> Sequence[str] | None:
        """Names of classes, if there are as many as classes; else their numbers are shown, and that is said."""
        names = self.asked_for.class_names
        if names is None or "class_counts" not in curves or len(names) == len(curves["class_counts"]):
            return names
        self.guard.warn(
            f"class_names= has {len(names)} names, and there are {len(curves['class_counts'])} classes: their "
            "numbers are shown instead",
            "class names",
        )
        return None

    def show(self, shown: ClosedWindow, alarms: Sequence[str]) -> None:
        """A window that has just been closed.

        Args:
            shown: the window.
            alarms: titles of those raised at it.
        """
        record, curves = shown.record, shown.curves
        if self.layouts is not None and self.trainer.is_global_zero and self._has_media(record):
            with self.guard.around("laying out rows", lost="the curves are not affected"):
                self.layouts.add(shown)
        if not self.sinks:
            return
        kept = self._shown.setdefault(record.prefix, Shown())
        kept.windows += 1
        kept.last, kept.step = shown, _compat.logging_step(self.trainer)
        if alarms:
            kept.marks[record.epoch] = ", ".join(alarms)
        if record.spectrum:
            kept.spectra.append((record.epoch, record.spectrum))
            if len(kept.spectra) > 4 * tables.MAX_LINES:
                kept.spectra[:] = tables.thin(kept.spectra, set(kept.marks))
        kept.judge(shown, self.asked_for.headline)
        self._depth.remember(record, shown.signals)
        if not self._has_media(record):
            return
        prefix = _curve_prefix(record)
        histograms = {prefix + name: curves[name] for name in HISTOGRAMS if name in curves}
        for sink in self.sinks if histograms else []:
            with self._guarded(sink, "sending histograms"):
                sink.histograms(histograms, _at(kept))
        if _is_due(kept.windows):
            self._draw(kept)
            self._tabulate(kept, finished=False)

    def finish_windows(self, stages: Sequence[str]) -> None:
        """All layers of these stages have been shown: the charts over depth."""
        for stage in stages if self.sinks else ():
            self._finish_stage(stage)

    def _finish_stage(self, stage: str) -> None:
        windows = max((w.windows for p, w in self._shown.items() if p.startswith(f"featgeo/{stage}/")), default=0)
        if _is_due(windows):
            self._draw_depth(stage)

    def _draw_depth(self, stage: str) -> None:
        step = max(w.step for w in self._shown.values())
        charts: list[tuple[str, float, Chart]] = [*self._depth.charts(stage), *pairs_of_layers(stage, self._shown)]
        for name, epoch, chart in charts:
            self._send(f"featgeo_curves/{stage}/{name}", chart, At(epoch, step))

    def close(self, history: Path | None = None, report: bool = False) -> None:
        """The run ends: tables of the best and the last window, the last pictures, and files.

        Args:
            history: its file.
            report: whether there is enough for one, too.
        """
        self.leave_out_finished()
        if self.layouts is not None:
            self.layouts.finish()
        self._attach(history, report)
        for sink in self.sinks:
            sink.ends()
        for kept in self._shown.values() if self.sinks else ():
            if kept.last is None or not self._has_media(kept.last.record):
                continue
            if not _is_due(kept.windows):
                self._draw(kept)
            self._tabulate(kept, finished=True)
        for stage in self._depth.stages if self.sinks else ():
            self._draw_depth(stage)
        self._shown.clear()
        self._depth.clear()

    def _attach(self, history: Path | None, report: bool) -> None:
        """The history and a report of it, to loggers that keep files."""
        sinks = [sink for sink in self.sinks if sink.keeps_files]
        if history is None or not history.exists() or not self.asked_for.files or not sinks:
            return
        files = [history]
        if report and self.asked_for.files != "history" and _compat.is_installed("altair", "vl_convert"):
            with self.guard.around("writing a report", lost="the curves are not affected"):
                from lightning_featgeo.report import write_report  # draws with libraries that take a second to import

                files.append(write_report(history, history.with_suffix(".html"), quiet=True))
        for sink in sinks:
            with self._guarded(sink, "attaching the history"):
                for file in files:
                    sink.attach(file)

    def best(self, values: Mapping[str, tuple[float, float]]) -> None:
        """Best values so far, and their epochs."""
        for sink in self.sinks if values else []:
            with self._guarded(sink, "sending best values"):
                sink.best(values)

    def note(self, key: str, text: str, at: At) -> None:
        """A sentence beside the run."""
        for sink in self.sinks:
            with self._guarded(sink, "sending a note"):
                sink.note(key, text, at)

    def alert(self, title: str, text: str, failure: bool) -> None:
        """A message."""
        for sink in self.sinks:
            with self._guarded(sink, "sending an alert"):
                sink.alert(title, text, failure)

    def _guarded(self, sink: Sink, doing: str) -> Any:
        return self.guard.around(f"{doing} to {sink.name}", lost="the curves are not affected")

    def _has_media(self, record: Record) -> bool:
        return self.asked_for.media == "all" or (self.asked_for.media == "first" and record.layer is None)

    def _send(self, name: str, chart: Chart, at: At) -> None:
        for sink in self.sinks:
            with self._guarded(sink, "sending charts"):
                sink.chart(name, chart, at)

    def _draw(self, kept: Shown) -> None:
        """Spectra, cosines of classes, and where rows lie."""
        shown = kept.last
        if shown is None:
            return
        prefix, of = _curve_prefix(shown.record), shown.record.prefix.rstrip("/")
        if kept.spectra:
            chart = tables.spectrum_lines(kept.spectra, kept.marks, f"Eigenvalues, {of}")
            self._send(prefix + "spectrum", chart, _at(kept))
        for name, found in tables.charts(shown.curves, self._names(shown.curves), of, shown.record.epoch):
            self._send(prefix + name, found, _at(kept))
        points = None if self.layouts is None else self.layouts.points(shown.record)
        if points is not None:
            self._send(prefix + "layout", self._layout(points, shown), _at(kept))

    def _layout(self, points: Tensor, shown: ClosedWindow) -> tables.Scatter:
        samples = shown.curves["shown_samples"]
        names = [self._class_of(label, shown) for label in shown.curves["shown_labels"].tolist()]
        title = f"{shown.record.prefix.rstrip('/')}, epoch {shown.record.epoch:g}. {LAYOUT_ONLY}"
        ids = [tables.sample_id(sample, shown.ids) for sample in samples.tolist()]
        return tables.Scatter(title, points.tolist(), names, ids)

    def _class_of(self, label: int, shown: ClosedWindow) -> str:
        return tables.class_name(label, self._names(shown.curves)) if label >= 0 else "unlabelled"

    def _tabulate(self, kept: Shown, finished: bool) -> None:
        """Tables of the last window; at the run's end also of the best one, with rows for a projector.

        The best one's are sent at the last epoch: a logger's axis doesn't run backwards. Its title has its own.
        """
        if kept.last is None:
            return
        moments = [("last", "the last window", kept.last)]
        if kept.best is not None and finished and kept.best[2] is not kept.last:
            moments.append(("best", f"the window with the best {kept.best[1]}", kept.best[2]))
        at = _at(kept)
        for when, words, shown in moments:
            prefix = shown.record.prefix.replace("featgeo/", "featgeo_tables/", 1)
            title = f"{shown.record.prefix.rstrip('/')}, epoch {shown.record.epoch:g}: {words}"
            names = self._names(shown.curves)
            found = {
                "classes": tables.class_table(shown.curves, names, title),
                "lowest_density": tables.lowest_rows(shown.curves, names, shown.ids, shown.positions, title),
                "suspect_labels": tables.suspect_labels(shown.curves, names, shown.ids, shown.positions, title),
                "shifted_units": tables.shifted_units(shown.curves, title),
                "units": tables.unit_table(shown.curves, title),
                "groups": tables.group_table(shown.curves, title),
            }
            known = self._known(shown) if finished and "shown_rows" in shown.curves else None
            for sink in self.sinks:
                with self._guarded(sink, "sending tables"):
                    for name, table in found.items():
                        if table is not None:
                            sink.table(f"{prefix}{name}_{when}", table, at)
                    if known is not None:
                        sink.embedding(f"{prefix}embedding_{when}", shown.curves["shown_rows"], known, at)

    def _known(self, shown: ClosedWindow) -> tables.Table:
        labels, samples = shown.curves["shown_labels"].tolist(), shown.curves["shown_samples"].tolist()
        rows = [
            [tables.sample_id(s, shown.ids), self._class_of(label, shown)]
            for s, label in zip(samples, labels, strict=True)
        ]
        return tables.Table(["sample", "class"], rows)


def _is_due(windows: int) -> bool:
    """Whether pictures and tables are due: after 1, 2, 4, 8, … windows."""
    return windows & (windows - 1) == 0


def _at(kept: Shown) -> At:
    """Of the last window: its epoch, and the step of its scalars."""
    return At(kept.last.record.epoch if kept.last is not None else 0.0, kept.step)


def _curve_prefix(record: Record) -> str:
    return record.prefix.replace("featgeo/", "featgeo_curves/", 1)
