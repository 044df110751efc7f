"""Spearman's correlation: what two orders have in common."""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Tensor


def spearman(x: Float[Tensor, " n"], y: Float[Tensor, " n"], all_alike: str) -> Float[Tensor, ""]:
    """Correlation of the ranks of x with those of y, in [−1, 1].

    Raises:
        Undefined: with this reason, if all of the one, or of the other, are alike.
    """
    x, y = _ranks(x), _ranks(y)
    x, y = x - x.mean(), y - y.mean()
    scale = (x.square().sum() * y.square().sum()).sqrt()
    if not scale > 0:
        raise Undefined(all_alike)
    return (x @ y / scale).clamp(-1, 1)


def _ranks(values: Tensor) -> Tensor:
    """Equal values have the mean of their ranks."""
    ordered = values.sort().values
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)).double() / 2
