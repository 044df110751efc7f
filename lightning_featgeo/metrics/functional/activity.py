"""Unit signals: which units still fire, which one tells a class from the others, and how many rows there were.

Voita, Ferrando & Nalmpantis (2023), "Neurons in Large Language Models: Dead, N-gram, Positional" (arXiv 2309.04827);
Gurnee et al. (2023), "Finding Neurons in a Haystack" (arXiv 2305.01610).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.neural_collapse import MIN_ROWS
from lightning_featgeo.metrics.functional.ranks import sort_keys
from lightning_featgeo.metrics.functional.segments import at_once
from lightning_featgeo.types import Float, Int32, Int64, Tensor

RANKED_ROWS = 4096  # for the best unit of each class, and for fourth moments
REDUNDANT = 0.95  # correlation from which on two units are one


def dead_fraction(row_count: int, unit_active: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Share of units that were above zero on no row of the window, in [0, 1].

    Made for features behind a ReLU-like activation. For signed features a unit that is always negative counts as
    dead as well, although a linear head still reads it.

    Raises:
        Undefined: without rows.
    """
    if row_count < 1:
        raise Undefined("no rows")
    return (unit_active == 0).double().mean()


def firing_rate(row_count: int, unit_active: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Mean over units of the share of rows on which the unit was above zero, in [0, 1]: read it with ``dead_fraction``.

    Raises:
        Undefined: without rows.
    """
    if row_count < 1:
        raise Undefined("no rows")
    return unit_active.double().mean() / row_count


def outlier_dims(mean: Float[Tensor, " d"], variances: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Largest root mean square of any dimension divided by that of all, in [1, √d]: 1 if all are even, √d if one
    dimension carries all.

    A few dimensions of very large magnitude are usual in language models; see Kovaleva et al. (2021), "BERT Busters:
    Outlier Dimensions that Disrupt Transformers" (arXiv 2105.06990).

    Raises:
        Undefined: if every row is zero.
    """
    power = variances + mean.square()
    if not power.sum() > 0:
        raise Undefined("every row is zero")
    return (power.max() / power.mean()).sqrt()


def n_samples(sample_count: int) -> Float[Tensor, ""]:
    """Finite rows of the window, labelled or not: what every other value rests on. Always defined."""
    return torch.tensor(float(sample_count), dtype=torch.float64)


def outlier_max(
    unit_minimum: Float[Tensor, " d"], unit_maximum: Float[Tensor, " d"], mean: Float[Tensor, " d"],
    variances: Float[Tensor, " d"],
) -> Float[Tensor, ""]:  # fmt: skip
    """Largest absolute value of any unit on any row of the window, over the root mean square of all values; ≥ 1.

    An offset that all values share hides it. What low-precision formats must still hold: Bondarenko et al. (2023),
    "Quantizable Transformers" (arXiv 2306.12929).

    Raises:
        Undefined: if every row is zero.
    """
    power = (variances + mean.square()).mean()
    if not power > 0:
        raise Undefined("every row is zero")
    return torch.maximum(unit_minimum.double().abs(), unit_maximum.double().abs()).max() / power.sqrt()


def unit_kurtosis(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean over units of Σ(x−μ)⁴/n over the squared variance, in [1, n]; 3 for a Gaussian. Of 4,096 rows at most.

    Units that don't vary are left out. Heavy tails are hard to quantise: Bondarenko et al. (2023), arXiv 2306.12929.

    Raises:
        Undefined: without a unit that varies.
    """
    if len(rows) < 2:
        raise Undefined(f"needs 2 rows, got {len(rows)}")
    rows = rows[:RANKED_ROWS]
    fourth = torch.cat([_fourth_moments(part.double()) for part in rows.split(at_once(len(rows)), dim=1)])
    varies = fourth.isfinite()
    if not bool(varies.any()):
        raise Undefined("no unit varies")
    return fourth[varies].mean()


def _fourth_moments(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Of each unit, centred, over its squared variance; NaN where it does not vary."""
    largest = x.abs().amax(dim=0)
    x = x - x.mean(dim=0)
    variance = x.square().mean(dim=0)
    varies = variance > (1e-12 * largest).square()  # round-off of the mean is no movement
    x /= torch.where(varies, variance, torch.nan).sqrt()  # of length one: fourth powers keep to the range of numbers
    return x.square_().square_().mean(dim=0)


def unit_redundancy(covariance: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """1 − clusters/units, in [0, 1): units joined by correlations of at least 0.95, of either sign, count once.

    Units that don't vary, as far as d·eps of the largest variance tells, are left out.

    Raises:
        Undefined: without a unit that varies.
    """
    variance = covariance.diagonal()
    varies = variance > len(variance) * torch.finfo(torch.float64).eps * variance.max()
    units = int(varies.sum())
    if not units:
        raise Undefined("no unit varies")
    scale = variance[varies].rsqrt()
    joined = (covariance[varies][:, varies] * scale[:, None] * scale).abs() >= REDUNDANT
    joined.fill_diagonal_(True)
    label = torch.arange(units, device=covariance.device)
    while (
        True
    ):  # each tree of labels takes the lowest one in its units' reach, and is flattened: few rounds in any graph
        lowest = torch.where(joined, label, units).amin(dim=1)
        root = label.scatter_reduce(0, label, lowest, "amin")
        while bool((root[root] != root).any()):
            root = root[root]
        if bool((root[label] == label).all()):
            break
        label = root[label]
    return 1 - label.unique().numel() / torch.tensor(float(units), dtype=torch.float64)


def best_units(
    labelled_rows: Float[Tensor, "n d"], labelled_row_labels: Int64[Tensor, " n"], classes: int
) -> tuple[Int64[Tensor, " c"], Float[Tensor, " c"]]:
    """Of each class, the unit that tells its rows from all others best, and that unit's AUROC, in [0.5, 1].

    A unit that is low on the class counts as one that is high. −1 and NaN for classes of fewer than two rows, and where
    there are no others. Units that are equal at it: the first one.
    """
    n, d = labelled_rows.shape
    present, place, counts = labelled_row_labels.unique(return_inverse=True, return_counts=True)
    found = labelled_rows.new_full((len(present),), -1.0, dtype=torch.float64)
    unit = torch.full_like(present, -1)
    step = at_once(n)
    for start in range(0, d, step) if n else ():
        x = sort_keys(labelled_rows[:, start : start + step].T)
        ordered, order = x.sort(dim=1)
        ranks = _ranks_in_order(ordered)
        sums = ranks.new_zeros(len(x), len(present)).scatter_add_(1, place[order], ranks).T
        wins = sums - (counts.double() * (counts + 1) / 2)[:, None]
        auroc = wins / (counts * (n - counts)).clamp(min=1)[:, None]
        best, at = torch.maximum(auroc, 1 - auroc).max(dim=1)
        better = best > found
        found, unit = torch.where(better, best, found), torch.where(better, start + at, unit)
    usable = (counts >= MIN_ROWS) & (counts < n)
    every = labelled_rows.new_full((classes,), torch.nan, dtype=torch.float64)
    every[present] = torch.where(usable, found, torch.nan)
    which = torch.full((classes,), -1, dtype=torch.int64, device=unit.device)
    which[present] = torch.where(usable, unit, -1)
    return which, every


def _ranks_in_order(ordered: Int32[Tensor, "d n"] | Int64[Tensor, "d n"]) -> Float[Tensor, "d n"]:
    """Ranks of sorted values, from 1; ties share theirs."""
    differs = torch.zeros_like(ordered, dtype=torch.bool)
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=differs[:, 1:])
    place = differs.cumsum(dim=1)  # of each value among the different ones
    size = torch.zeros(len(ordered), int(place.max()) + 1, dtype=torch.int64, device=ordered.device)
    size.scatter_add_(1, place, torch.ones_like(place))
    middle = (2 * size.cumsum(dim=1) - size + 1).double() / 2
    return middle.gather(1, place)


def best_unit_auroc(best_class_units: tuple[Int64[Tensor, " c"], Float[Tensor, " c"]]) -> Float[Tensor, ""]:
    """Mean over classes of the AUROC with which one unit tells the class's rows from all others, in [0.5, 1].

    The best unit of each class, of either sign: high where classes have units of their own, low where they are spread
    over many. Of the bank's first 4,096 labelled rows.

    Raises:
        Undefined: without two classes, one of them of two rows.
    """
    auroc = best_class_units[1]
    known = auroc[auroc.isfinite()]
    if not known.numel():
        raise Undefined(f"needs a class of {MIN_ROWS} labelled rows, and rows of another one")
    return known.mean()
