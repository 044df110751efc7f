"""History: an append-only record of every window, one JSON line each, readable after a crash.

The report, the tables of notebooks and resumed runs are made from it.
"""

from __future__ import annotations

import copy
import html
import json
import os
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_featgeo.errors import FeatureGeometryWarning, printable
from lightning_featgeo.history import plotting, thinning
from lightning_featgeo.history.layouts import Layout
from lightning_featgeo.history.line_file import LineFile
from lightning_featgeo.history.logged import Logged, Metrics
from lightning_featgeo.history.record import Record, checked_event, checked_record, checked_run, in_plain

SHOWN_ROWS = 20  # in a notebook
FORMAT = 3  # of the file: 3 has the kinds of gaps; earlier ones are read, later ones as far as they are understood


class History:
    """Records in memory and, if a path is given, appended to a file as they come.

    The file's first line describes the run; a line cut short by a crash is left out when it is read again. Of a curve
    with more than 4,096 windows not all stay in memory (see ``history.thinning``); the file has all of them.

    >>> history = History()
    >>> history.append(Record(0, "val", None, 1.0, 10, {"feature_std": 0.8}))
    >>> history.series("featgeo/val/feature_std")
    [(1.0, 0.8)]
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.run: dict[str, Any] = {}
        self.records: list[Record] = []
        self.events: list[dict[str, Any]] = []
        self.metrics = Metrics()  # what the run itself has logged
        self._metrics_path = self.path  # the file that they were last written to
        self.layouts: list[Layout] = []  # where rows lie in the plane, if that was asked for
        self.closed = 0  # records so far, those that no longer are in memory too
        self._counts: dict[thinning.Curve, int] = {}  # of the records, by curve
        self._file: LineFile | None = None
        self._origin: weakref.ref[History] | None = None  # what this, or what it is copied from, is a copy of
        self._is_shown = False  # whether what is here is that of a copy

    def __deepcopy__(self, memo: dict[int, Any]) -> History:
        """Libraries copy callbacks and run the copies: what those record is shown by the one that the user holds."""
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        made._origin = self._origin or weakref.ref(self)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_origin": None}

    def anew(self) -> History:
        """An empty one, for the next run of the same owner."""
        made = History()
        made._origin = self._origin
        return made

    def _show_in_origin(self) -> None:
        origin = None if self._origin is None else self._origin()
        if origin is not None and (origin._is_shown or not origin.closed):
            for name in ("path", "run", "records", "events", "metrics", "layouts", "closed"):
                setattr(origin, name, getattr(self, name))
            origin._is_shown = True

    def describe(self, run: dict[str, Any]) -> None:
        """Write down what the run is: layer, signals, versions."""
        run = {"format": FORMAT, **run}
        self.run.update(run)
        self._write({"run": run})

    def append(self, record: Record) -> None:
        """Add a closed window."""
        self._keep(record)
        self._show_in_origin()
        self._put(f'{{"window": {record.text}}}')

    def _keep(self, record: Record, thin: bool = True) -> None:
        self.records.append(record)
        self.closed += 1
        curve = record.stage, record.layer
        self._counts[curve] = self._counts.get(curve, 0) + 1
        many = thin and self._counts[curve] > thinning.LEAST
        if many and self._counts[curve] > thinning.most_of(len(self._counts)):
            self.records[:] = thinning.thinned(self.records, self.events)
            self._counts = dict(Counter((one.stage, one.layer) for one in self.records))

    def event(self, **event: Any) -> None:
        """Add something that happened: a stop and its reason."""
        self.events.append(event)
        self._write({"event": event})

    def log_metrics(self, values: Mapping[str, float], epoch: float, step: int) -> None:
        """Add the run's own metrics as they stand now, such as losses: what curves are compared with later.

        Args:
            values: by name. Those that have not changed are not written again, nor are the project's own.
            epoch, step: now.
        """
        if self.path != self._metrics_path:
            self._metrics_path = self.path
            self.metrics.state_anew()
        changed = self.metrics.changed(values)
        if changed:
            self._add(Logged(epoch, step, changed))

    def _add(self, moment: Logged) -> None:
        self.metrics.add(moment)
        self._write({"metrics": moment.as_dict()})

    def add_layout(self, layout: Layout) -> None:
        """Add where a window's rows lie in the plane."""
        self.layouts.append(layout)
        self._write({"layout": layout.as_dict()})

    def end(self, how: str) -> None:
        """Say that the run has ended, and how: "ended as planned". A history without it is of a run that was killed."""
        self.run["end"] = how
        self._write({"end": how})

    def restore(
        self, records: Iterable[Record], events: Iterable[dict[str, Any]], moments: Iterable[Logged] = (),
        layouts: Iterable[Layout] = (),
    ) -> None:  # fmt: skip
        """Begin with what an earlier part of the run has recorded."""
        for record in records:
            self.append(record)
        for event in events:
            self.event(**event)
        for moment in moments:
            self._add(moment)
        for layout in layouts:
            self.add_layout(layout)

    def _write(self, line: dict[str, Any]) -> None:
        self._put(json.dumps(line, allow_nan=False, default=in_plain))

    def _put(self, text: str) -> None:
        if self.path is None:
            return
        if self._file is None or self._file.path != self.path:
            self._file = LineFile(self.path)
        waited, error = self._file.waiting, self._file.append(text)
        if error is not None and not waited:
            warnings.warn(
                f"featgeo: the history can't be written to {self.path} ({error}); it is kept in memory, and writing "
                "is tried again at each window and at the run's end",
                FeatureGeometryWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        curves = dict.fromkeys(r.prefix.removeprefix("featgeo/") + name for r in self.records for name in r.values)
        told = ", ".join([*curves][:6]) + (f" and {len(curves) - 6} more" if len(curves) > 6 else "")
        file = f"; file {str(self.path)!r}" if self.path is not None else ""
        return f"<History of {self.closed} windows{f': {told}' if told else ''}{file}>"

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def series(self, name: str) -> list[tuple[float, float]]:
        """(epoch, value) of a logged name, such as "featgeo/val/effective_rank" or the run's own "val/loss".

        Gaps are left out; of the run's own metrics those values are there that differ from the one before.
        """
        return self.metrics.series(name) or [
            (record.epoch, record.values[signal])
            for record in self.records
            if name.startswith(record.prefix) and (signal := name.removeprefix(record.prefix)) in record.values
        ]

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each window and layer: where and when it was, its signals, and their standard errors as ``…_se``.

        A signal without a value is left out; ``records`` has the reasons.
        """
        return [
            {
                "window": record.window,
                "stage": record.stage,
                "layer": record.layer,
                "epoch": record.epoch,
                "step": record.step,
                **record.values,
                **{f"{name}_se": error for name, error in record.standard_errors.items()},
            }
            for record in self.records
        ]

    def to_pandas(self) -> Any:
        """:meth:`rows` as a ``pandas.DataFrame``, NaN where there is no value.

        Raises:
            ModuleNotFoundError: without pandas.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_pandas() needs pandas: pip install 'lightning-featgeo[notebook]'; rows() does without"
            ) from error
        return pandas.DataFrame(self.rows())

    def plot(self, *names: str, ax: Any = None) -> Any:
        """Draw curves over epochs: a panel a signal, a line for each stage and layer.

        Args:
            names: of signals ("effective_rank", or "featgeo/val/effective_rank" for one line) or of the run's own
                metrics ("val/loss"); none: the first layer's signals, up to twelve.
            ax: matplotlib axes, as many as there are panels; None: new ones.

        Returns:
            The figure, and an array of axes. Bands are ±1 standard error, crosses windows without a value, vertical
            lines stops (solid), alarms (dashed) and notices (dotted).

        Raises:
            ModuleNotFoundError: without matplotlib.
            ValueError: if there is nothing of a name.
        """
        return plotting.plot(plotting.lines_of(self.records, self.metrics, names), self.events, ax)

    def _repr_html_(self) -> str:
        """For notebooks: the last windows as a table."""
        shown = self.rows()[-SHOWN_ROWS:]
        names = list(dict.fromkeys(name for row in shown for name in row if not name.endswith("_se")))
        names = [name for name in names if any(row.get(name) is not None for row in shown)]  # without an only layer's
        lines = [f"<p>{self.closed} windows{', the last:' if len(shown) < self.closed else ''}</p>"]
        lines.append("<div style='overflow-x: auto'><table><tr>")
        lines += [f"<th>{html.escape(name)}</th>" for name in names] + ["</tr>"]
        lines += ["<tr>" + "".join(f"<td>{_shown(row.get(name))}</td>" for name in names) + "</tr>" for row in shown]
        return "".join([*lines, "</table></div>"])

    @classmethod
    def load(cls, path: str | os.PathLike[str], thin: bool = False) -> History:
        """Read a file back: whole, cut short, or damaged. Lines that can't be read are left out, and that is said.

        Args:
            path: of the file.
            thin: keep as many windows as a run itself does, not all of them.

        Raises:
            FileNotFoundError: if there is none.
        """
        history, lost = cls(), 0
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    history._take(json.loads(text), thin)
                except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
                    lost += text.endswith("\n")  # the last one may be cut: a crash came in the middle of it
        if lost:
            warnings.warn(
                f"featgeo: {lost} lines of {printable(str(path))} can't be read", FeatureGeometryWarning, stacklevel=2
            )
        if history.run.get("format", 1) > FORMAT:
            warnings.warn(
                f"featgeo: {path} was written by a later version (format {history.run['format']}, this one knows "
                f"{FORMAT}): what it does not know is left out. Upgrade with pip install -U lightning-featgeo",
                FeatureGeometryWarning,
                stacklevel=2,
            )
        return history

    def _take(self, line: Any, thin: bool) -> None:
        if not isinstance(line, dict):
            raise TypeError(f"expected an object, got {type(line).__name__}")
        if "run" in line:
            self.run.update(checked_run(line["run"]))
        elif "end" in line:
            self.run["end"] = str(line["end"])
        elif "window" in line:
            record = checked_record(line["window"])
            self._keep(record, thin)
        elif "metrics" in line:
            self.metrics.add(Logged.checked(line["metrics"]), thin=False)
        elif "layout" in line:
            self.layouts.append(Layout.checked(line["layout"]))
        elif "event" in line:
            self.events.append(checked_event(line["event"]))


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.5g}" if isinstance(value, float) else html.escape(str(value))
