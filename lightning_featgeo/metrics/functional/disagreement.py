"""Rows whose neighbours are of another class than their label says: the first place to look for wrong labels.

Konz & Mazurowski (2024), "The Effect of Intrinsic Dataset Properties on Generalization" (arXiv 2401.08865), for how
near rows of different classes come.
"""

from __future__ import annotations

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.votes import VOTE_TEMPERATURE, vote_weights, voted_classes
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

SUSPECT_ROWS = 20
SHARP_ROWS = 2048  # that are compared with each other


def label_disagreement(
    vote_similarities: Float[Tensor, "n k"],
    vote_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    knn_t: float = VOTE_TEMPERATURE,
) -> Estimate:
    """Share of the neighbours' votes, weight exp(cos/t), that go to other classes than a row's own, in [0, 1].

    The neighbours are those of ``knn_accuracy``; the rows with the largest shares are listed as suspect labels.

    Args:
        vote_similarities: cosine to each neighbour; −inf where there is none.
        vote_labels: class of each neighbour.
        row_labels: class of each row.
        knn_t: the temperature t, 0.07 as a rule.

    Returns:
        The mean over rows, its standard error, and the number of rows.

    Raises:
        Undefined: without a labelled row that has a labelled neighbour of another sample, or without the reference.
    """
    shares = disagreements(vote_similarities, vote_labels, row_labels, knn_t)
    error = shares.std() / len(shares) ** 0.5 if len(shares) > 1 else None
    return Estimate(shares.mean(), error, len(shares))


def disagreements(
    vote_similarities: Float[Tensor, "n k"],
    vote_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    knn_t: float = VOTE_TEMPERATURE,
) -> Float[Tensor, " n"]:
    """The share of each row; arguments and errors as in :func:`label_disagreement`."""
    if not row_labels.numel():
        raise Undefined("no labelled row has a direction")
    shares = []
    for part, weights in vote_weights(vote_similarities, knn_t):
        others = torch.where(vote_labels[part] == row_labels[part, None], 0.0, weights)
        shares.append(others.sum(dim=1) / weights.sum(dim=1))
    return torch.cat(shares)


def suspects(
    vote_similarities: Float[Tensor, "n k"],
    vote_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    row_samples: Int64[Tensor, " n"],
    knn_t: float = VOTE_TEMPERATURE,
) -> dict[str, Tensor]:
    """The rows with the largest shares: their samples, labels, the class their neighbours vote for, and the share."""
    shares = disagreements(vote_similarities, vote_labels, row_labels, knn_t)
    voted = voted_classes(vote_similarities, vote_labels, row_labels, knn_t)
    order = shares.argsort(descending=True, stable=True)[:SUSPECT_ROWS]
    order = order[(voted != row_labels)[order]]  # where the row's own class still wins, nothing is suspect
    return {
        "suspect_samples": row_samples[order],
        "suspect_labels": row_labels[order],
        "suspect_voted": voted[order],
        "suspect_shares": shares[order],
    }


def label_sharpness(labelled_rows: Float[Tensor, "n d"], labelled_row_labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """max 1/‖x_i − x_j‖ over rows of different classes, times the root mean square distance of two rows, > 0.

    How fast a label changes between the rows that are hardest to tell apart. Times the distance of two rows, so that it
    does not depend on the scale; divide by it for the published number. Of the bank's first 2,048 labelled rows. Meant
    for a network's inputs, once a data set, beside an intrinsic dimension; of features it is the smallest gap.

    Raises:
        Undefined: with rows of fewer than two classes, or where two rows of different classes are the same.
    """
    rows, y = labelled_rows[:SHARP_ROWS], labelled_row_labels[:SHARP_ROWS]
    if not len(y) or bool((y == y[0]).all()):
        raise Undefined("needs labelled rows of two classes")
    nearest = ops.knn(rows, rows, 1, query_groups=y, reference_groups=y)[0].min()
    if not nearest > 0:
        raise Undefined("two rows of different classes are the same: labels change between them without a distance")
    n, x = len(rows), rows.double()
    return (2 * n / (n - 1) * (x - x.mean(dim=0)).square().sum(dim=1).mean()).sqrt() / nearest
