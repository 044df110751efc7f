"""From a batch's labels and targets to those of each row; from a matrix of labels to classes."""

from __future__ import annotations

from typing import Literal

import torch

from lightning_featgeo.rows.batches import summarize
from lightning_featgeo.rows.pooling import Pooled, spread
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

ALMOST = 1e-3  # of a weight
SUM_ALMOST = 1e-2  # what bf16 leaves of a sum of weights


def labels_of(
    pooled: Pooled,
    labels: Tensor,
    origin: Tensor,
    of_inputs: Tensor,
    pool: str | None,
    notes: dict[str, None],
    bounded: bool,
    stated: bool = True,
) -> Tensor | None:
    """The label of each row, or None where the labels are not one class a row."""
    if labels.ndim == 2 and pool == "tokens" and len(pooled.rows) == pooled.inputs * labels.shape[1]:
        known = (origin >= 0) & (origin < len(labels))
        table = labels[origin.clamp(0, max(0, len(labels) - 1)), pooled.position]
        return torch.where(known, table, UNLABELLED)
    if labels.ndim in (2, 3) and pooled.label_axes is not None and len(pooled.label_axes) == labels.ndim:
        ordered = labels[of_inputs.clamp(0, len(labels) - 1)]
        ordered = torch.where((of_inputs >= 0).reshape(-1, *[1] * (labels.ndim - 1)), ordered, UNLABELLED)
        return spread(ordered, pooled.label_axes)
    if labels.ndim != 1:
        how = " With pool='b c h w -> (b h w) c' each pixel is a row, and has its label" if labels.ndim == 3 else ""
        notes[f"labels {summarize(labels)} are not one class a row: they are left out.{how}"] = None
        return None
    if bounded and labels.numel() and pooled.inputs != len(labels):  # parts of samples that nobody places
        return torch.full_like(origin, UNLABELLED) if stated else None
    if labels.numel() == 0:
        return torch.full_like(origin, UNLABELLED)
    known = (origin >= 0) & (origin < len(labels)) if bounded else origin >= 0
    return torch.where(known, labels[origin.clamp(0, len(labels) - 1)], UNLABELLED)


def kind_of_matrix(matrix: Tensor) -> Literal["soft", "multi-label"] | None:
    """Whether a matrix holds weights of classes, which add up to one, or marks of 0 and 1; None: neither."""
    weights = matrix.float()
    in_range = ((weights >= 0) & (weights <= 1 + ALMOST)).all() & (weights > 0).any()
    if len(weights) == 0 or not bool(in_range):
        return None  # a matrix of zeros says nothing yet
    if bool(((weights.sum(dim=1) - 1).abs() < SUM_ALMOST).all()):
        return "soft"
    return "multi-label" if bool(((weights == 0) | (weights == 1)).all()) else None


def repeats(labels: Tensor, ids: Tensor) -> bool:
    """Whether labels repeat the input token by token, where there is a label."""
    there = labels >= 0
    return bool(there.any()) and bool((labels == ids)[there].all())


def fitting(targets: Tensor | None, size: int, mixes: bool) -> Tensor | None:
    """Targets, if there is one a sample; where a step may mix (``mixes``) and hasn't, as many as a mixture has."""
    if targets is None or targets.shape[0] != size:
        return torch.full((size, 3), torch.nan, dtype=torch.float64) if mixes else None
    return targets


def targets_of(known: Tensor, targets: Tensor, origin: Tensor) -> Tensor:
    """Each row's target as (n, t); NaN where it can't be told."""
    table = targets[:, None] if targets.ndim == 1 else targets
    there = known & (origin < len(table))
    found = table[torch.where(there, origin, 0)] if len(table) else table.new_zeros(len(origin), table.shape[1])
    return torch.where(there[:, None], found, torch.nan)


def one_class(matrix: Tensor, soft: bool) -> Tensor:
    """The class of each row of a label matrix; −1 for mixtures. Nothing waits for the device."""
    weights = matrix.float()
    top, best = weights.max(dim=1)
    if not soft:
        return torch.where((weights > 0).sum(dim=1) == 1, best, UNLABELLED)
    alone = top > 1 - ALMOST
    one = (weights.sum(dim=1) - 1).abs() < SUM_ALMOST  # else there are several, or none
    if matrix.shape[1] > 2:  # label smoothing spreads the rest evenly; of two classes, mixup looks the same
        rest = weights.scatter(1, best[:, None], torch.nan)
        low = rest.nan_to_num(nan=torch.inf).amin(dim=1)
        high = rest.nan_to_num(nan=-torch.inf).amax(dim=1)
        alone = alone | ((high - low < ALMOST * top) & (top > high + ALMOST))
    return torch.where(alone & one, best, UNLABELLED)


def mixtures_of(matrix: Tensor) -> Tensor:
    """(n, 3) of each row of a matrix of weights: two classes, the lower one first, and the share of the first.

    Label smoothing is taken off. In a batch of which some row is a mixture, rows of one class are mixtures of two of
    its samples (their share is 1); NaN in rows of no or of more than two classes, and in batches without mixtures.
    """
    given = weights = matrix.double()
    n, classes = weights.shape
    if classes < 2 or not n:
        return weights.new_full((n, 3), torch.nan)
    if classes > 2:  # smoothing spreads evenly: what the smallest of all has, each has
        weights = (weights - weights.amin(dim=1, keepdim=True)).clamp(min=0)
    total = weights.sum(dim=1)
    two, which = weights.topk(2, dim=1)
    both = two.sum(dim=1)
    fits = (total > 0) & ((total - both).abs() < 2 * ALMOST * total.clamp(min=ALMOST))
    single = two[:, 1] < 2 * ALMOST * two[:, 0]
    mixed = fits & ~single & ((given.sum(dim=1) - 1).abs() < SUM_ALMOST)
    first, second = which.amin(dim=1), which.amax(dim=1)
    share = torch.where(which[:, 0] == first, two[:, 0], two[:, 1]) / both.clamp(min=ALMOST)
    alone = which[:, 0]
    found = torch.stack([torch.where(single, alone, first), torch.where(single, alone, second)], dim=1).double()
    found = torch.cat([found, torch.where(single, 1.0, share)[:, None]], dim=1)
    return torch.where((fits & (mixed | single) & mixed.any())[:, None], found, torch.nan)


def is_whole_type(value: Tensor) -> bool:
    """Whether a tensor is of integers."""
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
