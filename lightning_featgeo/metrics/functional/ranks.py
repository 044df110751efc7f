"""What the order of values tells: the one in the middle, and Spearman's correlation of two orders."""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Int32, Int64, Tensor


def lower_median(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The largest of the lower half: ``torch.median``, which is no deterministic operation on a GPU."""
    return _lowest(values, (len(values) - 1) // 2 + 1).max()


def median(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Of an even number of values, the mean of the two in the middle."""
    middle = _lowest(values, len(values) // 2 + 1).topk(2 - len(values) % 2).values
    return (middle[0] + middle[-1]) / 2


def sort_keys(values: Float[Tensor, ...]) -> Int32[Tensor, ...] | Int64[Tensor, ...]:
    """Integers in the order of numbers that are no NaN, equal where those are.

    A CPU sorts them two to ten times as fast as the numbers.
    """
    integer, places = (torch.int32, 31) if values.dtype == torch.float32 else (torch.int64, 63)
    values = values if values.dtype in (torch.float32, torch.float64) else values.double()
    bits = (values + 0.0).contiguous().view(integer)  # −0.0 is 0.0
    return bits ^ ((bits >> places) & torch.iinfo(integer).max)


def ascending(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Sorted, in float64."""
    keys = sort_keys(values.double()).sort().values
    return (keys ^ ((keys >> 63) & torch.iinfo(torch.int64).max)).view(torch.float64)


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
    ordered = ascending(values)
    values = values.double()
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)).double() / 2
