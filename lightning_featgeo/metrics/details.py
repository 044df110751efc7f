"""What a window can show beyond numbers: its classes one by one, lonely rows, suspect labels, rows to look at.

Taken from statistics that the window's signals have computed already, so that a table costs next to nothing. Keys:
``class_counts``, ``class_parts`` (2 head, 1 mid, 0 tail, −1 where the classes have no tail), ``class_spread`` (root
mean squared distance to the class mean), ``class_nearest`` (index of the nearest other class), ``class_angle`` (to it,
in degrees, between centred means), ``class_accuracy`` (kNN accuracy), ``class_drift`` (of its mean since the window
before, over the spread within classes), ``class_rank`` (effective rank of its rows), ``class_dimension`` (intrinsic,
around its rows), ``class_unit`` and ``class_unit_auroc`` (the one unit that tells it best), (C,) each;
``matrix_classes``, ``class_cosines`` (m, m); ``low_samples``, ``low_log_density``, ``low_labels``, ``low_dimension``;
``suspect_samples`` and ``suspect_labels``, with ``suspect_voted`` (the class that the neighbours vote for) and
``suspect_shares`` (of their votes, those for others than the label); ``shift_units``, ``shift_scores`` and
``shift_means`` of the units that have shifted most against the reference; ``unit_counts`` (d, 64), how many values of
each unit lie between ``unit_edges`` (63,), and of the units worth a look ``unit_index``, ``unit_mean``,
``unit_spread``, ``unit_quantiles`` (1, 50 and 99 %) and as far as they are known ``unit_moves_previous``,
``unit_moves_first`` and ``unit_moves_reference``; ``group_index``, ``group_rows``, ``group_accuracy`` (kNN) and
``group_offset`` (of their mean, in directions, over the spread of all rows with a group);
``shown_rows``, ``shown_labels``, ``shown_samples``. NaN or −1 where there is none.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.accumulators.histograms import edges
from lightning_featgeo.metrics.functional import density, dimension, histograms, long_tail
from lightning_featgeo.metrics.functional.disagreement import suspects
from lightning_featgeo.metrics.functional.drift import class_shifts
from lightning_featgeo.metrics.functional.same_samples import Pair
from lightning_featgeo.metrics.functional.votes import voted_classes
from lightning_featgeo.metrics.statistics.statistics import Statistics
from lightning_featgeo.types import Float, Int64, Tensor

LOW_ROWS = 20
SHIFTED_UNITS = 20
UNIT_MOVES = ("unit_moves_previous", "unit_moves_first", "unit_moves_reference")
_BLOCK = 2**22  # cosines at a time


@dataclass(frozen=True)
class Details:
    """What is asked for. ``matrix``: classes in the matrix of cosines. ``rows``: features to keep, 0 for none."""

    matrix: int = 20
    rows: int = 0


def details(statistics: Statistics, asked: Details) -> dict[str, Tensor]:
    """What the computed statistics give, on the CPU."""
    computed = statistics.computed()
    found: dict[str, Tensor] = {}
    if {"class_means", "class_counts"} <= computed and statistics.classes_drawn is None:  # else no table
        votes = {"vote_similarities", "vote_labels", "row_labels"} <= computed
        voted = None
        if votes:
            voted = statistics.vote_similarities, statistics.vote_labels, statistics.row_labels, statistics.knn_t
        found |= of_classes(
            statistics.class_means, statistics.class_counts, statistics.class_variances, voted, asked.matrix
        )
        if {"with_previous", "labels_with_previous"} <= computed:
            with contextlib.suppress(Undefined):
                found["class_drift"] = _drift(
                    statistics.with_previous, statistics.labels_with_previous, len(statistics.class_counts)
                )
        if "class_ranks" in computed:
            found["class_rank"] = _of_all(statistics.class_ranks, statistics.class_counts)
        if "best_class_units" in computed:
            units, auroc = (_of_all(one, statistics.class_counts) for one in statistics.best_class_units)
            found["class_unit"], found["class_unit_auroc"] = units, auroc
        if "distances" in computed:
            with contextlib.suppress(Undefined):
                classes = len(statistics.class_counts)
                found["class_dimension"] = _dimensions(statistics.distances, statistics.bank_labels, classes)
    if "unit_shift_scores" in computed:
        found |= _shifted(statistics)
    if "unit_histograms" in computed:
        found |= _of_units(statistics, computed)
    if {"vote_similarities", "vote_labels", "row_labels", "row_groups"} <= computed:
        with contextlib.suppress(Undefined):
            found |= _of_groups(statistics)
    if "distances" in computed:
        found |= lowest(statistics.distances, statistics.samples, statistics.bank_labels, statistics.dim)
    if {"vote_similarities", "vote_labels", "row_labels"} <= computed:
        with contextlib.suppress(Undefined):
            found |= suspects(
                statistics.vote_similarities,
                statistics.vote_labels,
                statistics.row_labels,
                statistics.row_samples,
                statistics.knn_t,
            )
    if asked.rows and "distances" in computed:
        found["shown_rows"] = statistics.rows[: asked.rows].float()
        found["shown_labels"] = statistics.bank_labels[: asked.rows]
        found["shown_samples"] = statistics.samples[: asked.rows]
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def of_classes(
    means: Float[Tensor, "c d"],
    counts: Int64[Tensor, " c"],
    variances: Float[Tensor, " c"],
    voted: tuple[Tensor, Tensor, Tensor, float] | None,
    matrix: int,
) -> dict[str, Tensor]:
    """Columns of the class table, and cosines between the centred means of the classes that are nearest to others.

    Args:
        means, counts, variances: of each class; empty ones have no nearest class and none are near them.
        voted: neighbours' similarities and classes, and the classes of the rows they voted on.
        matrix: classes in the matrix at most.
    """
    there = counts > 0
    missing = torch.full_like(variances, torch.nan)
    columns = {"class_counts": counts, "class_spread": torch.where(there, variances.sqrt(), missing)}
    columns["class_parts"] = _parts(counts)
    nearest, angle = torch.full_like(counts, -1), missing.clone()
    unit = torch.zeros_like(means)
    if int(there.sum()) > 1:
        centred = means - means[there].mean(dim=0)
        length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        unit = torch.where(there[:, None] & (length > 0), centred / length, 0.0)
        nearest, angle = _nearest(unit, there & (length.squeeze(1) > 0))
    columns["class_nearest"], columns["class_angle"] = nearest, angle
    columns["class_accuracy"] = missing.clone() if voted is None else _accuracy(*voted, missing)
    order = torch.where(angle.isnan(), torch.inf, angle).argsort(stable=True)[: min(matrix, int(there.sum()))]
    chosen = order.sort().values
    columns["matrix_classes"], columns["class_cosines"] = chosen, unit[chosen] @ unit[chosen].T
    return columns


def _drift(pair: Pair, labels: Tensor, classes: int) -> Tensor:
    """(C,) how far each class's mean has moved since the window before, over the spread within classes then."""
    moved, spread = class_shifts(pair, labels)
    found = moved.new_full((classes,), torch.nan)
    found[: len(moved)] = moved / spread
    return found


def _of_all(known: Tensor, counts: Tensor) -> Tensor:
    """What is known of the first classes, for all C of them; NaN, or −1, of the others."""
    missing = known.new_full((len(counts),), torch.nan if known.is_floating_point() else -1)
    missing[: len(known)] = known
    return missing


def _shifted(statistics: Statistics) -> dict[str, Tensor]:
    """The units that have shifted most against the reference, and how far their means have, in its deviations."""
    scores = statistics.unit_shift_scores
    order = scores.argsort(descending=True, stable=True)[:SHIFTED_UNITS]
    gap = (statistics.mean - statistics.reference_mean)[order]
    deviation = statistics.reference_covariance.diagonal()[order].sqrt()
    return {"shift_units": order, "shift_scores": scores[order], "shift_means": gap / deviation}


def _of_units(statistics: Statistics, computed: frozenset[str]) -> dict[str, Tensor]:
    """Every unit's histogram, and what is known of those that moved most; if none did, of those that vary least."""
    of = statistics.unit_histograms
    n = of.counts.sum(dim=1).clamp(min=1)
    mean = of.sums.sum(dim=1) / n
    spread = histograms.spread_of(of, of)
    moves = {name: getattr(statistics, name) for name in UNIT_MOVES if name in computed}
    worst = next(iter(moves.values())).nan_to_num(-1) if moves else -spread
    order = worst.argsort(descending=True, stable=True)[:SHIFTED_UNITS]
    return {
        "unit_counts": of.counts.float(), "unit_edges": edges(), "unit_index": order,
        "unit_mean": mean[order], "unit_spread": spread[order],
        "unit_quantiles": histograms.quantiles(of, (0.01, 0.5, 0.99))[order],
        **{name: move[order] for name, move in moves.items()},
    }  # fmt: skip


def _of_groups(statistics: Statistics) -> dict[str, Tensor]:
    """Of each group that labelled rows have: their number, kNN accuracy, and how far their mean is from all rows'."""
    groups, rows = statistics.row_groups, statistics.unit_labelled_rows
    voted = statistics.vote_similarities, statistics.vote_labels, statistics.row_labels, statistics.knn_t
    right = (voted_classes(*voted) == statistics.row_labels).double()
    known, place = groups[groups >= 0].unique(return_inverse=True)
    if not len(known):
        return {}
    right, rows = right[groups >= 0], rows[groups >= 0].double()
    counts = torch.bincount(place, minlength=len(known))
    hits = right.new_zeros(len(known)).index_add_(0, place, right)
    means = rows.new_zeros(len(known), rows.shape[1]).index_add_(0, place, rows) / counts[:, None]
    away = torch.linalg.vector_norm(means - rows.mean(dim=0), dim=1)
    spread = (rows - rows.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    return {
        "group_index": known, "group_rows": counts, "group_accuracy": hits / counts, "group_offset": away / spread,
    }  # fmt: skip


def _dimensions(distances: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(C,) intrinsic dimension around the rows of each class: 1 over the mean of 1/d, as ``id_mle`` of all rows."""
    inverse = dimension.inverse_local_dimensions(distances)
    known = (labels >= 0) & (labels < classes) & inverse.isfinite()
    sums, rows = (inverse.new_zeros(classes) for _ in range(2))
    sums.index_add_(0, labels[known], inverse[known])
    rows.index_add_(0, labels[known], torch.ones_like(inverse[known]))
    return torch.where((rows > 1) & (sums > 0), rows / sums, torch.nan)


def _parts(counts: Tensor) -> Tensor:
    parts = torch.full_like(counts, -1)
    try:
        head, tail = long_tail.head_and_tail(counts, counts > 0, 1)
    except Undefined:
        return parts
    parts[counts > 0] = 1
    parts[head], parts[tail] = 2, 0
    return parts


def _nearest(unit: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the class in the most similar direction, and the angle to it in degrees."""
    n = len(unit)
    nearest, angle = torch.full((n,), -1, device=unit.device), unit.new_full((n,), torch.nan)
    if int(usable.sum()) < 2:
        return nearest, angle
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        part = torch.arange(start, min(start + step, n), device=unit.device)
        cosines = unit[part] @ unit.T
        cosines[:, ~usable] = -torch.inf
        cosines[torch.arange(len(part), device=unit.device), part] = -torch.inf
        nearest[part] = cosines.argmax(dim=1)
    a, b = unit, unit[nearest]  # 2·atan2 keeps its digits near 0 and 180 degrees
    angle = torch.rad2deg(
        2 * torch.atan2(torch.linalg.vector_norm(a - b, dim=1), torch.linalg.vector_norm(a + b, dim=1))
    )
    return torch.where(usable, nearest, -1), torch.where(usable, angle, torch.nan)


def _accuracy(similarities: Tensor, votes: Tensor, labels: Tensor, knn_t: float, missing: Tensor) -> Tensor:
    try:
        right = (voted_classes(similarities, votes, labels, knn_t) == labels).to(missing.dtype)
    except Undefined:
        return missing.clone()
    known = labels < len(missing)
    hits = torch.zeros_like(missing).index_add_(0, labels[known], right[known])
    rows = torch.zeros_like(missing).index_add_(0, labels[known], torch.ones_like(right[known]))
    return torch.where(rows > 0, hits / rows, torch.nan)


def lowest(distances: Tensor, samples: Tensor, labels: Tensor, dim: int) -> dict[str, Tensor]:
    """The rows with the lowest density: where the features are loneliest."""
    radius = distances[:, -1].double() if distances.shape[1] else distances.new_zeros(0)
    usable = ((radius > 0) & radius.isfinite()).nonzero().squeeze(1)
    if distances.shape[1] < 2 or not len(usable):
        return {}
    lonely = usable[radius[usable].argsort(descending=True, stable=True)][:LOW_ROWS]
    n = len(distances)
    inverse = dimension.inverse_local_dimensions(distances)[lonely]
    return {
        "low_samples": samples[lonely],
        "low_labels": labels[lonely],
        "low_log_density": density.log_density_at(radius[lonely], n, distances.shape[1], dim),
        "low_dimension": torch.where(inverse > 0, 1 / inverse, torch.nan),
    }
