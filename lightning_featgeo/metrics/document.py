"""The catalogue as text: one Markdown page a signal, a table of statistics, and a table for the terminal.

python -m lightning_featgeo.metrics.document docs/signals
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from pathlib import Path

from lightning_featgeo.metrics.catalog import CATALOG, Signal
from lightning_featgeo.metrics.reading_order import HEADINGS, OTHERS, QUESTIONS, heading
from lightning_featgeo.metrics.statistics.bank import BY_ANGLE, BY_DISTANCE
from lightning_featgeo.metrics.statistics.needs import known, required_by
from lightning_featgeo.metrics.statistics.statistics import Statistics

_DIRECTIONS = {
    "higher": "higher is healthier",
    "lower": "lower is healthier",
    "none": "neither way is better by itself",
}
_WAYS = {"higher": "higher", "lower": "lower", "none": "–"}
_COSTS = {
    "moments": "class or total sums a batch",
    "scatter": "a d×d product a batch in float64",
    "eigen": "one symmetric eigendecomposition a window",
    "directions": "sums over d a batch",
    "units": "sums over d a batch",
    "histograms": "a bin for each of n·d values a batch",
    "positions": "sums over d by position and by sequence a batch",
    "codes": "the largest of d entries a row",
    "bank": "a bank of rows",
    "views": "a bank of all views",
    "reference": "the reference's accumulators",
}
_INPUTS = {
    "labels": "class labels",
    "head": "the head's weight",
    "mixtures": "weights of two classes a row (mixup, CutMix)",
    "targets": "floating-point labels (regression targets)",
    "groups": "the group of each row (`groups=`)",
    "places": "tokens as rows",
    "best": "a metric that tells which window was best",
    "anchor": "rows from outside of the run",
    "earlier": "the same samples in the window before",
    "reference": "a reference (`reference=`)",
}
_SEARCHES = {
    "prdc": "two neighbour searches and two passes over all pairs of the two banks",
    "ood_distances": "a neighbour search in the reference's bank",
    "reference_ood_distances": "a neighbour search within the reference's bank",
    "reference_rows": "passes over all pairs of the two banks",
}


def directions(signal: Signal) -> str:
    """Which way is better, in words."""
    return _DIRECTIONS[signal.direction]


def _documented(signal: Signal) -> str:
    """The docstring of the signal's function, also behind ``functools.partial``."""
    function = signal.function.func if isinstance(signal.function, functools.partial) else signal.function
    return inspect.getdoc(function) or ""


def formula(signal: Signal) -> str:
    """First paragraph of the function's docstring: what is computed."""
    text = _documented(signal).split("\n\n")[0].replace("\n", " ")
    if isinstance(signal.function, functools.partial):
        given = ", ".join(f"{name} = {value}" for name, value in signal.function.keywords.items())
        text = f"{text} Here {given}."
    return text


def undefined(signal: Signal) -> str:
    """When the signal has no value, from the docstring's Raises section."""
    found = re.search(r"Undefined: (.*?)(?:\n\n|\Z)", _documented(signal), flags=re.S)
    return " ".join(found.group(1).split()) if found else "never"


def cost(signal: Signal) -> str:
    """What it makes the monitor do; shared with every other signal of the same needs."""
    return _cost(signal.needs)


def _cost(needs: tuple[str, ...]) -> str:
    requires = required_by(needs)
    parts = [text for key, text in _COSTS.items() if key in requires]
    if (BY_DISTANCE | BY_ANGLE | {"target_distances"}) & set(needs):
        parts.append("one self-neighbour search of the bank a window")
    parts += [text for need, text in _SEARCHES.items() if need in needs]
    return ", ".join(parts) if parts else "nothing beyond a count"


def limits(signal: Signal) -> str:
    """What rules take for much, where they are not told."""
    at = signal.limits
    parts = [f"`Plateau` {at.plateau:.0%}"]
    if signal.direction == "none":
        return f"{parts[0]}; other rules need your numbers, such as `Threshold(below=…)`"
    parts = [
        f"`{n}` {v:.0%}"
        for n, v in (("Drop", at.drop), ("Decline", at.decline), ("Peak", at.peak), ("GeneralizationGap", at.gap))
    ]
    if at.bound is not None:
        parts.append(f"`Threshold` {'below' if signal.direction == 'higher' else 'above'} {at.bound:g}")
    return ", ".join([*parts, f"`Plateau` {at.plateau:.0%}"]) + " ([what is measured](../alarms.md#rules))"


def page(signal: Signal) -> str:
    """One signal as Markdown."""
    needs = ", ".join(f"`{need}`" for need in signal.needs)
    inputs = [text for key, text in _INPUTS.items() if key in signal.requires]
    ceiling = signal.value_range.split(", ", 1)[-1][:-1] if signal.ceiling else "none that depends on n"
    rows = {
        "Definition": formula(signal),
        "Source": signal.source,
        "Range": f"{signal.value_range}, in {signal.unit}" if signal.unit != "1" else signal.value_range,
        "Ceiling": ceiling,
        "Direction": directions(signal),
        "Needs": needs + (f"; from you: {', '.join(inputs)}" if inputs else ""),
        "Cost": cost(signal),
        "Known bias": signal.bias,
        "No value": undefined(signal),
        "Matches": signal.parity,
        "Limits of alarms": limits(signal),
        "Groups": ", ".join(f"`{group}`" for group in signal.groups),
    }
    body = "\n\n".join(f"**{title}.** {text}" for title, text in rows.items())
    return f"# `{signal.name}`\n\n{body}\n"


def index() -> str:
    """The map: which signals to look at for which question; then all of them, under the headings of a report."""
    parts = [
        f'# Signals\n\n{len(CATALOG) - 1} signals, and where to begin. `signals="auto"` (the default) takes the preset '
        "that fits the run; a group's name takes the group. Generated from the catalogue: `python docs/generate.py`.",
        "## Which signals for which question?",
        _table(("question", "look at"), [(q, ", ".join(map(_linked, names))) for q, names in QUESTIONS.items()]),
    ]
    for title in (*HEADINGS, OTHERS):
        rows = [s for s in CATALOG.values() if heading(s.name) == title]
        if rows:
            groups = ", ".join(f"`{group}`" for group in dict.fromkeys(g for row in rows for g in row.groups))
            cells = [(_linked(s.name), _in_short(s), s.value_range, _WAYS[s.direction], s.source) for s in rows]
            table = _table(("signal", "what it is", "range", "healthier", "source"), cells)
            parts += [f"## {title}", f"Groups: {groups}.", table]
    return "\n\n".join(parts) + "\n"


def _linked(name: str) -> str:
    return f"[`{name}`]({name}.md)"


def _in_short(signal: Signal) -> str:
    """The beginning of the definition: its first part, and the next one where that is a name alone."""
    parts = re.split(r"(?<=[:;.])\s", formula(signal))
    text = parts[0] if len(parts[0]) >= 25 or len(parts) == 1 else " ".join(parts[:2])
    given = signal.function.keywords if isinstance(signal.function, functools.partial) else {}
    scale = f" ({', '.join(f'{name} = {value}' for name, value in given.items())})" if given else ""
    return text.rstrip(":;.,").replace("``", "`").replace("|", "\\|") + scale


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def statistics() -> str:
    """The table of what a signal's function can take, as Markdown."""
    lines = []
    for name in sorted(known()):
        plain = {"dim": "d, the dimension of the features", "knn_t": "temperature of a vote, from ``Neighbors``"}
        told = plain.get(name) or inspect.getdoc(getattr(Statistics, name)) or ""
        inputs = [text for key, text in _INPUTS.items() if key in required_by([name])]
        text = " ".join(told.split()).rstrip(".").replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{name}` | {text} | {', '.join(inputs) or '–'} | {_cost((name,))} |")
    head = (
        "# Statistics\n\nWhat the function of a signal can take, by the names of its parameters ([your own "
        "signal](own_signals.md)). n rows, m of the reference, d dimensions, C classes, k neighbours. Each is computed "
        "at most once a window, however many signals take it; what no signal takes is not kept at all. Generated: "
        "`python docs/generate.py`.\n\n| parameter | what it is | from you | cost |\n|---|---|---|---|\n"
    )
    return head + "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """All pages and the index, and nothing else, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"{name}.md": page(signal) for name, signal in CATALOG.items()} | {"README.md": index()}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def catalog() -> None:
    """Print the table of signals: name, range, direction, groups, source.

    >>> catalog()  # doctest: +ELLIPSIS
    signal ...
    feature_std ... [0, 1] ... higher ... spectrum ... Chen & He 2021, arXiv 2011.10566
    ...
    """
    rows = [("signal", "range", "better", "groups", "source")]
    rows += [(s.name, s.value_range, s.direction, ", ".join(s.groups), s.source) for s in CATALOG.values()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
