"""Spread of L2-normalised features: whether they still point in different directions at all.

These see a total collapse (one point plus noise), which a centred rank does not: centring removes the point and leaves
the noise, whose rank is high.
"""

from __future__ import annotations

import math

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Int64, Tensor


def feature_std(
    row_count: int, direction_sums: Float[Tensor, " d"], direction_squares: Float[Tensor, " d"]
) -> Float[Tensor, ""]:
    """Mean over dimensions of the standard deviation of L2-normalised features, times √d.

    1 for features spread over the sphere, 0 for a constant: the monitor of Chen & He (2021), "Exploring Simple
    Siamese Representation Learning" (arXiv 2011.10566), scaled by √d. Zero rows stay zero, as in
    ``torch.nn.functional.normalize``; the standard deviation is the sample one (n−1).

    Args:
        row_count: n, zero rows included.
        direction_sums: Σ x/‖x‖ per dimension.
        direction_squares: Σ (x/‖x‖)² per dimension.

    Raises:
        Undefined: with fewer than two rows.
    """
    if row_count < 2:
        raise Undefined(f"a standard deviation needs at least 2 rows, got {row_count}")
    mean = direction_sums / row_count
    variance = (direction_squares - row_count * mean.square()).clamp(min=0) / (row_count - 1)
    return variance.sqrt().mean() * math.sqrt(direction_sums.numel())


def tolerance(unit_labelled_rows: Float[Tensor, "n d"], row_labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Tolerance: mean cosine over all pairs of rows of the same class, in [−1, 1]. High tolerance conflicts with high
    uniformity.

    Source: Wang & Liu (2021), "Understanding the Behaviour of Contrastive Loss" (arXiv 2012.09740).

    Args:
        unit_labelled_rows: L2-normalised.
        row_labels: their classes.

    Raises:
        Undefined: if no class has two rows.
    """
    classes, place = row_labels.unique(return_inverse=True)  # only those that are there: of 100,000, few
    sums = unit_labelled_rows.new_zeros(len(classes), unit_labelled_rows.shape[1])
    sums.index_add_(0, place, unit_labelled_rows)
    counts = torch.bincount(place, minlength=len(classes)).to(sums.dtype)
    pairs = (counts * (counts - 1)).sum()
    if not pairs > 0:
        raise Undefined("no class has two labelled rows with a direction")
    return (sums.square().sum() - counts.sum()) / pairs


def mean_resultant(nonzero_count: int, direction_sums: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """‖mean of L2-normalised features‖², in [0, 1]: 0 spread in all directions, 1 one direction.

    Source: the mean resultant length, squared, of directional statistics (Mardia & Jupp, 2000). Zero rows have no
    direction and don't count. A random spread reads about 1/n.

    Raises:
        Undefined: if every row is zero.
    """
    if nonzero_count < 1:
        raise Undefined("every row is zero: no row has a direction")
    return (direction_sums / nonzero_count).square().sum()
