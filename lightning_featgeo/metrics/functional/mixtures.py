"""Rows that are mixtures of two samples (mixup, CutMix), against the weights of the head.

Fisher, Meng & Papyan 2024, "Pushing Boundaries: Mixup's Influence on Neural Collapse" (arXiv 2402.06171): trained with
mixup, features of mixtures of one class lie along that class's weight, and those of two classes in the plane of both
weights, in order of the share. Weights are taken from their mean over classes, which softmax doesn't see; features from
the mean of all mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.ranks import spearman
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor


@dataclass(frozen=True)
class Mixtures:
    """Features of mixtures, their two classes (the same one: two samples of it), and the share of the first."""

    rows: Float[Tensor, "n d"]
    first: Int64[Tensor, " n"]
    second: Int64[Tensor, " n"]
    share: Float[Tensor, " n"]


def mixed_weight_cosine(mixtures: Mixtures, head_outputs: tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]) -> Estimate:
    """Mean cosine of mixtures of two samples of one class with the head's weight of that class, in [−1, 1].

    1 at the optimum of free features trained with mixup; a small network on digits stays far from it
    (benchmarks/results/claims.md).

    Returns:
        The mean, its standard error and the number of rows.

    Raises:
        Undefined: without such a mixture, or if the head is of other classes or dimensions.
    """
    rows, weight, floor = _centred(mixtures, head_outputs[0])
    same = mixtures.first == mixtures.second
    h, w = rows[same], weight[mixtures.first[same]]
    lengths = torch.linalg.vector_norm(h, dim=1), torch.linalg.vector_norm(w, dim=1)
    known = (lengths[0] > floor[same]) & (lengths[1] > 0)
    cosine = (h * w).sum(dim=1)[known] / (lengths[0] * lengths[1])[known]
    return _mean(cosine, int(same.sum()), "a mixture of two samples of one class")


def mixed_residual(mixtures: Mixtures, head_outputs: tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]) -> Estimate:
    """Mean share of ‖h‖² of a mixture of two classes that lies outside the plane of their two weights, in [0, 1].

    0 at the optimum of free features trained with mixup; a small network on digits stays far from it
    (benchmarks/results/claims.md).

    Returns:
        The mean, its standard error and the number of rows.

    Raises:
        Undefined: without such a mixture, or if the head is of other classes or dimensions.
    """
    rows, weight, floor = _centred(mixtures, head_outputs[0])
    apart = mixtures.first != mixtures.second
    h, a, b = rows[apart], weight[mixtures.first[apart]], weight[mixtures.second[apart]]
    one = _unit(a)
    other = b - (b * one).sum(dim=1, keepdim=True) * one
    lengths = [torch.linalg.vector_norm(vector, dim=1) for vector in (a, b, other)]
    plane = (lengths[0] > 0) & (lengths[2] > 1e-9 * lengths[1])  # two weights in one direction make none
    other, power = _unit(other), h.square().sum(dim=1)
    left = h - (h * one).sum(dim=1, keepdim=True) * one
    left = left - (left * other).sum(dim=1, keepdim=True) * other
    known = plane & (power.sqrt() > floor[apart])
    residual = left.square().sum(dim=1)[known] / power[known]
    return _mean(residual, int(apart.sum()), "a mixture of two classes")


def mixed_order(
    mixtures: Mixtures, head_outputs: tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]
) -> Float[Tensor, ""]:
    """Spearman correlation of a mixture's share of its first class with what w_first − w_second reads, in [−1, 1].

    1 where features of mixtures of two classes stand in the order in which inputs were mixed.

    Raises:
        Undefined: with fewer than three mixtures of two classes, if all have one share, or if the head is of other
            classes or dimensions.
    """
    rows, weight, floor = _centred(mixtures, head_outputs[0])
    apart = (mixtures.first != mixtures.second) & (torch.linalg.vector_norm(rows, dim=1) > floor)
    along = _unit(weight[mixtures.first[apart]] - weight[mixtures.second[apart]])
    read, share = (rows[apart] * along).sum(dim=1), mixtures.share[apart]
    if len(share) < 3:
        raise Undefined(f"needs 3 mixtures of two classes, there are {len(share)}")
    return spearman(read, share, "all mixtures of two classes have one share, or all features are alike")


def _centred(mixtures: Mixtures, head_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and weights from their means, in float64; and what of each row's length is round-off."""
    if head_weight.shape[1] != mixtures.rows.shape[1]:
        raise Undefined(f"the head takes {head_weight.shape[1]} dimensions, the features have {mixtures.rows.shape[1]}")
    largest = int(torch.maximum(mixtures.first, mixtures.second).max())
    if len(head_weight) == 1:
        raise Undefined("a head of one output has no weight for each class")
    if largest >= len(head_weight):
        raise Undefined(f"the head has {len(head_weight)} outputs, and there is a class {largest}")
    rows, weight = mixtures.rows.double(), head_weight.double()
    floor = 4 * torch.finfo(mixtures.rows.dtype).eps * torch.linalg.vector_norm(rows, dim=1)
    return rows - rows.mean(dim=0), weight - weight.mean(dim=0), floor


def _unit(vectors: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def _mean(values: Tensor, rows: int, what: str) -> Estimate:
    n = len(values)
    if not n:
        raise Undefined(
            f"no row is {what}" if not rows else f"{rows} rows are each {what}: they are all alike, or the weights are"
        )
    return Estimate(values.mean(), values.std() / n**0.5 if n > 1 else None, n)
