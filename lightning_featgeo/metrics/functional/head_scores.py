"""What the classifier's head says of the bank's rows: its energy, its doubt, and whether its margins lie in the gaps.

Liu et al. (2020), "Energy-based Out-of-distribution Detection" (arXiv 2010.03759); Chapelle & Zien (2005),
"Semi-Supervised Classification by Low Density Separation", for margins. Scores are of the head as it is when
the window closes.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.outliers import auroc
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Tensor

Head = tuple[Tensor, Tensor]
_BLOCK = 1024  # rows at a time: of many classes, scores are wider than features


def _in_blocks(rows: Tensor, head: Head) -> list[Tensor]:
    """(b, C) scores of so many rows at a time, in float64."""
    weight, bias = head[0].double(), head[1].double()
    if len(weight) < 2:
        raise Undefined("the head has one output: it scores no classes")
    return [part.double() @ weight.T + bias for part in rows.split(_BLOCK)]


def energies(rows: Float[Tensor, "n d"], head_outputs: Head) -> Float[Tensor, " n"]:
    """−ln Σ_c exp(w_c·x + b_c) of each row; higher is further from what the head knows.

    Raises:
        Undefined: if the head has one output.
    """
    return torch.cat([-scores.logsumexp(dim=1) for scores in _in_blocks(rows, head_outputs)])


def energy_score(rows: Float[Tensor, "n d"], head_outputs: Head) -> Estimate:
    """Mean energy −ln Σ_c exp(w_c·x + b_c) of the bank's rows, in nats: lower is nearer to what the head knows.

    Source: Liu et al. (2020), arXiv 2010.03759, at temperature 1.

    Args:
        rows: of the bank.
        head_outputs: (C, d) weight and (C,) bias of the classifier as it is now.

    Returns:
        The mean, its standard error, and the number of rows.

    Raises:
        Undefined: without rows, or if the head has one output.
    """
    return _mean(energies(rows, head_outputs) if len(rows) else rows.new_zeros(0))


def energy_auroc(
    reference_rows: Float[Tensor, "m d"],
    rows: Float[Tensor, "n d"],
    head_outputs: Head,
) -> Estimate:
    """AUROC of the energy: this window's rows as outliers, the reference's as inliers, both under the head of now.

    0.5 when they can't be told apart.

    Raises:
        Undefined: without rows, a reference, or a head with several outputs.
    """
    inside, outside = (energies(each, head_outputs) for each in (reference_rows, rows))
    return auroc(inside, outside)


def prediction_entropy(rows: Float[Tensor, "n d"], head_outputs: Head) -> Estimate:
    """Mean entropy of softmax(Wx + b) over the bank's rows, in nats, in [0, ln C]: the head's doubt.

    Args:
        rows: of the bank.
        head_outputs: (C, d) weight and (C,) bias of the classifier as it is now.

    Returns:
        The mean, its standard error, and the number of rows.

    Raises:
        Undefined: without rows, or if the head has one output.
    """
    found = []
    for scores in _in_blocks(rows, head_outputs):
        logarithms = scores.log_softmax(dim=1)
        found.append(-torch.where(logarithms.isfinite(), logarithms.exp() * logarithms, 0.0).sum(dim=1))
    return _mean(torch.cat(found) if found else rows.new_zeros(0))


def margin_density(
    rows: Float[Tensor, "n d"],
    distances: Float[Tensor, "n k"],
    head_outputs: Head,
) -> Float[Tensor, ""]:
    """Spearman correlation of a row's margin with its log density, in [−1, 1]; above 0, boundaries lie in gaps.

    The margin is the distance to the nearest decision boundary, (z₁ − z₂)/‖w₁ − w₂‖ of the two largest scores; the
    density is that of the k-th neighbour. It falls below 0 where labels are memorised. No label is read.

    Args:
        rows: of the bank.
        distances: to the k nearest rows of each.
        head_outputs: (C, d) weight and (C,) bias of the classifier as it is now.

    Raises:
        Undefined: with fewer than three rows that have a density, if margins or densities are all alike, or if the head
            has one output.
    """
    radius = distances[:, -1].double() if distances.shape[1] else distances.new_zeros(len(distances)).double()
    usable = radius.isfinite() & (radius > 0)
    if int(usable.sum()) < 3:
        raise Undefined("fewer than 3 rows have a density")
    weight, margins = head_outputs[0].double(), []
    for scores in _in_blocks(rows[usable], head_outputs):
        top = scores.topk(2, dim=1)
        apart = torch.linalg.vector_norm(weight[top.indices[:, 0]] - weight[top.indices[:, 1]], dim=1)
        margins.append((top.values[:, 0] - top.values[:, 1]) / torch.where(apart > 0, apart, torch.inf))
    x, y = _ranks(torch.cat(margins)), _ranks(-radius[usable])
    x, y = x - x.mean(), y - y.mean()
    scale = (x.square().sum() * y.square().sum()).sqrt()
    if not scale > 0:
        raise Undefined("all margins, or all densities, are alike")
    return (x @ y / scale).clamp(-1, 1)


def _ranks(values: Tensor) -> Tensor:
    """Equal values have the mean of their ranks."""
    ordered = values.sort().values
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)).double() / 2


def _mean(values: Tensor) -> Estimate:
    n = values.numel()
    if not n:
        raise Undefined("no rows")
    return Estimate(values.mean(), values.std() / n**0.5 if n > 1 else None, n)
