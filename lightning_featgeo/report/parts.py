"""Parts of the page: a card for each run, an article for each panel. Everything from outside is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.document import directions, formula, undefined
from lightning_featgeo.metrics.reading_order import compared_with, heading
from lightning_featgeo.report import charts, links, words
from lightning_featgeo.report.curves import Curve, Panel, made_of, rows_vary
from lightning_featgeo.report.outcome import Outcome
from lightning_featgeo.report.ranks import Link
from lightning_featgeo.report.runs import Run

MOST_NAMES = 8  # of metrics that could be asked for
MOST_LINES = 6  # curves of which each has a line of words below its chart
_ALARM = {
    "text": "what",
    "limit": "limit",
    "agree": "agree",
    "disagree": "disagree",
    "checkpoint": "checkpoint",
    "causes": "usual causes",
    "steps": "next",
}


def text(given: object) -> str:
    """Escaped for HTML, in text and in quoted attributes."""
    return html.escape(str(given), quote=True)


def run_card(index: int, run: Run, baseline: int | None) -> str:
    """What happened in a run, in words."""
    kind, sentence = words.headline(run)
    label = {"stop": "stopped", "alarm": "alarm", "notice": "notice", "quiet": "no alarm"}[kind]
    base = " <span class='badge'>baseline</span>" if index == baseline else ""
    described = run.history.run.get("described")
    return "".join(
        [
            f"<li class='run' style='--swatch:{charts.colour_of(index, baseline)}'>",
            f"<h2 class='name'>{text(run.name)}{base}</h2>",
            f"<p><span class='badge {kind}'>{label}</span> {text(sentence)}</p>",
            "<ul>",
            *(f"<li>{text(moved)}</li>" for moved in words.movements(run)),
            "</ul>",
            f"<p class='soft'>{text(words.ending(run))} <span class='name'>{text(run.path.name)}</span></p>",
            *(f"<p class='apart'>{text(note)}</p>" for note in run.notes),
            *(_alarm(event) for event in run.history.events if isinstance(event.get("alarm"), dict)),
            _fold("What was watched", "<p>" + "<br>".join(text(line) for line in str(described).splitlines()) + "</p>")
            if described
            else "",
            "</li>",
        ]
    )


def _alarm(event: dict[str, Any]) -> str:
    """Everything that an alarm says, behind a fold."""
    alarm = event["alarm"]
    rows = {
        words_for: "; ".join(map(str, given)) if isinstance(given, list) else given
        for key, words_for in _ALARM.items()
        if (given := alarm.get(key))
    }
    epoch = event.get("epoch")
    when = f", epoch {epoch:g}" if isinstance(epoch, (int, float)) else ""
    return _fold(f"{alarm.get('title') or event.get('kind')}{when}: why, and what to do", _list(rows))


def _lines(words: str) -> str:
    return "<br>".join(text(line) for line in words.splitlines())


def _fold(title: str, inside: str) -> str:
    return f"<details><summary>{text(title)}</summary>{inside}</details>"


def _list(rows: dict[str, Any]) -> str:
    return "<dl>" + "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in rows.items() if v) + "</dl>"


def article(indices: Sequence[int], panels: Sequence[Panel], names: list[str], baseline: int | None) -> str:
    """A panel, or several that measure the same against different windows: title, chart, words, definition, numbers.

    Args:
        indices: of these panels on the page.
        panels: one of each signal.
        names: of all runs.
        baseline: index of the run that others are compared with.
    """
    signal = compared_with(panels[0].signal)[0] if len(panels) > 1 else panels[0].signal
    row = CATALOG.get(panels[0].signal)
    way = {"higher": "higher is healthier", "lower": "lower is healthier"}.get(row.direction if row else "", "")
    unit = row.unit if row is not None and row.unit != "1" else ""
    told = " ".join(words.summary(panel, names) for panel in panels)
    parts = [
        f"<article class='panel'><p class='kicker'>{text(heading(panels[0].signal))}</p>",
        f"<h3>{text(signal)} <small>{text(', '.join(filter(None, (unit, way))))}</small></h3>",
        *(f"<p class='apart'>{text(reason)}</p>" for panel in panels[:1] for reason in _remarks(panel, names)),
        figure(f"class='chart' data-panel='{' '.join(map(str, indices))}'", told),
        "<ul class='lines'>",
    ]
    for panel in panels:
        against = f"against {compared_with(panel.signal)[1]}: " if len(panels) > 1 else ""
        few = panel.curves if len(panel.curves) * len(panels) <= MOST_LINES else []
        parts += [f"<li>{against}{_line(curve, panel, names, baseline)}</li>" for curve in few]
    parts.append("</ul>")
    for index, panel in zip(indices, panels, strict=True):
        which = f" ({panel.signal})" if len(panels) > 1 else ""
        parts += [
            _fold(f"What this is{which}", _definition(panel)),
            f"<details data-numbers='{index}'><summary>Numbers{text(which)}</summary>",
            f"<p><button type='button' data-csv='{index}'>As CSV</button></p>",
            f"<div class='numbers' tabindex='0' role='region' aria-label='Numbers of {text(panel.signal)}'></div>",
            "</details>",
        ]
    return "".join([*parts, "</article>"])


def figure(attributes: str, told: str) -> str:
    """Where the script draws; around it, the words for those who can't see it (inside, the script writes its own)."""
    return f"<div role='img' aria-label='{text(told)}'><div {attributes}></div></div>"


def _remarks(panel: Panel, names: list[str]) -> list[str]:
    found = []
    if panel.apart:
        who = ", ".join(names[curve.run] for curve in panel.curves)
        found.append(f"Separate panel: {who} differs in {'; '.join(panel.apart)}.")
    for curve in panel.curves:
        varying = rows_vary(curve)
        if varying is not None:
            found.append(f"{names[curve.run]}: {varying}; signals that depend on n move with it.")
    return found


def _line(curve: Curve, panel: Panel, names: list[str], baseline: int | None) -> str:
    told = words.of_curve(curve)
    base = next((other for other in panel.curves if other.run == baseline), None)
    if base is not None and curve is not base:
        mine, theirs = _by_epoch(curve), _by_epoch(base)
        shared = max(mine.keys() & theirs.keys(), default=None)
        if shared is not None:
            told += f"; {mine[shared] - theirs[shared]:+.3g} against the baseline at epoch {shared:g}"
    return (f"<b class='name'>{text(names[curve.run])}</b>: " if len(names) > 1 else "") + text(told)


def _by_epoch(curve: Curve) -> dict[float, float]:
    return {r.epoch: value for r, value in zip(curve.records, curve.values, strict=True) if math.isfinite(value)}


def _definition(panel: Panel) -> str:
    row = CATALOG.get(panel.signal)
    facts = {"Computed from": made_of(panel)}
    if row is None:
        own = "not in this version's catalogue: a signal of your own, or of another version"
        return _list({"Definition": own, **facts})
    ceilings = [r.ceilings[panel.signal] for c in panel.curves for r in c.records if panel.signal in r.ceilings]
    at_most = f"; at most {words.number(max(ceilings))} at this number of rows" if ceilings else ""
    return _list(
        {
            "Definition": formula(row).replace("**", "").replace("`", ""),  # docstrings are Markdown
            "Range": f"{row.value_range}{at_most}",
            "Reading": directions(row),
            "Known bias": row.bias,
            "No value": undefined(row),
            "Source": row.source,
            **facts,
        }
    )


def outcome_section(outcome: Outcome) -> str:
    """Which curves went with a metric: two tables, and all runs in one chart."""
    said = [links.CHANCE.format(clear=links.CLEAR)] if outcome.across or outcome.within else []
    said += [told for told, tried in _outcome_tables(outcome) if not tried] + [outcome.note]
    told = f"Each line is a run; the last axis is {outcome.name}, which colours it: dark is low."
    chart = (
        "<article class='panel'><h3>All runs, through the curves that went closest</h3>"
        + figure("class='chart tall' data-kind='outcome'", told)
        + f"<p class='lines'>{text(told)} Each axis goes from the lowest value to the highest.</p></article>"
    )
    tables = [
        f"<article class='panel'><h3>{text(told)}</h3>"
        f"<p class='soft'>{text(what.format(name=outcome.name))}</p>{_links(tried, outcome.curves)}</article>"
        for (told, tried), what in zip(_outcome_tables(outcome), (links.ACROSS, links.WITHIN), strict=True)
        if tried
    ]
    if outcome.across:
        tables.insert(1, chart)
    return (
        f"<section id='outcome' aria-label='Outcome'><h2>What went with {text(outcome.name)}</h2>"
        f"<p class='soft'>{text(' '.join(filter(None, said)))}</p>"
        f"<div class='grid wide'>{''.join(tables)}</div></section>"
    )


def _outcome_tables(outcome: Outcome) -> list[tuple[str, list[Link]]]:
    return [(links.across(outcome), outcome.across), (links.within(outcome), outcome.within)]


def _links(tried: Sequence[Link], found: Sequence[Panel]) -> str:
    rows = [links.row(link, found[link.panel]) for link in tried[: links.MOST_ROWS]]
    head = "".join(f"<th scope='col'>{text(column)}</th>" for column in rows[0])
    body = "".join(
        f"<tr class='{'clear' if link.chance <= links.CLEAR else 'soft'}'>"
        + "".join(f"<td>{text(cell)}</td>" for cell in cells.values())
        + "</tr>"
        for link, cells in zip(tried, rows, strict=False)
    )
    more = len(tried) - len(rows)
    left = f"<p class='soft'>{more} more are in the form for scripts (--json).</p>" if more else ""
    return f"<div class='numbers' tabindex='0' role='region'><table><tr>{head}</tr>{body}</table></div>{left}"


def outcome_hint(names: Sequence[str]) -> str:
    """How to ask which curves went with a metric; nothing where the runs have logged none."""
    if not names:
        return ""
    shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    return f"<p class='soft'>Which curves went with the outcome? Add <code>--outcome NAME</code>: {text(shown)}.</p>"
