"""The part of a report on an outcome: tables of links with it, and a line for each run through the closest curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_featgeo.report.curves import Panel
from lightning_featgeo.report.outcome import Outcome
from lightning_featgeo.report.ranks import LEAST_RUNS, Link
from lightning_featgeo.report.words import number

CLEAR = 0.05  # by chance
MOST_ROWS = 12  # of a table for people; the JSON form has all
MOST_AXES = 6  # curves beside the outcome
ACROSS = (
    "Each run is a point: the curve's last value, and the run's last {name}. Rank correlation, from −1 to 1, with a "
    "95 % interval."
)
WITHIN = (
    "Each step from one window to the next is a point: how the curve moves, and how {name} moves in the same window "
    "or, with a lag, so many windows later; both without what all runs have in common at that window."
)
CHANCE = (
    "By chance: how often at least one of all these curves is that close when runs are shuffled; {clear:g} or less "
    "stands out. A link is no cause."
)


def name_of(panel: Panel) -> str:
    """A curve's name, as it was logged."""
    return "/".join(["featgeo", panel.stage, *([panel.layer] if panel.layer else []), panel.signal])


def across(outcome: Outcome) -> str:
    """What the table across runs says, in a sentence."""
    runs = len(outcome.finals)
    if outcome.across:
        return f"Across {runs} runs: {_standing(outcome.across)}"
    if runs >= LEAST_RUNS and len(set(outcome.finals.values())) == 1:
        return f"Across runs: all {runs} have the same {outcome.name}, so nothing can go with it."
    return (
        f"Across runs: {runs} run{'s have' if runs != 1 else ' has'} a last {outcome.name}; it takes {LEAST_RUNS} with "
        "the same curve, and differences in both, to say which go together."
    )


def within(outcome: Outcome) -> str:
    """What the table within runs says, in a sentence."""
    if not outcome.within:
        alone = (
            " In a single one, all that levels off goes with all that levels off." if len(outcome.finals) < 2 else ""
        )
        return f"Within runs: {outcome.why_not_within}.{alone}"
    runs = outcome.runs_within
    return f"Within {runs} run{'s' * (runs > 1)}: {_standing(outcome.within)}"


def _standing(links: Sequence[Link]) -> str:
    clear = sum(link.chance <= CLEAR for link in links)
    tried = f"{len(links)} curve{'s' * (len(links) > 1)}"
    if not clear:
        if len(links) == 1:
            return "the only curve does not stand out from what chance gives."
        return f"none of {tried} stands out from what chance gives when so many are tried."
    return f"{clear} of {tried} stand{'s' * (clear == 1)} out."


def row(link: Link, panel: Panel) -> dict[str, str]:
    """A link in words, by column."""
    cells = {
        "curve": name_of(panel) + (f" ({'; '.join(panel.apart)})" if panel.apart else ""),
        "rank correlation": f"{link.rho:+.2f} ({link.low:+.2f} to {link.high:+.2f})".replace("-", "−"),
    }
    if link.lag is None:
        cells["runs"] = str(link.n)
    else:
        cells["lag, windows"], cells["moves"] = str(link.lag), str(link.n)
    cells["by chance"] = f"{link.chance:.2g}" if link.chance >= 0.001 else "under 0.001"
    return cells


def lines(outcome: Outcome, names: Sequence[str]) -> dict[str, Any]:
    """What the chart of all runs is drawn from: for each run, its place between lowest and highest on each axis.

    Returns:
        ``axes``: names in order, the outcome last, with the values at both ends. ``points``: run, axis, place (0 to 1),
        value, and the run's outcome. Empty where no table across runs is.
    """
    if not outcome.across:
        return {"axes": [], "points": []}
    columns: dict[str, dict[int, float]] = {}
    for link in outcome.across[:MOST_AXES]:
        panel = outcome.curves[link.panel]
        short = panel.signal if panel.layer is None else f"{panel.layer}/{panel.signal}"
        label = short if short not in columns else name_of(panel)
        while label in columns:  # the same curve, of runs that can't be compared
            label += "′"
        columns[label] = {
            curve.run: [v for v in curve.values if math.isfinite(v)][-1]
            for curve in panel.curves
            if curve.run in outcome.finals and any(map(math.isfinite, curve.values))
        }
    last = outcome.name if outcome.name not in columns else f"{outcome.name} (outcome)"
    columns[last] = outcome.finals
    axes, points = [], []
    for label, values in columns.items():
        low, high = min(values.values()), max(values.values())
        axes.append({"axis": label, "low": number(low), "high": number(high)})
        for run, value in sorted(values.items()):
            place = 0.5 if high == low else (value - low) / (high - low)
            points.append(
                {"run": names[run], "axis": label, "place": round(place, 4), "value": value,
                 "outcome": outcome.finals[run]}
            )  # fmt: skip
    return {"axes": axes, "points": points}


def as_facts(outcome: Outcome) -> dict[str, Any]:
    """Everything as plain values."""

    def plain(link: Link) -> dict[str, Any]:
        of_link = {"rho": link.rho, "low": link.low, "high": link.high, "n": link.n, "by_chance": link.chance}
        lag = {} if link.lag is None else {"lag": link.lag}
        panel = outcome.curves[link.panel]
        apart = {"apart": list(panel.apart)} if panel.apart else {}
        return {"curve": name_of(panel), **of_link, **lag, **apart}

    return {
        "metric": outcome.name,
        "runs": len(outcome.finals),
        "across_runs": [plain(link) for link in outcome.across],
        "within_runs": [plain(link) for link in outcome.within],
        "said": [part for part in (across(outcome), within(outcome), outcome.note) if part],
    }
