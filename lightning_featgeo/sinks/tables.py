"""Tables and charts of a window as plain data, before any logger draws them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.types import Tensor

MAX_LINES = 12  # in one chart; older windows are thinned
MAX_UNITS = 512  # lines in a picture of units
MAX_POINTS = 200  # of a line
_PARTS = {2: "head", 1: "mid", 0: "tail", -1: "–"}
_MORE_OF_CLASSES = (
    ("class_drift", "drift"),
    ("class_rank", "effective rank"),
    ("class_dimension", "intrinsic dimension"),
    ("class_unit", "best unit"),
    ("class_unit_auroc", "its AUROC"),
)
_MOVES = {
    "unit_moves_previous": "moved since the window before",
    "unit_moves_first": "since the first",
    "unit_moves_reference": "from the reference",
}
Spectra = list[tuple[float, list[list[float]]]]


@dataclass(frozen=True)
class Table:
    """Columns and rows of plain values; None where there is none."""

    columns: list[str]
    rows: list[list[Any]]
    title: str = ""

    def titled(self) -> Table:
        """With its title as a column, for loggers whose tables have none."""
        return Table([*self.columns, "of"], [[*row, self.title] for row in self.rows]) if self.title else self

    def markdown(self) -> str:
        """As Markdown; what is in a cell can't leave it."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(in_markdown(value) for value in line) + " |" for line in lines) + "\n"


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines in one chart: (x, y) points by key."""

    title: str
    x: str
    y: str
    series: dict[str, tuple[list[float], list[float]]]
    logarithmic: bool = False


@dataclass(frozen=True, eq=False)
class Matrix:
    """A square matrix of numbers from ``lowest`` to 1 with a name for each row and column."""

    title: str
    names: list[str]
    values: list[list[float]]
    what: str = "cosine"
    lowest: float = -1.0


@dataclass(frozen=True, eq=False)
class Scatter:
    """Points in the plane, coloured by group."""

    title: str
    points: list[list[float]]
    groups: list[str]
    samples: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Units:
    """Histograms of all units in one picture: (u, b) shares of each one's values, and the (b − 1) edges of the bins."""

    title: str
    y: str
    shares: Tensor
    edges: list[float]


Chart = Lines | Matrix | Scatter | Units


def class_name(index: int, names: Sequence[str] | None) -> str:
    """Its name, or its number."""
    return str(names[index]) if names is not None and 0 <= index < len(names) else str(index)


def class_table(curves: Mapping[str, Tensor], names: Sequence[str] | None, title: str = "") -> Table | None:
    """A row for each class that has any, the worst first: by kNN accuracy, then by the angle to the nearest class."""
    if "class_counts" not in curves:
        return None
    counts, near = curves["class_counts"].tolist(), curves["class_nearest"].tolist()
    accuracy, angle = curves["class_accuracy"].tolist(), curves["class_angle"].tolist()
    spread, parts = curves["class_spread"].tolist(), curves["class_parts"].tolist()
    present = [c for c, count in enumerate(counts) if count > 0]
    present.sort(key=lambda c: (_last(accuracy[c]), _last(angle[c])))
    rows: list[list[Any]] = [
        [
            class_name(c, names), c, int(counts[c]), _PARTS[int(parts[c])], _number(spread[c]),
            class_name(near[c], names) if near[c] >= 0 else None, _number(angle[c]), _number(accuracy[c]),
        ]
        for c in present
    ]  # fmt: skip
    columns = ["class", "index", "rows", "part", "spread within", "nearest class", "angle to it (°)", "kNN accuracy"]
    for name, column in _MORE_OF_CLASSES:
        if name in curves:
            more = curves[name].tolist()
            columns, rows = [*columns, column], [[*row, _number(more[row[1]])] for row in rows]
    if "class_unit" in curves:  # a number of a unit, not an amount
        at = columns.index("best unit")
        rows = [[*row[:at], None if row[at] < 0 else int(row[at]), *row[at + 1 :]] for row in rows]
    return Table(columns, rows, title)


def lowest_rows(
    curves: Mapping[str, Tensor], names: Sequence[str] | None, ids: Mapping[int, str], position: bool, title: str = ""
) -> Table | None:
    """The rows of lowest density, the lowest first.

    Args:
        curves: of a window.
        names: of classes.
        ids: of samples, by number.
        position: whether a sample's number is its position in the data set; else it is the order in which it came.
    """
    if "low_samples" not in curves:
        return None
    samples, labels = curves["low_samples"].tolist(), curves["low_labels"].tolist()
    density, local = curves["low_log_density"].tolist(), curves["low_dimension"].tolist()
    key = _key(ids, position)
    rows = [
        [i + 1, sample_id(sample, ids), class_name(label, names) if label >= 0 else None, _number(p), _number(d)]
        for i, (sample, label, p, d) in enumerate(zip(samples, labels, density, local, strict=True))
    ]
    return Table(["rank", key, "class", "log density (nats)", "local dimension"], rows, title)


def suspect_labels(
    curves: Mapping[str, Tensor], names: Sequence[str] | None, ids: Mapping[int, str], position: bool, title: str = ""
) -> Table | None:
    """Rows whose neighbours are of another class than their label, the surest first; arguments as above."""
    if "suspect_samples" not in curves:
        return None
    parts = (curves[f"suspect_{name}"].tolist() for name in ("samples", "labels", "voted", "shares"))
    rows = [
        [i + 1, sample_id(sample, ids), class_name(label, names), class_name(voted, names), _number(share)]
        for i, (sample, label, voted, share) in enumerate(zip(*parts, strict=True))
    ]
    key = _key(ids, position)
    return Table(["rank", key, "label", "class of its neighbours", "votes for other classes"], rows, title)


def shifted_units(curves: Mapping[str, Tensor], title: str = "") -> Table | None:
    """Units that differ most from the reference, the worst first."""
    if "shift_units" not in curves:
        return None
    parts = (curves[f"shift_{name}"].tolist() for name in ("units", "scores", "means"))
    rows = [
        [i + 1, unit, _number(score), _number(away)] for i, (unit, score, away) in enumerate(zip(*parts, strict=True))
    ]
    return Table(["rank", "unit", "shift given the others", "shift of its mean (deviations)"], rows, title)


def unit_table(curves: Mapping[str, Tensor], title: str = "") -> Table | None:
    """Units that moved most; before any could, those that vary least."""
    if "unit_index" not in curves:
        return None
    moves = {column: name for name, column in _MOVES.items() if name in curves}
    columns = [curves[name].tolist() for name in (*moves.values(), "unit_mean", "unit_spread")]
    columns += curves["unit_quantiles"].T.tolist()
    units = curves["unit_index"].tolist()
    rows = [[unit, *map(_number, numbers)] for unit, *numbers in zip(units, *columns, strict=True)]
    return Table(["unit", *moves, "mean", "spread", "1 %", "50 %", "99 %"], rows, title)


def unit_picture(curves: Mapping[str, Tensor], of: str, epoch: float) -> Units | None:
    """What values each unit takes: a line a unit, from the lowest mean to the highest; of many, several in one."""
    if "unit_counts" not in curves:
        return None
    shares = curves["unit_counts"] / curves["unit_counts"].sum(dim=1, keepdim=True).clamp(min=1)
    middle = shares @ torch.arange(shares.shape[1], dtype=shares.dtype)
    shares = shares[middle.argsort(stable=True)]
    d, together = len(shares), -(-len(shares) // MAX_UNITS)
    lines = torch.stack([part.mean(dim=0) for part in shares.split(together)])
    words = f"{d:,} units from low to high values" + (f", {together} a line" if together > 1 else "")
    return Units(f"Values of units, {of}, epoch {epoch:g}", words, lines, curves["unit_edges"].tolist())


def group_table(curves: Mapping[str, Tensor], title: str = "") -> Table | None:
    """A row for each group, the worst first: by kNN accuracy."""
    if "group_index" not in curves:
        return None
    parts = (curves[f"group_{name}"].tolist() for name in ("index", "rows", "accuracy", "offset"))
    rows = [[group, n, _number(right), _number(away)] for group, n, right, away in zip(*parts, strict=True)]
    rows.sort(key=lambda row: (row[2], row[0]))
    return Table(["group", "rows", "kNN accuracy", "offset of its mean"], rows, title)


def _key(ids: Mapping[int, str], position: bool) -> str:
    return "sample id" if ids else "position in the data set" if position else "order of arrival"


def sample_id(sample: int, ids: Mapping[int, str]) -> str:
    """What a sample is called; "unknown" for rows that nobody can place."""
    return ids.get(sample, "unknown") if ids or sample < 0 else str(sample)


def charts(
    curves: Mapping[str, Tensor], names: Sequence[str] | None, of: str, epoch: float
) -> Iterator[tuple[str, Chart]]:
    """Name and chart of what a window has to draw: cosines of class means and of pairs of views, values of units."""
    found = cosines(curves, names, f"Cosines of class means, {of}, epoch {epoch:g}")
    if found is not None:
        yield "class_cosines", found
    if (units := unit_picture(curves, of, epoch)) is not None:
        yield "units", units
    if "cosine_shares" in curves:
        bins = curves["cosine_shares"].shape[1]
        middle = [-1 + (2 * i + 1) / bins for i in range(bins)]
        within, between = curves["cosine_shares"].tolist()
        series = {"two samples": (middle, between), "two views of a sample": (middle, within)}
        yield "pair_cosines", Lines(f"Cosines of pairs, {of}, epoch {epoch:g}", "cosine", "share of pairs", series)


def cosines(curves: Mapping[str, Tensor], names: Sequence[str] | None, title: str) -> Matrix | None:
    """Cosines between class means, for the classes that were chosen."""
    if "class_cosines" not in curves or len(curves["matrix_classes"]) < 2:
        return None
    chosen = [class_name(c, names) for c in curves["matrix_classes"].tolist()]
    return Matrix(title, chosen, curves["class_cosines"].tolist())


def spectrum_lines(spectra: Spectra, marks: Mapping[float, str], title: str) -> Lines:
    """Spectra over time: a line a window, thinned, those with a mark kept."""
    return Lines(
        title,
        "rank",
        "eigenvalue",
        {
            f"epoch {epoch:g}" + (f" ({marks[epoch]})" if epoch in marks else ""): (
                [rank for rank, _ in pairs],
                [value for _, value in pairs],
            )
            for epoch, pairs in thin(spectra, set(marks))
        },
        logarithmic=True,
    )


def thin(spectra: Spectra, kept: Collection[float] = ()) -> Spectra:
    """First, last, those of ``kept`` epochs, and evenly spaced ones between."""
    n = len(spectra)
    if n <= MAX_LINES:
        return spectra
    chosen = [i for i, (epoch, _) in enumerate(spectra) if epoch in kept][-MAX_LINES // 2 :]
    even = max(2, MAX_LINES - len(chosen))
    return [spectra[i] for i in sorted({*chosen, *(round(i * (n - 1) / (even - 1)) for i in range(even))})]


def thin_points(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """At most so many points of a line, evenly chosen, first and last among them."""
    n = len(x)
    chosen = range(n) if n <= MAX_POINTS else sorted({round(i * (n - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)})
    return [x[i] for i in chosen], [y[i] for i in chosen]


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def in_markdown(value: Any) -> str:
    """A value for Markdown, of which it can't leave its place."""
    text = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    marked = "".join("\\" + c if c in "\\|[]`*~" else c for c in text)  # no link, no picture, no code
    marked = marked.replace("<", "&lt;").replace("@", "@<!-- -->").replace("://", ":<!-- -->//")  # nobody is called
    return " ".join(marked.split())
