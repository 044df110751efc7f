"""``python -m lightning_featgeo.wandb_workspace ENTITY/PROJECT``: panels of what a run really logs, in reading order.

W&B sorts its panels by name. Its own library, wandb-workspaces, can put them in order: collapse first, then dimension,
density and classes, each over the fractional epoch, pictures and tables below, row counts and cost last. The same
panels make a report to write in. Without ``--save`` it only says what it would make.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_featgeo.history.history import History
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.reading_order import HEADINGS, OTHERS, compared_with, heading
from lightning_featgeo.report.runs import ReportError, find

NO_SIGNALS = ("alarm", "epoch", "best")  # logged beside them
COST = ("n_samples", "gaps", "seconds", "share")
MEDIA = ("spectrum", "class_cosines", "layout_picture", "log_density", "local_dimension")
TABLES = tuple(
    f"{name}_{when}" for name in ("classes", "suspect_labels", "lowest_density") for when in ("last", "best")
)
_NAME = re.compile(r"(?P<prefix>.+-)?featgeo/(?P<stage>[a-z0-9_]+)/((?P<layer>[a-z0-9_]+)/)?(?P<signal>[a-z0-9_]+)")


@dataclass(frozen=True)
class Curves:
    """What a run logs of one layer in one stage.

    Args:
        prefix: the logger's own, with what joins it ("exp-"), or "".
        stage, layer: as in the logged names; None for the first layer.
        signals: group by group in reading order, within one as they are logged.
    """

    prefix: str
    stage: str
    layer: str | None
    signals: tuple[str, ...]

    def named(self, room: str, tail: str) -> str:
        """A logged name, such as ``featgeo_curves/val/spectrum`` for ("featgeo_curves", "spectrum")."""
        return f"{self.prefix}{room}/{self.stage}/" + (f"{self.layer}/" if self.layer else "") + tail


def logged(names: Iterable[str]) -> list[Curves]:
    """What logged names are of: the first layers first, in the order of the names."""
    found: dict[tuple[str, str, str | None], dict[str, None]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None and match["signal"] not in NO_SIGNALS:
            found.setdefault((match["prefix"] or "", match["stage"], match["layer"]), {})[match["signal"]] = None
    order = [*HEADINGS, OTHERS]
    made = [
        Curves(*where, tuple(sorted(signals, key=lambda s: order.index(heading(s)))))
        for where, signals in found.items()
    ]
    return sorted(made, key=lambda curves: curves.layer is not None)


def names_of_history(path: str | Path) -> list[str]:
    """Names that a run has logged, by its history (a file, or a folder that holds one: the newest counts).

    Raises:
        ReportError: if there is none.
    """
    history = History.load(find([path])[-1])
    seen: dict[str, set[str]] = {}
    for record in history:
        seen.setdefault(record.prefix, set()).update(record.values)
    chosen = history.run.get("signals", list(CATALOG))
    return [prefix + signal for prefix, values in seen.items() for signal in chosen if signal in values]


def names_of_project(path: str) -> list[str]:
    """Names that the newest run of a project on W&B's server has logged; needs ``wandb login``.

    Raises:
        ReportError: if no run has any.
    """
    import wandb

    for run in wandb.Api().runs(path, order="-created_at"):
        names = [name for name in run.summary.keys() if "featgeo/" in name]  # noqa: SIM118 - W&B's summary has keys, and can't be iterated
        if logged(names):
            return names
    raise ReportError(
        f"no run of {path} has logged geometry: train one with FeatureGeometryMonitor() and a WandbLogger"
    )


def sections(curves: Sequence[Curves]) -> list[Any]:
    """Sections of a workspace: for first layers curves, pictures, and cost; further layers are closed."""
    ws: Any = _library()[0]
    made = []
    for one in curves:
        where = one.stage + (f", {one.layer}" if one.layer else "")
        made.append(ws.Section(name=f"Geometry, {where}", panels=lines(one), is_open=one.layer is None))
        if one.layer is None:
            made.append(ws.Section(name=f"Pictures and tables, {where}", panels=_media(one), is_open=True))
    wr: Any = _library()[1]
    for one in (one for one in curves if one.layer is None):
        axis = one.prefix + "featgeo/epoch"
        cost = [wr.LinePlot(title=name, x=axis, y=[one.named("featgeo_monitor", name)]) for name in COST]
        made.append(ws.Section(name=f"Rows, gaps and cost, {one.stage}", panels=cost, is_open=False))
    return made


def lines(one: Curves) -> list[Any]:
    """A line plot for each curve, one for curves that are the same against other windows, and one for alarms."""
    wr: Any = _library()[1]
    axis = one.prefix + "featgeo/epoch"
    together: dict[str, list[str]] = {}
    for name in one.signals:
        together.setdefault(compared_with(name)[0], []).append(name)
    panels = [
        wr.LinePlot(
            title=name + {"higher": " ↑", "lower": " ↓"}.get(CATALOG[name].direction if name in CATALOG else "", ""),
            x=axis,
            y=[one.named("featgeo", each) for each in names],
            title_y=CATALOG[name].unit if name in CATALOG else "",
        )
        for name, names in together.items()
    ]
    alarm = wr.LinePlot(title="alarm (1: standing)", x=axis, y=[one.named("featgeo", "alarm")], range_y=(0, 1))
    return [*panels, alarm]


def _media(one: Curves) -> list[Any]:
    wr: Any = _library()[1]
    keys = [one.named("featgeo_curves", name) for name in MEDIA] + [
        one.named("featgeo_tables", name) for name in TABLES
    ]
    return [wr.MediaBrowser(title=key.rpartition("/")[2], media_keys=[key]) for key in keys]


def workspace(entity: str, project: str, names: Iterable[str]) -> Any:
    """A ``wandb_workspaces.workspaces.Workspace`` for these logged names; ``save()`` makes it online."""
    ws: Any = _library()[0]
    return ws.Workspace(name="Feature geometry", entity=entity, project=project, sections=sections(logged(names)))


def report(entity: str, project: str, names: Iterable[str]) -> Any:
    """A ``wandb_workspaces.reports.v2.Report`` with the first layers' curves; ``save()`` makes it online."""
    wr: Any = _library()[1]
    blocks: list[Any] = [
        wr.P("Curves of features during training. A gap is a window in which a signal has no value; the run's history "
             "has the reason."),
    ]  # fmt: skip
    for one in logged(names):
        if one.layer is None:
            runs = wr.Runset(entity=entity, project=project)
            blocks += [wr.H1(f"Geometry, {one.stage}"), wr.PanelGrid(runsets=[runs], panels=lines(one))]
            blocks += [wr.H2("Pictures and tables"), wr.PanelGrid(runsets=[runs], panels=_media(one))]
            blocks += [wr.H2("What this shows"), wr.P("")]
    return wr.Report(entity=entity, project=project, title="Feature geometry", blocks=blocks)


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError:
        raise ReportError(
            "this needs wandb-workspaces, which is not installed: pip install 'lightning-featgeo[workspace]'"
        ) from None
    return ws, wr


def main(arguments: list[str] | None = None) -> int:
    """Look at what is logged, say what would be made, make it; 2 if that is not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_featgeo.wandb_workspace",
        description="A W&B workspace (or report) with a panel for each geometry curve that a run logs, in order.",
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument(
        "--run", help="a history, or a folder with one, to follow; else the project's newest run online"
    )
    parser.add_argument("--report", action="store_true", help="a report in place of a workspace")
    parser.add_argument(
        "--save", action="store_true", help="make it online (needs `wandb login`); else it is only shown"
    )
    given = parser.parse_args(arguments)
    entity, _, project = given.project.partition("/")
    try:
        if not project:
            raise ReportError(f"{given.project!r}: give ENTITY/PROJECT, for example me/digits")
        names = names_of_history(given.run) if given.run else names_of_project(given.project)
        found = logged(names)
        if not found:
            raise ReportError(f"{given.run or given.project}: no geometry curve was logged")
        made = (report if given.report else workspace)(entity, project, names)
        for one in found:
            print(f"{one.stage}{', ' + one.layer if one.layer else ''}: {', '.join(one.signals)}")
        if given.save:
            made.save()
    except Exception as error:  # W&B's library has no one kind for "not logged in", "no such project" and the like
        print(f"featgeo: {error}", file=sys.stderr)
        return 2
    print(f"featgeo: {made.url}" if given.save else "featgeo: nothing was made; --save makes it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
