"""From a batch's labels and targets to those of each row; from a matrix of labels to classes."""

from __future__ import annotations

import torch

from lightning_featgeo.rows.batches import summarize
from lightning_featgeo.rows.pooling import Pooled, spread
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

ALMOST = 1e-3  # what bf16 leaves of a sum of weights


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


def targets_of(known: Tensor, targets: Tensor, at: Tensor) -> Tensor:
    """Each row's target as (n, t); NaN where it can't be told."""
    table = targets[:, None] if targets.ndim == 1 else targets
    found = table[at] if len(table) else table.new_zeros(len(at), table.shape[1])
    return torch.where(known[:, None], found, torch.nan)


def one_class(matrix: Tensor, soft: bool) -> Tensor:
    """The class of each row of a label matrix; −1 for mixtures. Nothing waits for the device."""
    weights = matrix.float()
    top, best = weights.max(dim=1)
    if not soft:
        return torch.where((weights > 0).sum(dim=1) == 1, best, UNLABELLED)
    alone = top > 1 - ALMOST
    one = (weights.sum(dim=1) - 1).abs() < ALMOST  # else there are several, or none
    if matrix.shape[1] > 2:  # label smoothing spreads the rest evenly; of two classes, mixup looks the same
        rest = weights.scatter(1, best[:, None], torch.nan)
        low = rest.nan_to_num(nan=torch.inf).amin(dim=1)
        high = rest.nan_to_num(nan=-torch.inf).amax(dim=1)
        alone = alone | ((high - low < ALMOST * top) & (top > high + ALMOST))
    return torch.where(alone & one, best, UNLABELLED)
