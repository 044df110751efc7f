"""The page: words and structure are written here, charts are drawn by the page's own script from its own data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from lightning_featgeo._version import __version__
from lightning_featgeo.metrics.reading_order import compared_with
from lightning_featgeo.report import charts
from lightning_featgeo.report.curves import Panel, panels
from lightning_featgeo.report.data import Data
from lightning_featgeo.report.links import lines
from lightning_featgeo.report.outcome import logged, outcome_of
from lightning_featgeo.report.parts import article, outcome_hint, outcome_section, run_card, text
from lightning_featgeo.report.pictures import layout, matrix, spectrum
from lightning_featgeo.report.runs import Run

MANY = 6  # runs, from which on their cards are scrolled: the curves stay in reach


def render(
    runs: Sequence[Run], baseline: int | None, left_out: Sequence[str], show: Callable[..., Any],
    outcome: str | None = None,
) -> str:  # fmt: skip
    """The whole page as text.

    Args:
        runs: with different names.
        baseline: index of the one that others are compared with.
        left_out: what could not be used, in words.
        show: wraps an iterable in a progress bar, like ``tqdm``.
        outcome: a metric of the runs' own; None: no table of what went with it.

    Raises:
        ReportError: if no run has logged that metric.
    """
    found = panels(runs)
    went = None if outcome is None else outcome_of(runs, found, outcome)
    data = Data(runs, found, show)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return Template(file_of_page("page.html")).substitute(
        title=text(f"{title}: feature geometry"),
        heading=f"Feature geometry: <span class='name'>{text(title)}</span>",
        lead=_lead(runs, found),
        css=file_of_page("page.css"),
        many="runs many" if len(runs) > MANY else "runs",
        runs="".join(run_card(i, run, baseline) for i, run in enumerate(runs)),
        notes=_notes([*left_out, *data.notes]),
        outcome=outcome_hint(logged(runs)) if went is None else outcome_section(went),
        toggles=_toggles(runs, found, baseline),
        parts=_parts(runs, found, data, baseline),
        footer=f"Made by lightning-featgeo {text(__version__)}, offline: nothing here asks a server.",
        data=_json(
            {
                **data.page,
                "specs": _specs(runs, baseline),
                "outcome": None if went is None else lines(went, [run.name for run in runs]),
            }
        ),
        runtime=charts.runtime(),
        script=file_of_page("page.js"),
    )


def _specs(runs: Sequence[Run], baseline: int | None) -> dict[str, Any]:
    names = [run.name for run in runs]
    curves = {
        f"{axis}{'-together' * together}": charts.curve(names, baseline, axis, together)
        for axis in ("epoch", "step")
        for together in (False, True)
    }
    others = {"layout": charts.plane(), "matrix": charts.matrix(), "outcome": charts.parallel()}
    return {**curves, "spectrum": charts.spectrum(), **others}


def file_of_page(name: str) -> str:
    """A file of this package, such as page.js."""
    return files("lightning_featgeo.report").joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that can't end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for bad in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(bad, f"\\u{ord(bad):04x}")
    return text.encode("utf-8", "replace").decode()


def _lead(runs: Sequence[Run], found: Sequence[Panel]) -> str:
    signals = len({panel.signal for panel in found})
    stages = ", ".join(dict.fromkeys(panel.stage for panel in found))
    layers = len({(panel.layer or "") for panel in found})
    return text(
        f"{len(runs)} run{'s' * (len(runs) > 1)}, {signals} signal{'s' * (signals > 1)}, {layers} "
        f"layer{'s' * (layers > 1)}; stages: {stages}. Hover or touch a curve for its numbers."
    )


def _notes(notes: Iterable[str]) -> str:
    return "".join(f"<p class='apart'>{text(note)}</p>" for note in notes)


def _toggles(runs: Sequence[Run], found: Sequence[Panel], baseline: int | None) -> str:
    shown = ""
    if len(runs) > 1:
        labels = "".join(
            f"<label><input type='checkbox' data-run='{i}' checked>"
            f"<i class='dot' style='--swatch:{charts.colour_of(i, baseline)}'></i>"
            f"<span title='{text(run.name)}'>{text(run.name)}</span></label>"
            for i, run in enumerate(runs)
        )
        shown = f"<fieldset class='scroll'><legend>Runs</legend>{labels}</fieldset>"
    parts = _sections(found)
    if len(parts) > 1:
        labels = "".join(
            f"<label><input type='checkbox' data-part='part-{i}' checked><span>{text(_part_name(*key))}</span></label>"
            for i, key in enumerate(parts)
        )
        shown += f"<fieldset class='scroll'><legend>Parts</legend>{labels}</fieldset>"
    return shown


def _sections(found: Sequence[Panel]) -> dict[tuple[str, str | None], list[int]]:
    parts: dict[tuple[str, str | None], list[int]] = {}
    for i, panel in enumerate(found):
        parts.setdefault((panel.stage, panel.layer), []).append(i)
    return parts


def _part_name(stage: str, layer: str | None) -> str:
    return stage if layer is None else f"{stage} · {layer}"


def _together(indices: Sequence[int], found: Sequence[Panel]) -> list[list[int]]:
    """Panels that are read in one chart: of the same measure against different windows, if their runs are the same."""
    charts_of: dict[tuple[object, ...], list[int]] = {}
    for i in indices:
        of, against = compared_with(found[i].signal)
        runs = tuple(curve.run for curve in found[i].curves)
        charts_of.setdefault((of, runs) if against and not found[i].apart else (i,), []).append(i)
    return list(charts_of.values())


def _parts(runs: Sequence[Run], found: Sequence[Panel], data: Data, baseline: int | None) -> str:
    """A section for each stage and layer, with a panel for each signal and a chart of spectra for each run."""
    written = []
    names = [run.name for run in runs]
    for number, (key, indices) in enumerate(_sections(found).items()):
        paths = {path for i in indices if (path := found[i].path)}
        path = f" <small class='soft name'>{text(', '.join(sorted(paths)))}</small>" if paths else ""
        body = [article(own, [found[i] for i in own], names, baseline) for own in _together(indices, found)]
        alike = [(i, each) for i, each in enumerate(data.matrices) if (each["stage"], each["layer"]) == key]
        spectra = [(i, each) for i, each in enumerate(data.spectra) if (each["stage"], each["layer"]) == key]
        laid = [(i, each) for i, each in enumerate(data.layouts) if (each["stage"], each["layer"]) == key]
        body += [layout(i, each, names[each["run"]], len(runs) > 1) for i, each in laid]
        body += [matrix(i, each, names[each["run"]], len(runs) > 1) for i, each in alike]
        body += [spectrum(i, each, names[each["run"]], len(runs) > 1) for i, each in spectra]
        title = text(_part_name(*key))
        written.append(
            f"<section id='part-{number}' aria-label='{title}'><h2>{title}{path}</h2>"
            f"<div class='grid'>{''.join(body)}</div></section>"
        )
    return "".join(written)
