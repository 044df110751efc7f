"""Retrieval: whether what belongs together is found first, by class among labelled rows, or by pair between two views.

By class as in metric learning (Musgrave, Belongie & Lim 2020, "A Metric Learning Reality Check", arXiv 2003.08505); by
pair as between the two towers of CLIP (Radford et al. 2021, arXiv 2103.00020).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.outliers import auroc
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Int64, Tensor

PAIRS = 1024  # rows whose cosines to each other are sorted
BINS = 64  # of histograms of cosines, over [−1, 1]
THRESHOLDS = 101
FALSE_ACCEPTS = (0.01, 0.1)  # shares between which thresholds are looked at
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
    hits = (near_labels == row_labels[:, None]) & near_similarities.isfinite()
    return _mean(hits[there, :k].any(dim=1).double())


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
    right = ((near_labels == row_labels[:, None]) & near_similarities.isfinite())[there].double()
    k = right.shape[1]
    rank = torch.arange(1, k + 1, device=right.device, dtype=right.dtype)
    precision = right.long().cumsum(dim=1) / rank
    return _mean((precision * right).sum(dim=1) / own_voters[there].clamp(max=k))


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


def verification_auroc(
    unit_labelled_rows: Float[Tensor, "n d"], row_labels: Int64[Tensor, " n"], row_samples: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Probability that the cosine of two rows of one class is larger than that of two classes, in [0, 1]; ½ is chance.

    As in verification, one threshold for all classes. Of the bank's first 1,024 labelled rows.

    Args:
        unit_labelled_rows: labelled rows, L2-normalised.
        row_labels: their classes.
        row_samples: their samples: rows of one sample are no pair.

    Raises:
        Undefined: without pairs of both kinds.
    """
    x, y, sample = (t[:PAIRS] for t in (unit_labelled_rows, row_labels, row_samples))
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    apart = sample[first] != sample[second]
    first, second = first[apart], second[apart]
    same = y[first] == y[second]
    if not bool(same.any()) or bool(same.all()):
        raise Undefined("needs two classes, one of them with two rows")
    cosines = (x @ x.T)[first, second]
    return auroc(cosines[~same], cosines[same]).value


def opis(
    unit_labelled_rows: Float[Tensor, "n d"], row_labels: Int64[Tensor, " n"], row_samples: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Variance over classes of how well one distance threshold tells them, in [0, 1]; 0: the same for every class.

    Operating-point inconsistency score: mean over classes and thresholds t of (U_c(t) − mean_c U_c(t))², where U_c is
    the harmonic mean of the shares of pairs within class c at a distance ≤ t and of pairs with one row in c that are
    further apart. 101 even thresholds, from a false accept rate of 1 % of all pairs of two classes to 10 %. Of the
    bank's first 1,024 labelled rows, scaled to length 1.

    Args:
        unit_labelled_rows: labelled rows, L2-normalised.
        row_labels: their classes.
        row_samples: their samples: rows of one sample are no pair.

    Raises:
        Undefined: without two classes that have two rows each.
    """
    x, y, sample = (t[:PAIRS] for t in (unit_labelled_rows, row_labels, row_samples))
    apart, same = sample[:, None] != sample[None], y[:, None] == y[None]
    distances = (2 - 2 * (x @ x.T)).clamp(min=0).sqrt()
    kinds = apart & same, apart & ~same
    classes = int(y.max()) + 1 if len(y) else 0
    pairs = [torch.zeros(classes, dtype=torch.int64, device=x.device).index_add_(0, y, k.sum(dim=1)) for k in kinds]
    there = (pairs[0] > 0) & (pairs[1] > 0)
    if int(there.sum()) < 2:
        raise Undefined("needs two classes with two rows each")
    ends = torch.tensor(FALSE_ACCEPTS, dtype=x.dtype, device=x.device)
    low, high = torch.quantile(_thinned(distances[kinds[1]]), ends).tolist()
    thresholds = torch.linspace(low, high, THRESHOLDS, dtype=x.dtype, device=x.device)
    place = torch.searchsorted(thresholds, distances)  # of the first threshold that accepts
    shares = []
    for kind, count in zip(kinds, pairs, strict=True):
        cell = (y[:, None] * (THRESHOLDS + 1) + place)[kind]
        accepted = torch.bincount(cell, minlength=classes * (THRESHOLDS + 1)).reshape(classes, -1).cumsum(dim=1)
        shares.append(accepted[there, :THRESHOLDS].double() / count[there, None])
    kept, rejected = shares[0], 1 - shares[1]
    utility = 2 * kept * rejected / (kept + rejected).clamp(min=1e-300)
    return utility.var(dim=0, correction=0).mean()


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


def _thinned(values: Tensor, most: int = 2**24) -> Tensor:
    """Every so many of them, as quantiles take no more."""
    return values[:: -(-len(values) // most)]


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
