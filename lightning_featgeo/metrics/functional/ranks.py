"""What the order of values tells: the one in the middle, and Spearman's correlation of two orders."""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Tensor


def lower_median(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The largest of the lower half: ``torch.median``, which is no deterministic operation on a GPU."""
    return _lowest(values, (len(values) - 1) // 2 + 1).max()


def median(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Of an even number of values, the mean of the two in the middle."""
    middle = _lowest(values, len(values) // 2 + 1).topk(2 - len(values) % 2).values
    return (middle[0] + middle[-1]) / 2


def _lowest(values: Tensor, count: int) -> Tensor:
    """In no order: a fraction of a sort's time."""
    return values.topk(count, largest=False, sorted=False).values


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
