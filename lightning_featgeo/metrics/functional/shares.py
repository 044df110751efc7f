"""Which part of the spread is between classes or groups, and whether a class is read as well in every group.

Shares are η² of an analysis of variance. Chiu, Chen & Ma (2023), "Better May Not Be Fairer: A Study on Subgroup
Discrepancy in Image Classification" (arXiv 2212.08649), for the spread of accuracies over groups.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.neural_collapse import MIN_ROWS
from lightning_featgeo.metrics.functional.votes import VOTE_TEMPERATURE, voted_classes
from lightning_featgeo.types import Float, Int64, Tensor


def class_variance_share(
    class_means: Float[Tensor, "c d"], class_counts: Int64[Tensor, " c"], class_variances: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """trΣ_B/trΣ_T: the share of the labelled rows' variance that lies between classes, in [0, 1]; 1 if collapsed.

    Of rows without any class structure it reads about (C−1)/(n−1).

    Args:
        class_means: of each class.
        class_counts: rows of each; classes of fewer than two are left out.
        class_variances: mean squared distance of a class's rows to its mean.

    Raises:
        Undefined: with fewer than two classes, or without any spread.
    """
    there = class_counts >= MIN_ROWS
    if int(there.sum()) < 2:
        raise Undefined(f"needs 2 classes with at least {MIN_ROWS} rows each, found {int(there.sum())}")
    return _share(class_means[there], class_counts[there].double(), class_variances[there])


def group_variance_share(rows: Float[Tensor, "n d"], bank_groups: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Share of the bank's variance that lies between groups (sites, domains, devices), in [0, 1]: how much they show.

    Of g groups that differ in nothing it reads about (g−1)/(n−1). Groups of fewer than two rows are left out.

    Args:
        rows: of the bank.
        bank_groups: group of each row; −1 where unknown, left out.

    Raises:
        Undefined: with rows of fewer than two groups, or without any spread.
    """
    known = bank_groups >= 0
    known &= torch.bincount(bank_groups.clamp(min=0) + 1)[bank_groups.clamp(min=0) + 1] >= MIN_ROWS
    groups, place = bank_groups[known].unique(return_inverse=True)
    if len(groups) < 2:
        raise Undefined(f"needs 2 groups with at least {MIN_ROWS} rows each, found {len(groups)}")
    x = rows[known].double()
    x = x - x.mean(dim=0)
    counts = torch.bincount(place).double()
    means = x.new_zeros(len(groups), x.shape[1]).index_add_(0, place, x) / counts[:, None]
    apart = (x - means[place]).square().sum(dim=1)
    return _share(means, counts, apart.new_zeros(len(groups)).index_add_(0, place, apart) / counts)


def _share(means: Tensor, counts: Tensor, variances: Tensor) -> Tensor:
    weights = counts / counts.sum()
    between = weights @ (means - weights @ means).square().sum(dim=1)
    total = between + weights @ variances
    if not total > 0:
        raise Undefined("the rows are the same")
    return between / total


def macro_std(
    vote_similarities: Float[Tensor, "n k"],
    vote_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    row_groups: Int64[Tensor, " n"],
    knn_t: float = VOTE_TEMPERATURE,
) -> Float[Tensor, ""]:
    """Mean over classes of the standard deviation of the neighbours' accuracy over groups, in [0, ½]; 0 if they agree.

    Each group counts by its rows of the class. Accuracy is that of ``knn_accuracy``.

    Args:
        vote_similarities: cosine to each neighbour.
        vote_labels: class of each neighbour.
        row_labels: class of each row.
        row_groups: group of each row; −1 where unknown, left out.
        knn_t: temperature of the vote.

    Raises:
        Undefined: if no class has rows of two groups, or nobody can vote.
    """
    right = (voted_classes(vote_similarities, vote_labels, row_labels, knn_t) == row_labels).double()
    known = row_groups >= 0
    if not bool(known.any()):
        raise Undefined("no labelled row has a group")
    cells, place = torch.stack([row_labels[known], row_groups[known]]).unique(dim=1, return_inverse=True)
    counts = torch.bincount(place).double()
    accuracy = counts.new_zeros(len(counts)).index_add_(0, place, right[known]) / counts
    classes, of_class = cells[0].unique(return_inverse=True)

    def over_groups(values: Tensor) -> Tensor:
        return values.new_zeros(len(classes)).index_add_(0, of_class, values)

    several = torch.bincount(of_class) > 1
    if not bool(several.any()):
        raise Undefined("no class has labelled rows of 2 groups")
    weight = over_groups(counts)
    mean = over_groups(counts * accuracy) / weight
    variance = over_groups(counts * (accuracy - mean[of_class]).square()) / weight
    return variance[several].sqrt().mean()
