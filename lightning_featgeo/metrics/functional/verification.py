"""Verification: two rows are of one class if they are near enough, by one threshold for all classes.

The operating-point inconsistency score is that of arXiv 2307.04047.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.outliers import auroc
from lightning_featgeo.types import Float, Int64, Tensor

PAIRS = 1024  # rows whose cosines to each other are sorted
THRESHOLDS = 101
_ROUNDED = 1e-9  # of a distance: rounding keeps no pair out
FALSE_ACCEPTS = (0.01, 0.1)  # shares between which thresholds are looked at


class Pairs(NamedTuple):
    """Cosines of the pairs of two samples among m rows, each pair once, and the classes of their rows."""

    within: Float[Tensor, " p"]
    within_class: Int64[Tensor, " p"]
    between: Float[Tensor, " q"]
    first_class: Int64[Tensor, " q"]
    second_class: Int64[Tensor, " q"]


def pairs_of(unit: Float[Tensor, "m d"], labels: Int64[Tensor, " m"], samples: Int64[Tensor, " m"]) -> Pairs:
    """Of L2-normalised rows. Rows of one sample are no pair."""
    cosines = unit @ unit.T
    pair, same = (samples[:, None] != samples).triu(1), labels[:, None] == labels
    (i, j), (a, b) = (torch.nonzero(kind, as_tuple=True) for kind in (pair & same, pair & ~same))
    return Pairs(cosines[i, j], labels[i], cosines[a, b], labels[a], labels[b])


def verification_auroc(verification_pairs: Pairs) -> Float[Tensor, ""]:
    """Probability that the cosine of two rows of one class is larger than that of two classes, in [0, 1]; ½ is chance.

    As in verification, one threshold for all classes. Of the bank's first 1,024 labelled rows.

    Raises:
        Undefined: without pairs of both kinds.
    """
    within, between = verification_pairs.within, verification_pairs.between
    if not (len(within) and len(between)):
        raise Undefined("needs two classes, one of them with two rows")
    return auroc(between, within).value


def opis(verification_pairs: Pairs) -> Float[Tensor, ""]:
    """Variance over classes of how well one distance threshold tells them, in [0, 1]; 0: the same for every class.

    Operating-point inconsistency score: mean over classes and thresholds t of (U_c(t) − mean_c U_c(t))², where U_c is
    the harmonic mean of the shares of pairs within class c at a distance ≤ t and of pairs with one row in c that are
    further apart. 101 even thresholds, from a false accept rate of 1 % of all pairs of two classes to 10 %. Of the
    bank's first 1,024 labelled rows, scaled to length 1.

    Raises:
        Undefined: without two classes that have two rows each.
    """
    within, between = (
        (2 - 2 * cosines).clamp_(min=0).sqrt_() for cosines in (verification_pairs.within, verification_pairs.between)
    )
    own, ends = verification_pairs.within_class, (verification_pairs.first_class, verification_pairs.second_class)
    classes = 1 + max(int(c.max()) if len(c) else -1 for c in (own, *ends))
    pairs = [torch.bincount(torch.cat(of), minlength=classes) for of in ((own,), ends)]
    there = (pairs[0] > 0) & (pairs[1] > 0)
    if int(there.sum()) < 2:
        raise Undefined("needs two classes with two rows each")
    low, high = _lowest_quantiles(between, FALSE_ACCEPTS)
    thresholds = torch.linspace(low, high, THRESHOLDS, dtype=between.dtype, device=between.device)
    thresholds = thresholds * (1 + _ROUNDED)  # the first and the last one may be some pair's own distance
    cells = THRESHOLDS + 1
    shares = []
    for distances, of, count in ((within, (own,), pairs[0]), (between, ends, pairs[1])):
        at = torch.searchsorted(thresholds, distances)  # the first threshold that accepts the pair
        found = torch.bincount(torch.cat([end * cells + at for end in of]), minlength=classes * cells)
        accepted = found.reshape(classes, cells).cumsum(dim=1)
        shares.append(accepted[there, :THRESHOLDS].double() / count[there, None])
    kept, rejected = shares[0], 1 - shares[1]
    utility = 2 * kept * rejected / (kept + rejected).clamp(min=1e-300)
    return utility.var(dim=0, correction=0).mean()


def _lowest_quantiles(pairs: Float[Tensor, " p"], shares: Sequence[float]) -> list[float]:
    """Of distances of which each stands for two, (i, j) and (j, i): as ``torch.quantile`` of all of them."""
    most = 2 * len(pairs) - 1
    lowest = pairs.topk(min(len(pairs), int(shares[-1] * most) // 2 + 2), largest=False).values
    found = []
    for share in shares:
        below = int(share * most)
        low, high = (float(lowest[min(at, most) // 2]) for at in (below, below + 1))
        found.append(low + (share * most - below) * (high - low))
    return found
