"""Vega-Lite specifications, made with Altair, one for each kind of chart. The page puts each panel's data in."""

from __future__ import annotations

import functools
import json
from typing import Any

from lightning_featgeo.report.runs import ReportError

HOW_TO = "pip install 'lightning-featgeo[report]' (or: pip install altair vl-convert-python)"
COLOURS = 8  # of runs, in page.css; further runs use them again, dashed
BROKEN = "break-paths-filter-domains"  # a line is not drawn over what is missing
INK = "var(--ink)"  # colours are CSS variables, which the page puts in: light and dark differ


def libraries() -> tuple[Any, Any]:
    """Altair and vl-convert.

    Raises:
        ReportError: if one is missing, with the line to type.
    """
    try:
        import altair
        import vl_convert
    except ModuleNotFoundError as error:
        raise ReportError(f"the report needs {error.name}, which is not installed: {HOW_TO}") from None
    return altair, vl_convert


def colour_of(run: int, baseline: int | None) -> str:
    """The CSS colour of a run: ink for the baseline."""
    return INK if run == baseline else f"var(--run-{run % COLOURS})"


def curve(names: list[str], baseline: int | None, axis: str, together: bool = False) -> dict[str, Any]:
    """Lines with error bands, gaps, marks of alarms, and values under the pointer.

    Data, of which the page leaves out layers that have none: ``curve`` and, without gaps, ``valid`` (run, epoch, step,
    value, error, against), ``band`` (low, high), ``lone`` (values between gaps), ``gap`` (why), ``mark`` (kind, text).

    Args:
        names: of all runs, so that each keeps its colour in every chart.
        baseline: which of them is drawn in ink, dashed.
        axis: "epoch" or "step".
        together: of several signals, which are told apart by ``against``: lines are dashed by it.
    """
    alt, _ = libraries()
    title = "epoch" if axis == "epoch" else "optimiser step"
    x = alt.X(f"{axis}:Q", title=title, axis=alt.Axis(grid=False, tickMinStep=1))
    y, low = (alt.Y(f"{field}:Q", title=None, scale=alt.Scale(zero=False)) for field in ("value", "low"))
    colours = [colour_of(i, baseline) for i in range(len(names))]
    dashes = [[1, 0] if i < COLOURS else [6, 2] for i in range(len(names))]
    if baseline is not None:
        dashes[baseline] = [5, 3]
    colour = alt.Color("run:N", legend=None, scale=alt.Scale(domain=names, range=colours))
    dash = alt.StrokeDash("run:N", legend=None, scale=alt.Scale(domain=names, range=dashes))
    what: list[Any] = []
    if together:
        dash = alt.StrokeDash(
            "against:N", sort=None, legend=alt.Legend(orient="bottom", columns=2, title="against", symbolSize=400)
        )
        what = [alt.Tooltip("against:N", title="against")]
    kinds = ["stop", "alarm", "notice"]
    tones = ["var(--stop)", "var(--alarm)", "var(--quiet)"]
    urgent = alt.Color("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=tones))
    solid = alt.StrokeDash("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=[[1, 0], [4, 3], [1, 3]]))
    when = [alt.Tooltip("run:N", title="run"), *what, alt.Tooltip("epoch:Q", title="epoch", format=".4~g")]
    shown = [
        *when,
        alt.Tooltip("step:Q", title="step"),
        alt.Tooltip("value:Q", title="value", format=".5~g"),
        alt.Tooltip("error:N", title="standard error"),
    ]
    near = _nearest(alt, axis)

    def of(data: str) -> Any:
        return alt.Chart(alt.NamedData(name=data)).encode(x=x)

    chart = alt.layer(
        of("band").mark_area(opacity=0.18, invalid=BROKEN).encode(y=low, y2="high:Q", color=colour, detail="against:N"),
        of("curve").mark_line(invalid=BROKEN, strokeWidth=2).encode(y=y, color=colour, strokeDash=dash),
        of("lone").mark_point(filled=True, size=30, opacity=1).encode(y=y, color=colour),
        of("valid")
        .mark_point(filled=True, size=60)
        .encode(y=y, color=colour, tooltip=shown, opacity=alt.condition(near, alt.value(1), alt.value(0)))
        .add_params(near),
        of("gap")
        .mark_point(shape="cross", angle=45, filled=True, size=45, opacity=0.9)
        .encode(y=alt.value("height"), color=colour, tooltip=[*when, alt.Tooltip("why:N", title="no value")]),
        of("mark")
        .mark_rule(strokeWidth=2, opacity=0.9)
        .encode(
            color=urgent,
            strokeDash=solid,
            tooltip=[*when, alt.Tooltip("kind:N", title="what"), alt.Tooltip("text:N", title="why")],
        ),
    )
    return _specification(chart.resolve_scale(color="independent", strokeDash="independent"), 210 if together else 190)


def spectrum() -> dict[str, Any]:
    """Eigenvalues over rank, a line a window, dark to bright with the epoch. Data: ``curve`` (epoch, rank, value)."""
    alt, _ = libraries()
    near = _nearest(alt, "epoch")
    rank = alt.X("rank:Q", title="rank", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(grid=False))
    size = alt.Y("value:Q", title=None, scale=alt.Scale(type="log"), axis=alt.Axis(format=".0~e", tickCount=5))
    epoch = alt.Color("epoch:Q", scale=alt.Scale(scheme="viridis"), legend=None)
    base = alt.Chart(alt.NamedData(name="curve")).encode(x=rank, y=size, color=epoch, detail="epoch:Q")
    shown = [alt.Tooltip("epoch:Q", format=".4~g"), "rank:Q", alt.Tooltip("value:Q", format=".4~g")]
    chart = alt.layer(
        base.mark_line(strokeWidth=1.5).encode(opacity=alt.condition(near, alt.value(1), alt.value(0.75))),
        base.mark_point(filled=True, size=40)
        .encode(opacity=alt.condition(near, alt.value(1), alt.value(0)), tooltip=shown)
        .add_params(near),
    )
    return _specification(chart, 235)


def parallel() -> dict[str, Any]:
    """A line for each run through several axes, coloured by its outcome.

    Data: ``curve`` (run, axis, place from 0 to 1, value, outcome) and ``ends`` (axis, place, text), in order of axes.
    """
    alt, _ = libraries()
    upright = alt.Axis(
        labelAngle=-18, labelAlign="left", orient="top", grid=True, domain=False, ticks=False, labelLimit=150
    )
    x = alt.X("axis:N", title=None, sort=None, scale=alt.Scale(type="point", padding=0.4), axis=upright)
    y = alt.Y("place:Q", title=None, axis=None, scale=alt.Scale(domain=[-0.12, 1.12]))
    colour = alt.Color("outcome:Q", legend=None, scale=alt.Scale(scheme="viridis"))
    base = alt.Chart(alt.NamedData(name="curve")).encode(x=x, y=y, color=colour, detail="run:N")
    shown = ["run:N", "axis:N", alt.Tooltip("value:Q", format=".5~g"), alt.Tooltip("outcome:Q", format=".5~g")]
    ends = alt.Chart(alt.NamedData(name="ends")).mark_text(fontSize=10, color=INK).encode(x=x, y=y, text="text:N")
    lines = base.mark_line(strokeWidth=2, opacity=0.75)
    points = base.mark_point(filled=True, size=45, opacity=0.9).encode(tooltip=shown)
    return _specification(alt.layer(lines, points, ends), 235)


def matrix() -> dict[str, Any]:
    """A square of cells. Data: ``curve`` (row, column: names of layers, value), in the order of layers."""
    alt, _ = libraries()
    x = alt.X("column:N", title=None, sort=None, axis=alt.Axis(labelAngle=-40, labelLimit=110, ticks=False))
    y = alt.Y("row:N", title=None, sort=None, axis=alt.Axis(labelLimit=110, ticks=False))
    key = alt.Legend(orient="bottom", title="linear CKA", gradientLength=160)
    colour = alt.Color("value:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=key)
    shown = ["row:N", "column:N", alt.Tooltip("value:Q", title="linear CKA", format=".3f")]
    cells = alt.Chart(alt.NamedData(name="curve")).mark_rect().encode(x=x, y=y, color=colour, tooltip=shown)
    return _specification(alt.layer(cells), 320)


def plane() -> dict[str, Any]:
    """Dots in a square. Data: ``curve`` (x and y from -1 to 1, sample, class); the page sets size and classes."""
    alt, _ = libraries()
    x, y = (
        of(f"{name}:Q", axis=None, scale=alt.Scale(domain=[-1.04, 1.04])) for of, name in ((alt.X, "x"), (alt.Y, "y"))
    )
    below = alt.Legend(orient="bottom", columns=5, title=None, symbolOpacity=1, labelLimit=90)
    colour = alt.Color("class:N", legend=below, sort=None)
    dots = alt.Chart(alt.NamedData(name="curve")).mark_point(filled=True, size=28, opacity=0.75, clip=True)
    return _specification(alt.layer(dots.encode(x=x, y=y, color=colour, tooltip=["sample:N", "class:N"])), 320)


def _nearest(alt: Any, field: str) -> Any:
    """The values nearest to the pointer."""
    return alt.selection_point(
        name="near", nearest=True, on="pointermove", fields=[field], empty=False, clear="pointerleave"
    )


def _specification(chart: Any, height: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(chart.properties(width="container", height=height).to_json())
    return found


@functools.cache
def runtime() -> str:
    """Vega, Vega-Lite and vega-embed as one script, so that the page asks no server for anything."""
    alt, convert = libraries()
    version = ".".join(str(alt.SCHEMA_VERSION).removeprefix("v").split(".")[:2])
    script: str = convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return script.replace("</script", "<\\/script")
