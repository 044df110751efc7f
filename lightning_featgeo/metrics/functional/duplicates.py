"""Near-duplicates: rows of two samples that are the same up to rounding, such as one input computed in two batches.

Dimensions read ratios of distances, which grow without bound as two rows come together: 100 pairs 1e-7 apart, among
3,000 Gaussian rows of 768 dimensions, bring ``id_gride_1`` from 158 to 0.9. So they count as exact duplicates do.
"""

from __future__ import annotations

import math

import torch

from lightning_featgeo.metrics.functional.ranks import lower_median
from lightning_featgeo.types import Bool, Float, Tensor

NEAR = 1e-3  # of the distance to the k-th neighbour, at most
BY_CHANCE = 0.01  # neighbours, in all rows together, that may be as near in data without near-duplicates


def near_duplicates(distances: Float[Tensor, "n k"]) -> Bool[Tensor, "n k"]:
    """Which neighbours are so near that the data's dimension can't be why; those at distance zero are not among them.

    They are nearer than t·r_k, where r_k is the row's farthest neighbour in the table. Of the m = n·(k−1) nearer ones,
    m·t^d are that near by chance in d dimensions: t = min(10⁻³, (0.01/m)^(1/d)) keeps these below 0.01, so that a
    curve without near-duplicates stays as it is. d need only be roughly right, and a few copies must not move it: in d
    dimensions j·ln(r_{j+1}/r_j) is exponential with mean 1/d for each j (Rényi's spacings), so d = ln 2 / its median,
    and at least 1.

    Where a row has more of them than neighbours, r_k is no measure: all its k neighbours are near-duplicates if r_k is
    below t times the median r_k of all rows.

    Args:
        distances: to the nearest neighbours, ascending; inf where there is none.
    """
    r = distances.double()
    far = torch.where(r.isfinite(), r, 0.0).amax(dim=1, keepdim=True) if r.shape[1] else r.new_zeros(len(r), 1)
    if r.shape[1] < 2 or not bool((far > 0).any()):
        return torch.zeros_like(r, dtype=torch.bool)
    usual = lower_median(far[far > 0])

    def nearer_than(t: float) -> Tensor:
        return (r > 0) & ((r < t * far) | (far < t * usual))

    if not bool(nearer_than(NEAR).any()):
        return torch.zeros_like(r, dtype=torch.bool)
    place = torch.arange(1, r.shape[1], device=r.device)
    spacings = (place * (r[:, 1:] / r[:, :-1]).log())[(r[:, :-1] > 0) & r[:, 1:].isfinite()]
    middle = float(lower_median(spacings)) if spacings.numel() else 0.0
    d = max(1.0, math.log(2) / middle) if middle > 0 else math.inf
    return nearer_than(min(NEAR, (BY_CHANCE / (r.shape[0] * (r.shape[1] - 1))) ** (1 / d)))


def apart(distances: Float[Tensor, "n k"]) -> Bool[Tensor, "n k"]:
    """Which neighbours are neither duplicates nor near-duplicates of their row."""
    return (distances > 0) & ~near_duplicates(distances)
