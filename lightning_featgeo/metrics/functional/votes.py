"""Votes among the nearest labelled rows: whether they find a row's class.

Wu et al. (2018), "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (arXiv 1805.01978).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.segments import at_once
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

VOTE_TEMPERATURE = 0.07


def knn_accuracy(
    vote_similarities: Float[Tensor, "n k"],
    vote_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    knn_t: float = VOTE_TEMPERATURE,
) -> Estimate:
    """Accuracy of a vote among the k nearest labelled rows, weight exp(cos/t) with t = 0.07, in [0, 1].

    The voters are the rows of the reference if there is one, else the other rows of the bank (leave-one-out); k is 200,
    or the average number of rows a class has among them if that is less: more would be outvoted by other classes.

    Args:
        vote_similarities: cosine to each neighbour; −inf where there is none.
        vote_labels: class of each neighbour.
        row_labels: class of each row.
        knn_t: the temperature t.

    Returns:
        The share of rows voted right, its binomial standard error, and the number of rows. Ties go to the lower class.

    Raises:
        Undefined: without a labelled row that has a labelled neighbour of another sample, or without the reference.
    """
    n = row_labels.numel()
    right = (voted_classes(vote_similarities, vote_labels, row_labels, knn_t) == row_labels).double().mean()
    return Estimate(right, (right * (1 - right) / n).sqrt(), n)


def voted_classes(
    vote_similarities: Float[Tensor, "n k"],
    vote_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    knn_t: float = VOTE_TEMPERATURE,
) -> Int64[Tensor, " n"]:
    """The class that each row's neighbours vote for; arguments and errors as in :func:`knn_accuracy`."""
    if not vote_labels.numel():
        raise Undefined("no labelled row has a direction")
    voted = vote_labels if int(vote_labels.min()) >= 0 else vote_labels.clamp(min=0)
    seen = torch.zeros(int(voted.max()) + 1, dtype=torch.bool, device=voted.device)
    seen[voted.flatten()] = True
    classes, place = seen.nonzero().squeeze(1), seen.cumsum(dim=0) - 1  # ascending, so that ties go to the lower one
    best_of = []
    for part, weights in vote_weights(vote_similarities, knn_t, len(classes)):
        votes = torch.zeros(len(weights), len(classes), dtype=torch.float64, device=weights.device)
        best_of.append(votes.scatter_add_(1, place[voted[part]], weights).argmax(dim=1))
    return classes[torch.cat(best_of)]


def vote_weights(
    vote_similarities: Float[Tensor, "n k"], knn_t: float, width: int = 1
) -> Iterator[tuple[slice, Float[Tensor, "m k"]]]:
    """exp(cos/t) up to a factor that all of a row's neighbours have in common, some rows at a time; which rows.

    Args:
        vote_similarities: cosine to each neighbour; −inf where there is none.
        knn_t: the temperature t.
        width: numbers that the caller needs for each row beside them.

    Raises:
        Undefined: where a row has no neighbour.
    """
    n, k = vote_similarities.shape
    if k == 0:
        raise Undefined("no labelled row has a direction")
    best = vote_similarities.amax(dim=1, keepdim=True)
    if not bool(best.isfinite().all()):
        raise Undefined("some labelled rows have no neighbour from another sample")
    step = at_once(max(width, k))
    for part in (slice(start, start + step) for start in range(0, n, step)):
        yield part, torch.exp((vote_similarities[part] - best[part]) / knn_t).double()
