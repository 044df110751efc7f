"""Head and tail of unequal classes: are the rare ones squeezed together?

The head is the third of the classes with the most rows, the tail the third with the fewest; there is a tail only if
every head class has at least twice the rows of every tail class. Counts are those of the reference where there is one
(a validation set is often balanced although training is not), else of the window.
Volume: Ma et al. (2023), "Delving into Semantic Scale Imbalance" (arXiv 2212.14613).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.coding import half_log_det
from lightning_featgeo.metrics.functional.neural_collapse import MIN_ROWS
from lightning_featgeo.metrics.functional.segments import by_size
from lightning_featgeo.types import Float, Int64, Tensor

TAIL_RATIO = 2


def head_and_tail(frequency: Int64[Tensor, " c"], usable: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Indices of the head's and of the tail's classes, of those that are usable.

    Raises:
        Undefined: if a third of the usable classes are fewer than ``least``, or the classes are about equal.
    """
    classes = (usable & (frequency > 0)).nonzero().squeeze(1)
    third = classes.numel() // 3
    if third < least:
        raise Undefined(f"needs {3 * least} classes with at least {MIN_ROWS} rows each, found {classes.numel()}")
    order = classes[frequency[classes].sort(stable=True, descending=True).indices]
    head, tail = order[:third], order[-third:]
    if frequency[head].min() < TAIL_RATIO * frequency[tail].max():
        raise Undefined(
            f"the classes have no tail: the most frequent third has less than {TAIL_RATIO} times the rows of the rarest"
        )
    return head, tail


def tail_min_angle(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], frequency: Int64[Tensor, " c"]
) -> Float[Tensor, ""]:
    """Smallest angle between the centred means of two tail classes, in degrees, [0, 180]; 0 when two have merged.

    Args:
        class_means: μ_c; their unweighted average is the centre.
        class_counts: rows a class in this window.
        frequency: rows a class that tell head from tail.

    Raises:
        Undefined: with fewer than six usable classes, without a tail, or if a tail class lies on the centre.
    """
    usable = class_counts >= MIN_ROWS
    _, tail = head_and_tail(frequency, usable, 2)
    means = class_means[tail] - class_means[usable].mean(dim=0)
    length = torch.linalg.vector_norm(means, dim=1, keepdim=True)
    if not bool((length > 0).all()):
        raise Undefined("a tail class lies exactly on the centre of all classes: it has no angle")
    unit = means / length
    # 2·atan2(chord, sum) keeps its digits near 0 and 180 degrees, where acos loses half of them
    i, j = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    step = max(1, 2**22 // max(1, unit.shape[1]))
    angles = [
        2 * torch.atan2(
            torch.linalg.vector_norm(unit[a] - unit[b], dim=1), torch.linalg.vector_norm(unit[a] + unit[b], dim=1)
        ).min()
        for a, b in zip(i.split(step), j.split(step), strict=True)
    ]  # fmt: skip
    return torch.rad2deg(torch.stack(angles).min())


def log_volume(rows: Float[Tensor, "*k m d"]) -> Float[Tensor, "*k"]:
    """½ ln det(I + d/m·ZᵀZ) of rows centred on their own mean, in nats, ≥ 0; of one class, or of each of k."""
    z = rows.double() - rows.double().mean(dim=-2, keepdim=True)
    m, d = z.shape[-2:]
    return half_log_det(d / m * (z @ z.mT if m < d else z.mT @ z))


def class_volume_tail_gap(
    labelled_rows: Float[Tensor, "n d"], labelled_row_labels: Int64[Tensor, " n"], frequency: Int64[Tensor, " c"]
) -> Float[Tensor, ""]:
    """Mean log-volume of the head's classes minus that of the tail's, in nats; > 0 when tail classes are squeezed.

    Log-volume: ½ ln det(I + d/m·ZᵀZ) of a class's centred rows. Every class is measured on the same number m of rows,
    the fewest that any of them has in the bank: a volume grows with its rows.

    Args:
        labelled_rows: the bank's, in random order.
        labelled_row_labels: their classes.
        frequency: rows a class that tell head from tail.

    Raises:
        Undefined: with fewer than three usable classes in the bank, or without a tail.
    """
    kept = torch.bincount(labelled_row_labels, minlength=frequency.numel())
    head, tail = head_and_tail(frequency, kept >= MIN_ROWS, 1)
    m = int(kept[torch.cat([head, tail])].min())

    def mean_volume(classes: Tensor) -> Tensor:
        theirs = torch.isin(labelled_row_labels, classes).nonzero().squeeze(1)
        sized = by_size(labelled_row_labels[theirs], labelled_rows.shape[1], m)
        return torch.cat([log_volume(labelled_rows[theirs[index]]) for _, index in sized]).mean()

    return mean_volume(head) - mean_volume(tail)
