"""What a classifier's head says of the bank's rows: its energy, its doubt, and whether its margins lie in the gaps.

Liu et al. (2020), "Energy-based Out-of-distribution Detection" (arXiv 2010.03759); Chapelle & Zien (2005),
"Semi-Supervised Classification by Low Density Separation", for margins. Scores are of the head as it is when the window
closes, and of one that softmax follows: of independent outputs (several labels a sample) they say nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.outliers import auroc
from lightning_featgeo.metrics.functional.ranks import spearman
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

_ELEMENTS = 2**21  # of float64 numbers in a block of weights, and in one of scores: 16 MiB each


class HeadScores(NamedTuple):
    """What is kept of a head's scores z_c of n rows: ln Σ exp(z), the entropy of its softmax in nats, and the margin.

    ``margin``: (z₁ − z₂)/‖w₁ − w₂‖ of the two largest, the distance to the nearest decision boundary.
    """

    total: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    margin: Float[Tensor, " n"]


def scores_of(rows: Float[Tensor, "n d"], weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"]) -> HeadScores:
    """One pass over a head's outputs, in float64 and in bounded memory: neither n·C scores nor C·d weights are held.

    Raises:
        Undefined: if the head has one output.
    """
    if len(weight) < 2:
        raise Undefined("the head has one output: it scores no classes")
    d = rows.shape[1]
    classes = max(2, _ELEMENTS // max(d, 1))
    found = [_scores(part.double(), weight, bias, classes) for part in rows.split(max(1, _ELEMENTS // classes))]
    total, entropy, best, index = (torch.cat(parts) for parts in zip(*found, strict=True)) if found else (
        rows.new_zeros(0, dtype=torch.float64), rows.new_zeros(0, dtype=torch.float64),
        rows.new_zeros(0, 2, dtype=torch.float64), torch.zeros(0, 2, dtype=torch.int64, device=rows.device),
    )  # fmt: skip
    pairs, pair = (index[:, 0] * len(weight) + index[:, 1]).unique(return_inverse=True)
    apart = torch.zeros(len(pairs), dtype=torch.float64, device=rows.device)
    for part in torch.arange(len(pairs), device=rows.device).split(classes):
        first, second = (weight[at].double() for at in (pairs[part] // len(weight), pairs[part] % len(weight)))
        apart[part] = torch.linalg.vector_norm(first - second, dim=1)
    margin = (best[:, 0] - best[:, 1]) / torch.where(apart == 0, torch.inf, apart)[pair]
    return HeadScores(total, entropy, margin)


def _scores(
    rows: Float[Tensor, "n d"], weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"], at_once: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "n 2"], Int64[Tensor, "n 2"]]:
    """ln Σ exp(z), the entropy, and the two largest scores with their classes, over so many classes at a time."""
    highest = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
    mass, moment = torch.zeros_like(highest), torch.zeros_like(highest)
    best = highest[:, None].expand(-1, 2)
    index = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(weight), at_once):
        some = slice(start, start + at_once)
        scores = rows @ weight[some].double().T + bias[some].double()
        above = torch.maximum(highest, scores.amax(dim=1))
        shift = torch.where(above.isneginf(), 0.0, above)
        below = torch.where(highest.isneginf(), 0.0, highest - shift)  # moments are of what lies below the highest
        kept, lower = torch.exp(highest - shift), scores - shift[:, None]
        new = torch.exp(lower)
        moment = (moment + mass * below) * kept + torch.where(scores.isneginf(), 0.0, new * lower).sum(dim=1)
        mass = mass * kept + new.sum(dim=1)
        highest = above
        both = torch.cat([best, scores], dim=1)
        best, place = both.topk(2, dim=1)
        index = torch.where(place < 2, index.gather(1, place.clamp(max=1)), place - 2 + start)
    shift = torch.where(highest.isneginf(), 0.0, highest)
    return mass.log() + shift, (mass.log() - moment / mass).clamp(min=0), best, index


def energy_score(head_scores: HeadScores) -> Estimate:
    """Mean energy −ln Σ_c exp(w_c·x + b_c) of the bank's rows, in nats: lower is nearer to what the head knows.

    Source: Liu et al. (2020), arXiv 2010.03759, at temperature 1. It moves with the number of classes and with what is
    added to all biases, which softmax does not see: compare windows of one head.

    Returns:
        The mean, its standard error, and the number of rows.

    Raises:
        Undefined: without rows, class labels, or a linear head of several outputs.
    """
    return _mean(-head_scores.total)


def energy_auroc(reference_head_scores: HeadScores, head_scores_of_any: HeadScores) -> Estimate:
    """AUROC of the energy: this window's rows as outliers, the reference's as inliers, both under the head of now.

    0.5 when they can't be told apart.

    Raises:
        Undefined: without rows, a labelled reference, or a linear head of several outputs.
    """
    return auroc(-reference_head_scores.total, -head_scores_of_any.total)


def prediction_entropy(head_scores: HeadScores) -> Estimate:
    """Mean entropy of softmax(Wx + b) over the bank's rows, in nats, in [0, ln C]: the head's doubt.

    Returns:
        The mean, its standard error, and the number of rows.

    Raises:
        Undefined: without rows, class labels, or a linear head of several outputs.
    """
    return _mean(head_scores.entropy)


def margin_density(head_scores: HeadScores, distances: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Spearman correlation of a row's margin with its log density, in [−1, 1]; above 0, boundaries lie in gaps.

    The margin is the distance to the nearest decision boundary, (z₁ − z₂)/‖w₁ − w₂‖ of the two largest scores; the
    density is that of the k-th neighbour. It falls as labels are memorised. Rows of different length lower it, too:
    long ones have large margins and few neighbours. So read its movement, not its sign.

    Args:
        head_scores: of the bank's rows.
        distances: to the k nearest rows of each.

    Raises:
        Undefined: with fewer than three rows that have a density, if margins or densities are all alike, without class
            labels, or without a linear head of several outputs.
    """
    radius = distances[:, -1].double() if distances.shape[1] else distances.new_zeros(len(distances)).double()
    usable = radius.isfinite() & (radius > 0)
    if int(usable.sum()) < 3:
        raise Undefined("fewer than 3 rows have a density")
    margin = head_scores.margin[usable]
    if bool(margin.isnan().any()):
        raise Undefined("the head's scores are not finite")
    return spearman(margin, -radius[usable], "all margins, or all densities, are alike")


def _mean(values: Tensor) -> Estimate:
    n = values.numel()
    if not n:
        raise Undefined("no rows")
    return Estimate(values.mean(), values.std() / n**0.5 if n > 1 else None, n)
