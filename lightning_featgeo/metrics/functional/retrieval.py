"""Retrieval: whether what belongs together is found first: by class or by group among rows, by pair between two views.

By class as in metric learning (Musgrave, Belongie & Lim 2020, "A Metric Learning Reality Check", arXiv 2003.08505); by
pair as between the two towers of CLIP (Radford et al. 2021, arXiv 2103.00020).
"""

from __future__ import annotations

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.outliers import auroc
from lightning_featgeo.metrics.functional.segments import at_once
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Bool, Float, Int64, Tensor

PAIRS = 1024  # rows whose cosines to each other are sorted
BINS = 64  # of histograms of cosines, over [−1, 1]
GROUP_QUERIES = 2048  # rows that look for others of their group
GROUP_NEAR = 10
_BLOCK = 512  # queries at a time
_ROUNDING = 1e-12  # of a cosine: copies are exactly as near


def recall_at(
    near_similarities: Float[Tensor, "n k"],
    near_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    own_voters: Int64[Tensor, " n"],
    *,
    k: int,
) -> Estimate:
    """Share of labelled rows with at least one of their own class among the k nearest by cosine, in [0, 1].

    Rows of which no other of their class is there can't find one, and are left out.

    Args:
        near_similarities: cosine of each row to its neighbours, descending; −inf where there is none.
        near_labels: their classes.
        row_labels: class of each row.
        own_voters: how many of its class each row could find.
        k: neighbours that are looked at.

    Returns:
        The share, its standard error, and the number of rows.

    Raises:
        Undefined: if there are fewer than k neighbours, or no class has two rows.
    """
    if near_labels.shape[1] < k:
        raise Undefined(f"{near_labels.shape[1]} rows can be found, fewer than {k}")
    there = own_voters > 0
    if not bool(there.any()):
        raise Undefined("no row has another one of its class to be found")
    hits = (near_labels[:, :k] == row_labels[:, None]) & (near_similarities[:, :k] > -torch.inf)
    return _mean(hits[there].any(dim=1).double())


def map_at_k(
    near_similarities: Float[Tensor, "n k"],
    near_labels: Int64[Tensor, "n k"],
    row_labels: Int64[Tensor, " n"],
    own_voters: Int64[Tensor, " n"],
) -> Estimate:
    """Mean average precision of the k nearest by cosine, those of a row's class being right, in [0, 1].

    Per row Σ_i P(i)·[i is right] / min(k, R), P(i) the share of right ones among the first i, R how many there are;
    k as for ``knn_accuracy``, and at least 10.

    Args:
        near_similarities: cosine of each row to its neighbours, descending; −inf where there is none.
        near_labels: their classes.
        row_labels: class of each row.
        own_voters: R, how many of its class each row could find.

    Returns:
        The mean over rows that could find one, its standard error, and their number.

    Raises:
        Undefined: if no class has two rows.
    """
    there = own_voters > 0
    if not bool(there.any()):
        raise Undefined("no row has another one of its class to be found")
    right = (near_labels == row_labels[:, None]) & (near_similarities > -torch.inf)
    return _mean(_average_precision(right[there], own_voters[there]))


def found_by_group(
    rows: Float[Tensor, "n d"], samples: Int64[Tensor, " n"], groups: Int64[Tensor, " n"]
) -> tuple[Bool[Tensor, "q m"], Int64[Tensor, " q"]]:
    """Which of the 10 nearest rows by cosine, of other samples, are of a row's own group, and how many there could be.

    Of rows that have a group and are not zero; the first 2,048 of them look for others among all.

    Args:
        rows: of any length.
        samples: their samples: rows of one sample don't find each other.
        groups: their groups, −1 where unknown.

    Returns:
        Fewer columns where there are fewer than 11 rows.

    Raises:
        Undefined: without two such rows.
    """
    there = (groups >= 0) & (rows != 0).any(dim=1)
    x, sample, group = rows[there], samples[there], groups[there]
    if len(x) < 2:
        raise Undefined(f"needs two rows that have a group and are not zero, got {len(x)}")
    q, k = slice(GROUP_QUERIES), min(GROUP_NEAR, len(x) - 1)
    _, near = ops.knn(x[q], x, k, exclude_self=True, query_groups=sample[q], reference_groups=sample, metric="cosine")
    own = torch.where(sample < 0, -1 - torch.arange(len(sample), device=sample.device), sample)
    _, place, count = torch.stack([group, own]).unique(dim=1, return_inverse=True, return_counts=True)
    others = torch.bincount(group)[group] - count[place]
    return (near >= 0) & (group[near.clamp(min=0)] == group[q, None]), others[q]


def group_recall_at(group_hits: tuple[Bool[Tensor, "q m"], Int64[Tensor, " q"]], *, k: int) -> Estimate:
    """Share of rows with at least one of their own group among the k nearest by cosine, in [0, 1].

    A group is what ``groups=`` says: a product, a person, a document. Rows whose group has no other sample are left
    out. Of the bank's first 2,048 rows with a group, among all of them.

    Args:
        group_hits: which of the 10 nearest rows are of a row's group, and how many there could be.
        k: neighbours that are looked at, at most 10.

    Returns:
        The share, its standard error, and the number of rows.

    Raises:
        Undefined: if there are no more than k rows, or no group has two samples.
    """
    hits, _ = _with_others(*group_hits)
    if hits.shape[1] < k:
        raise Undefined(f"{hits.shape[1]} rows can be found, fewer than {k}")
    return _mean(hits[:, :k].any(dim=1).double())


def group_map_at_10(group_hits: tuple[Bool[Tensor, "q m"], Int64[Tensor, " q"]]) -> Estimate:
    """Mean average precision of the 10 nearest by cosine, those of a row's group being right, in [0, 1].

    As ``map_at_k``, by group and of the rows of ``group_recall_at_10``.

    Args:
        group_hits: which of the 10 nearest rows are of a row's group, and how many there could be.

    Returns:
        The mean over rows, its standard error, and their number.

    Raises:
        Undefined: if no group has two samples.
    """
    return _mean(_average_precision(*_with_others(*group_hits)))


def _with_others(hits: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    if not bool((others > 0).any()):
        raise Undefined("no row has one of another sample in its group to be found")
    return hits[others > 0], others[others > 0]


def _average_precision(right: Tensor, there: Tensor) -> Tensor:
    """Of (n, k) hits, nearest first, where (n,) could be found."""
    k = right.shape[1]
    share = 1 / torch.arange(1, k + 1, device=right.device, dtype=torch.float64)
    sums = [(some.cumsum(dim=1) * some).double() @ share for some in right.split(at_once(k))]
    return torch.cat(sums) / there.clamp(max=k)


def pair_recall_at(view_rows: Float[Tensor, "s q d"], *, k: int) -> Estimate:
    """Share of samples whose second view is among the k nearest of all second views to the first one, in [0, 1].

    By cosine, and the other way round: the mean of both. Others that are exactly as near come first. Chance is k/s.

    Args:
        view_rows: rows of the samples of which all views are there.
        k: neighbours that are looked at.

    Returns:
        The share, its standard error, and the number of samples.

    Raises:
        Undefined: with one view, or no more samples than k.
    """
    one, other = _two_views(view_rows)
    if len(one) <= k:
        raise Undefined(f"{len(one)} samples with two views: more than {k} are needed")
    found = [(_nearer(*pair) < k).double() for pair in ((one, other), (other, one))]
    return _mean((found[0] + found[1]) / 2)


def pair_auroc(view_rows: Float[Tensor, "s q d"]) -> Float[Tensor, ""]:
    """Probability that the cosine of two views of a sample is larger than that of two samples, in [0, 1]; ½ is chance.

    Of the first view against the second, of up to 1,024 samples: one threshold for all of them.

    Args:
        view_rows: rows of the samples of which all views are there.

    Raises:
        Undefined: with one view, or one sample.
    """
    one, other = (t[:PAIRS] for t in _two_views(view_rows))
    if len(one) < 2:
        raise Undefined("one sample has two views: two are needed")
    cosines = one @ other.T
    own = torch.eye(len(one), dtype=torch.bool, device=one.device)
    return auroc(cosines[~own], cosines[own]).value


def pair_cosines(view_rows: Float[Tensor, "s q d"]) -> Float[Tensor, "2 64"]:
    """Shares of cosines in 64 even bins over [−1, 1]: between the two views of a sample, and of two samples.

    Of the first view against the second, of up to 1,024 samples.

    Raises:
        Undefined: with one view, or one sample.
    """
    one, other = (t[:PAIRS] for t in _two_views(view_rows))
    if len(one) < 2:
        raise Undefined("one sample has two views: two are needed")
    bins = ((one @ other.T + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    own = torch.eye(len(one), dtype=torch.bool, device=one.device)
    counts = torch.stack([torch.bincount(bins[which], minlength=BINS) for which in (own, ~own)]).double()
    return counts / counts.sum(dim=1, keepdim=True)


def pair_overlap(cosine_shares: Float[Tensor, "2 64"]) -> Float[Tensor, ""]:
    """Area that the histograms of cosines within samples and between them have in common, in [0, 1]; 0: none.

    1 where two views of a sample are no more alike than two samples: nothing was learned, or all is the same.

    Args:
        cosine_shares: what ``pair_cosines`` gives.

    Raises:
        Undefined: with one view, or one sample.
    """
    return torch.minimum(cosine_shares[0], cosine_shares[1]).sum()


def _two_views(view_rows: Tensor) -> tuple[Tensor, Tensor]:
    """The first two views, L2-normalised, of samples of which neither is zero."""
    if view_rows.shape[1] < 2 or not len(view_rows):
        raise Undefined("no sample has two views")
    rows = view_rows[:, :2].double()
    length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    rows = rows[(length > 0).all(dim=1).squeeze(1)]
    if not len(rows):
        raise Undefined("every sample has a view that is zero: no row has a direction")
    rows = rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    return rows[:, 0], rows[:, 1]


def _nearer(queries: Tensor, gallery: Tensor) -> Tensor:
    """(s,) how many others of the gallery are at least as near to a query as its own one."""
    found = []
    for start in range(0, len(queries), _BLOCK):
        cosines = queries[start : start + _BLOCK] @ gallery.T
        at = torch.arange(len(cosines), device=cosines.device)
        own = cosines[at, at + start]
        found.append((cosines >= own[:, None] - _ROUNDING).sum(dim=1) - 1)
    return torch.cat(found)


def _mean(values: Tensor) -> Estimate:
    n = len(values)
    return Estimate(values.mean(), values.std() / n**0.5 if n > 1 else None, n)
