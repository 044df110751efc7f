"""Angles between subspaces: do classes (or epochs) use the same directions?

Björck & Golub (1973), "Numerical methods for computing angles between linear subspaces"; affinity as in Soltanolkotabi
& Candès (2012), "A geometric analysis of subspace clustering with outliers".
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.same_samples import Pair, Side
from lightning_featgeo.metrics.functional.segments import by_size
from lightning_featgeo.types import Float, Int64, Tensor

SUBSPACE_RANK = 5
SUBSPACE_ROWS = 128
LEADING = 32  # directions of largest variance, of features of 64 dimensions and more
LEADING_ROWS = 1024  # of wider features they are found from so many rows: a decomposition takes the cube


def principal_angles(basis: Float[Tensor, "d p"], other: Float[Tensor, "e q"]) -> Float[Tensor, " r"]:
    """Principal angles between two subspaces, ascending, in degrees, [0, 90]; min(p, q) of them.

    Args:
        basis: columns that span one subspace; they need not be orthonormal, only independent.
        other: columns that span the other.

    Raises:
        ValueError: if the dimensions differ.

    Small angles come from sines (of what one basis leaves of the other), large ones from cosines: each where it
    keeps its digits.
    """
    if basis.shape[0] != other.shape[0]:
        raise ValueError(f"one basis is in {basis.shape[0]} dimensions, the other in {other.shape[0]}")
    a, b = (torch.linalg.qr(m.double()).Q for m in (basis, other))
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    overlap = a.T @ b
    cosine = torch.linalg.svdvals(overlap).clamp(max=1)  # descending: angles ascending
    sine = torch.linalg.svdvals(b - a @ overlap).flip(0).clamp(max=1)
    return torch.rad2deg(torch.where(cosine.square() > 0.5, sine.asin(), cosine.acos()))


def class_subspace_affinity(
    labelled_rows: Float[Tensor, "n d"], labelled_row_labels: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Mean over pairs of classes of √(Σcos²θ/r) between their first r = 5 principal subspaces, in [0, 1].

    θ are the principal angles of the spans of the classes' first r right singular vectors (rows not centred). 0: every
    class has directions of its own; 1: all use the same. Random subspaces read about √(r/d). Of each class at most 128
    rows of the bank count.

    Args:
        labelled_rows: features.
        labelled_row_labels: their classes.

    Raises:
        Undefined: if fewer than two classes have 5 directions above round-off (√(d·eps) of the first), or d < 5.
    """
    r = SUBSPACE_RANK
    d = labelled_rows.shape[1]
    bases = []
    for _, index in by_size(labelled_row_labels, d, SUBSPACE_ROWS):
        if min(index.shape[1], d) < r:
            continue
        rows = labelled_rows[index].double()  # (k, m, d)
        gram = rows.mT @ rows if d <= index.shape[1] else rows @ rows.mT
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values[:, -r:], vectors[:, :, -r:]
        real = values[:, 0] > gram.shape[1] * torch.finfo(torch.float64).eps * values[:, -1]
        if bool(real.any()):
            vectors = vectors[real]
            bases.append(vectors if d <= index.shape[1] else torch.linalg.qr(rows[real].mT @ vectors).Q)
    stacked = torch.cat(bases) if bases else labelled_rows.new_zeros(0, d, r)  # (c, d, r)
    c = len(stacked)
    if c < 2:
        raise Undefined(
            f"needs 2 classes with at least {r} independent rows, above round-off, in at least {r} dimensions"
        )
    flat = stacked.permute(1, 0, 2).flatten(1)
    total = torch.zeros((), dtype=torch.float64, device=flat.device)
    for i in range(c - 1):  # one row of blocks at a time: (c·r)² cosines are never held
        cosines = stacked[i].T @ flat[:, (i + 1) * r :]
        total += cosines.square().unflatten(1, (-1, r)).sum(dim=(0, 2)).div(r).sqrt().sum()
    return total / (c * (c - 1) / 2)


def class_ranks(
    labelled_rows: Float[Tensor, "n d"], labelled_row_labels: Int64[Tensor, " n"], classes: int
) -> Float[Tensor, " c"]:
    """(C,) effective rank of each class's centred rows, at most 128 of each; NaN where two rows don't differ."""
    found = torch.full((classes,), torch.nan, dtype=torch.float64, device=labelled_rows.device)
    d = labelled_rows.shape[1]
    for which, index in by_size(labelled_row_labels, d, SUBSPACE_ROWS):
        if index.shape[1] < 2:
            continue
        rows = labelled_rows[index].double()
        rows = rows - rows.mean(dim=1, keepdim=True)
        rows = rows - rows.mean(dim=1, keepdim=True)  # of large numbers, the first mean is rounded
        values = torch.linalg.eigvalsh(rows.mT @ rows if d <= index.shape[1] else rows @ rows.mT)
        floor = values.shape[1] * torch.finfo(torch.float64).eps * values[:, -1:].clamp(min=0)
        sigma = torch.where(values > floor, values, 0.0).sqrt()
        shares = sigma / sigma.sum(dim=1, keepdim=True)  # 0/0: NaN
        found[which] = torch.exp(-torch.special.xlogy(shares, shares).sum(dim=1))
    return found


def class_rank(class_ranks: Float[Tensor, " c"]) -> Float[Tensor, ""]:
    """Median over classes of the effective rank of a class's centred rows, in [1, 127]: the directions within classes.

    Of each class at most 128 rows of the bank count. Under neural collapse what is left is noise, whose rank is high.

    Raises:
        Undefined: without a class of two rows that differ.
    """
    return torch.quantile(_known(class_ranks), 0.5)


def class_rank_lowest(class_ranks: Float[Tensor, " c"]) -> Float[Tensor, ""]:
    """The lowest effective rank of a class, in [1, 127]: a class that is drawn into a line shows here.

    Raises:
        Undefined: without a class of two rows that differ.
    """
    return _known(class_ranks).min()


def _known(ranks: Tensor) -> Tensor:
    known = ranks[ranks.isfinite()]
    if not known.numel():
        raise Undefined("no class has two labelled rows that differ")
    return known


def leading_directions(rows: Float[Tensor, "n d"], most: int = LEADING) -> Float[Tensor, "d k"]:
    """Orthonormal directions of largest variance, the largest first: k = ``most``, or as many as stand above round-off.

    Of more than 1,024 dimensions, found from the first 1,024 rows.
    """
    x = rows if rows.shape[1] <= LEADING_ROWS else rows[:LEADING_ROWS]
    x = x.double()
    n, d = x.shape
    if n < 2 or not bool(x.isfinite().all()):
        return x.new_zeros(d, 0)
    power = x.square().sum()
    x = x - x.mean(dim=0)
    vectors = _leading(x.T @ x if d <= n else x @ x.T, power, max(n, d), rows.dtype, most)
    return vectors if d <= n else torch.linalg.qr(x.T @ vectors).Q


def _leading(gram: Tensor, power: Tensor, size: int, dtype: torch.dtype, most: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues, as many as stand above round-off; ``power``: of rows not centred."""
    values, vectors = torch.linalg.eigh(gram)
    exact = torch.finfo(torch.float64).eps  # a product's own round-off, where rows are as exact
    rounded = values[-1] * max((size * torch.finfo(dtype).eps) ** 2, 4 * size * exact)
    floor = torch.maximum(rounded, 1e-24 * power)  # of the mean, too
    k = min(most, int((values > floor).sum()))
    return vectors[:, len(values) - k :].flip(1)


def _mean_sine(pair: Pair) -> Tensor:
    """Mean sine of the principal angles between the leading directions of both."""
    d = pair.of_one_width().now.shape[1]
    most = min(LEADING, d // 2)
    if most < 1:
        raise Undefined("features of one dimension have one direction only")
    one, other = (_known_directions(side, most) for side in pair.sides)
    k = min(one.shape[1], other.shape[1])
    if not k:
        raise Undefined("the features of one of the two have no spread")
    one, other = one[:, :k], other[:, :k]
    left = other - one @ (one.T @ other)  # sines from what is left: they keep their digits near 0
    return torch.linalg.svdvals(left).clamp(max=1).mean()


def _known_directions(side: Side, most: int) -> Tensor:
    if "leading" not in side.known:
        n, d = side.rows.shape
        if d <= min(n, LEADING_ROWS):
            side.known["leading"] = _leading(side.gram, side.power, n, side.rows.dtype, most)
        else:
            side.known["leading"] = leading_directions(side.rows, most)
    return side.known["leading"]


def subspace_drift(pair: Pair) -> Float[Tensor, ""]:
    """Mean sine of the principal angles between the leading directions now and in the window before, in [0, 1].

    The 32 directions of largest variance; half of all where there are fewer than 64, and fewer where the rank is lower.
    0: the same subspace; two random ones read 0.64 where they are half of all directions, 0.91 of 200. Unlike
    ``cka_drift`` it weighs them all alike, and follows the axes: a rotation moves it.

    Raises:
        Undefined: without the same samples in the other window, or without spread in one of them.
    """
    return _mean_sine(pair)


def subspace_novelty(pair: Pair) -> Float[Tensor, ""]:
    """Mean sine of the principal angles between the leading directions here and in the layer before, in [0, 1].

    For layers on one residual stream: how much of what a layer emphasises is in directions that the layer before did
    not. Directions as for ``subspace_drift``.

    Raises:
        Undefined: for the first layer, of samples with several rows (tokens), if the two have different dimensions, or
            without spread in one of them.
    """
    return _mean_sine(pair)
