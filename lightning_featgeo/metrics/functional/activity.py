"""Unit signals: which units still fire, and how many rows there were.

Voita, Ferrando & Nalmpantis (2023), "Neurons in Large Language Models: Dead, N-gram, Positional" (arXiv 2309.04827).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Tensor


def dead_fraction(row_count: int, unit_active: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Share of units that were above zero on no row of the window, in [0, 1].

    Made for features behind a ReLU-like activation. For signed features a unit that is always negative counts as
    dead as well, although a linear head still reads it.

    Raises:
        Undefined: without rows.
    """
    if row_count < 1:
        raise Undefined("no rows")
    return (unit_active == 0).double().mean()


def firing_rate(row_count: int, unit_active: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Mean over units of the share of rows on which the unit was above zero, in [0, 1]: read it with ``dead_fraction``.

    Raises:
        Undefined: without rows.
    """
    if row_count < 1:
        raise Undefined("no rows")
    return unit_active.double().mean() / row_count


def outlier_dims(mean: Float[Tensor, " d"], variances: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Largest root mean square of any dimension divided by that of all, in [1, √d]: 1 if all are even, √d if one
    dimension carries all.

    A few dimensions of very large magnitude are usual in language models; see Kovaleva et al. (2021), "BERT Busters:
    Outlier Dimensions that Disrupt Transformers" (arXiv 2105.06990).

    Raises:
        Undefined: if every row is zero.
    """
    power = variances + mean.square()
    if not power.sum() > 0:
        raise Undefined("every row is zero")
    return (power.max() / power.mean()).sqrt()


def n_samples(sample_count: int) -> Float[Tensor, ""]:
    """Finite rows of the window, labelled or not: what every other value rests on. Always defined."""
    return torch.tensor(float(sample_count), dtype=torch.float64)
