"""Verification: two rows are of one class if they are near enough, by one threshold for all classes.

The operating-point inconsistency score is that of arXiv 2307.04047.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.outliers import auroc
from lightning_featgeo.types import Float, Int64, Tensor

PAIRS = 1024  # rows whose cosines to each other are sorted
THRESHOLDS = 101
_ROUNDED = 1e-9  # of a distance: rounding keeps no pair out
FALSE_ACCEPTS = (0.01, 0.1)  # shares between which thresholds are looked at


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
    thresholds = thresholds * (1 + _ROUNDED)  # the first and the last one may be some pair's own distance
    place = torch.searchsorted(thresholds, distances)  # of the first threshold that accepts
    shares = []
    for kind, count in zip(kinds, pairs, strict=True):
        cell = (y[:, None] * (THRESHOLDS + 1) + place)[kind]
        accepted = torch.bincount(cell, minlength=classes * (THRESHOLDS + 1)).reshape(classes, -1).cumsum(dim=1)
        shares.append(accepted[there, :THRESHOLDS].double() / count[there, None])
    kept, rejected = shares[0], 1 - shares[1]
    utility = 2 * kept * rejected / (kept + rejected).clamp(min=1e-300)
    return utility.var(dim=0, correction=0).mean()


def _thinned(values: Tensor, most: int = 2**24) -> Tensor:
    """Every so many of them, as quantiles take no more."""
    return values[:: -(-len(values) // most)]
