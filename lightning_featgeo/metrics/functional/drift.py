"""The same samples in two windows: how far features have moved, up to what does not matter to whoever reads them.

Up to a rotation and one scale: CKA (Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited",
arXiv 1905.00414), Procrustes (Ding, Denain & Steinhardt 2021, arXiv 2108.01661), distances between samples
(Kriegeskorte et al. 2008, "Representational similarity analysis"), cosines to anchors (Moschella et al. 2023, arXiv
2209.15430). Unit by unit: Li et al. 2016, "Convergent Learning" (arXiv 1511.07543). For an index that was built with
the old features: Shen et al. 2020, "Towards Backward-Compatible Representation Learning" (arXiv 2003.11942).
"""

from __future__ import annotations

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.same_samples import ANCHORS, Pair
from lightning_featgeo.metrics.functional.segments import at_once
from lightning_featgeo.metrics.functional.votes import VOTE_TEMPERATURE, voted_classes
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

QUERIES = 512  # rows that look up the old ones
UNITS = 1024  # that are matched with each other: the assignment takes their cube
_SPARED = 1e-6  # of a cosine: rounding is no difference


def cka_drift(pair: Pair) -> Float[Tensor, ""]:
    """1 − ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred rows X and, of the same samples, Y: 1 − linear CKA, in [0, 1].

    Large variance directions count most. 0 where the features were turned and scaled as a whole.

    Raises:
        Undefined: without the same samples in the other window, or without spread in one of them.
    """
    lengths = [side.product_length for side in pair.sides]
    return (1 - torch.linalg.matrix_norm(pair.cross).square() / (lengths[0] * lengths[1])).clamp(0, 1)


def procrustes_drift(pair: Pair) -> Float[Tensor, ""]:
    """min_R ‖XR − Y‖²_F / 2 over rotations (and reflections) R, of centred rows of total length 1, in [0, 1].

    That is 1 − ‖XᵀY‖_*, the sum of singular values; small variance directions count more than in CKA.

    Raises:
        Undefined: without the same samples in the other window, or without spread in one of them.
    """
    return (1 - torch.linalg.svdvals(pair.cross).sum()).clamp(0, 1)


def rsa_drift(pair: Pair) -> Float[Tensor, ""]:
    """1 − Pearson's correlation of the Euclidean distances between samples with those in the other window, in [0, 2].

    Of the bank's first 512 samples.

    Raises:
        Undefined: without the same samples in the other window, or if all distances of one are the same.
    """
    if len(pair.now) < 3:
        raise Undefined(f"distances of {len(pair.now)} samples can't be correlated: 3 are needed")
    one, other = (side.distances for side in pair.sides)
    return (1 - one @ other).clamp(0, 2)


def anchor_drift(pair: Pair) -> Estimate:
    """Mean absolute change of a row's cosines to 128 fixed samples, the bank's first ones, in [0, 2].

    0 where features were turned, or scaled row by row.

    Returns:
        The mean over rows, its standard error, and the number of rows that are not zero.

    Raises:
        Undefined: without the same samples in the other window, or without two rows that are not zero.
    """
    there = pair.sides[0].there & pair.sides[1].there
    if bool(there.all()):
        now, then = (side.anchor_cosines for side in pair.sides)
    else:
        now, then = (rows[there] @ rows[there][:ANCHORS].T for rows in pair.directions)
    if len(now) < 2:
        raise Undefined("fewer than two samples are not zero in both windows")
    change = (now - then).abs_()
    change[: change.shape[1]].fill_diagonal_(0)
    own = torch.arange(len(now), device=now.device) < change.shape[1]
    moved = change.sum(dim=1) / (change.shape[1] - own.double())
    return Estimate(moved.mean(), moved.std() / len(moved) ** 0.5, len(moved))


def unit_match(pair: Pair) -> Float[Tensor, ""]:
    """Mean correlation of units with those of the other window that they are matched with one to one, in [−1, 1].

    The matching is the best there is (an assignment problem). 1 where units were permuted and scaled; low where the
    features were turned, though they span the same.

    Raises:
        Undefined: without the same samples in the other window, with more than 1,024 units, if no unit varies, or
            without SciPy.
    """
    d = pair.now.shape[1]
    if d > UNITS:
        raise Undefined(f"up to {UNITS:,} units are matched with each other, there are {d:,}")
    try:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]  # SciPy ships no types
    except ImportError:
        raise Undefined("the matching needs SciPy: pip install scipy") from None
    x, y = pair.centred
    scales = [torch.linalg.vector_norm(t, dim=0) for t in (x, y)]
    alive = [scale > 1e-12 * scale.max() for scale in scales]
    correlations = pair.products[alive[0]][:, alive[1]] / (scales[0][alive[0], None] * scales[1][alive[1]])
    rows, columns = linear_sum_assignment(correlations.cpu().numpy(), maximize=True)
    return correlations[rows, columns].mean()


def class_drift(pair: Pair, labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean over classes of the shift of their means over the root mean square within-class distance before, ≥ 0.

    Of the bank's rows; classes of one row are left out. Not up to a rotation: a head or an index reads these axes.

    Args:
        pair: rows of the same samples.
        labels: their classes, negative where unknown.

    Raises:
        Undefined: without the same samples in the other window, without a class of two rows, or without spread within.
    """
    moved, spread = class_shifts(pair, labels)
    if not spread > 0:
        raise Undefined("no class had any spread in the other window")
    return (moved[moved.isfinite()] / spread).mean()


def class_shifts(pair: Pair, labels: Int64[Tensor, " n"]) -> tuple[Float[Tensor, " c"], Float[Tensor, ""]]:
    """How far each class's mean has moved (NaN for classes of fewer than two rows), and the spread within before."""
    known = labels >= 0
    if not bool(known.any()):
        raise Undefined("no row has a label")
    y = labels[known]
    counts = torch.bincount(y)
    used = counts >= 2
    if not bool(used.any()):
        raise Undefined("no class has two rows")
    pair.of_one_width()
    step = at_once(pair.now.shape[1])
    means = []
    for rows in (pair.now, pair.then):
        sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64, device=rows.device)
        for some, of in zip(rows.split(step), labels.split(step), strict=True):
            sums.index_add_(0, of.clamp(min=0), torch.where((of >= 0)[:, None], some.double(), 0.0))
        means.append(sums / counts.clamp(min=1)[:, None])
    within = torch.zeros((), dtype=torch.float64, device=sums.device)
    for some, of in zip(pair.then.split(step), labels.split(step), strict=True):
        counted = (of >= 0) & used[of.clamp(min=0)]
        within += (some.double() - means[1][of.clamp(min=0)]).square_().sum(dim=1).mul_(counted).sum()
    moved = torch.linalg.vector_norm(means[0] - means[1], dim=1)
    return torch.where(used, moved, torch.nan), (within / counts[used].sum()).sqrt()


def compatibility(pair: Pair, labels: Int64[Tensor, " n"], voters: int, knn_t: float = VOTE_TEMPERATURE) -> Estimate:
    """kNN accuracy of new rows among the old rows of other samples, minus that of the old rows themselves, in [−1, 1].

    What an index of old features loses when it is asked with new ones: 0, or above if new queries are better.
    Of up to 512 queries; the vote is that of ``knn_accuracy``.

    Args:
        pair: rows of the same samples.
        labels: their classes, negative where unknown.
        voters: neighbours that vote.
        knn_t: temperature of their vote.

    Returns:
        The difference, its standard error over queries, and their number.

    Raises:
        Undefined: without the same samples in the other window, or without two labelled rows that are not zero.
    """
    now, then, y = _labelled_directions(pair, labels)
    group = torch.arange(len(now), device=now.device)
    asked = torch.cat([now[:QUERIES], then[:QUERIES]])  # in one search: the old rows are prepared once
    half, own = len(asked) // 2, group[:QUERIES].repeat(2)
    chords, indices = ops.knn(asked, then, min(voters, len(then) - 1), query_groups=own, reference_groups=group)
    voted = voted_classes(1 - chords.square() / 2, y[indices.clamp(min=0)], y[own], knn_t)
    right = (voted == y[own]).double()
    change = right[:half] - right[half:]
    return Estimate(change.mean(), change.std() / len(change) ** 0.5, len(change))


def compatible_pairs(pair: Pair, labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Share of pairs where a new row is at least as near to an old one of its class, and as far from others, in [0, 1].

    As cos(new, old) ≥ cos(old, old) within a class and ≤ between classes, the mean of the two shares: the two
    inequalities of backward compatibility. Of up to 512 samples.

    Args:
        pair: rows of the same samples.
        labels: their classes, negative where unknown.

    Raises:
        Undefined: without the same samples in the other window, or without pairs of both kinds.
    """
    now, then, y = (t[:QUERIES] for t in _labelled_directions(pair, labels))
    crossed, before = now @ then.T, then @ then.T
    same = y[:, None] == y[None]
    others = ~same
    same.fill_diagonal_(False)
    if not bool(same.any()) or not bool(others.any()):
        raise Undefined("needs two classes, one of them with two rows")
    nearer, further = crossed >= before - _SPARED, crossed <= before + _SPARED
    return (nearer[same].double().mean() + further[others].double().mean()) / 2


def _labelled_directions(pair: Pair, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pair.of_one_width()
    there = (labels >= 0) & pair.sides[0].there & pair.sides[1].there
    now, then = _chosen(pair, there)
    if len(now) < 2:
        raise Undefined("fewer than two labelled samples are not zero in both windows")
    return now, then, labels[there]


def _chosen(pair: Pair, which: Tensor) -> tuple[Tensor, Tensor]:
    """Some of the directions; all of them are not copied."""
    now, then = pair.directions
    return (now, then) if bool(which.all()) else (now[which], then[which])
