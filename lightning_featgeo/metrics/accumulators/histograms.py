"""Streaming histograms of every unit, in bins that are the same for all windows, stages, processes and runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.types import Float, Int64, Tensor

SIDE = 32  # bins on either side of zero
BINS = 2 * SIDE
_SMALLEST = 2.0**-8  # below it there is one bin on each side; above, two an octave, the last from 128 on
_BELOW = (127 - 8) * 2 - 1  # twice the exponent of 2⁻⁸ and the first bit of its mantissa, as float32 has them, less one
_BLOCK = 2**17  # values at a time


def edges() -> Float[Tensor, " b1"]:
    """(63,) ascending: bin i holds what is at least edge i − 1 and below edge i; below zero the other way round."""
    steps = [2.0 ** (i // 2) * (1.5 if i % 2 else 1.0) * _SMALLEST for i in range(SIDE - 1)]
    return torch.tensor([-x for x in reversed(steps)] + [0.0] + steps, dtype=torch.float64)


def bin_of(values: Tensor) -> Int64[Tensor, ...]:
    """In [0, 64), by the leading bits of the numbers themselves: the same on every device."""
    bits = values.float().contiguous().view(torch.int32)
    away = (bits & 0x7FFFFFFF).bitwise_right_shift_(22).sub_(_BELOW).clamp_(0, SIDE - 1)
    away ^= bits >> 31  # of negative ones, −0.0 the largest, −1 − away
    return away.add_(SIDE).long()


@dataclass(frozen=True)
class Histograms:
    """Frozen result, float64. ``counts`` of values and their ``sums`` by unit and bin; ``squares``: Σx² of each."""

    counts: Float[Tensor, "d b"]
    sums: Float[Tensor, "d b"]
    squares: Float[Tensor, " d"]

    def stacked(self) -> Float[Tensor, "d c"]:
        """All in one table, to keep."""
        return torch.cat([self.counts, self.sums, self.squares[:, None]], dim=1)

    @classmethod
    def of(cls, stacked: Float[Tensor, "d c"]) -> Histograms:
        """What :meth:`stacked` made."""
        return cls(stacked[:, :BINS], stacked[:, BINS : 2 * BINS], stacked[:, 2 * BINS])


class HistogramAccumulator(Accumulator):
    """A histogram a unit, with the sum of what is in each bin.

    Args:
        dim: feature dimension d.
        device: where the states live.

    State bytes: 1,032·d.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._state("counts", torch.zeros(dim, BINS, dtype=torch.float64))
        self._state("sums", torch.zeros(dim, BINS, dtype=torch.float64))
        self._state("squares", torch.zeros(dim, dtype=torch.float64))

    def update(self, rows: Rows) -> None:
        """Add rows."""
        n, dim = rows.features.shape
        units = torch.arange(dim, device=self.device) * BINS
        for start in range(0, n, max(1, _BLOCK // max(1, dim))):
            part = slice(start, start + max(1, _BLOCK // max(1, dim)))
            keep = rows.keep[part]
            x = torch.where(keep[:, None], rows.features[part], 0)
            place = (bin_of(x) + units).flatten()
            values = x.double()
            here = keep.double()[:, None].expand(-1, dim).reshape(-1)
            self.counts.view(-1).index_add_(0, place, here)
            self.sums.view(-1).index_add_(0, place, values.flatten())
            self.squares += values.square_().sum(dim=0)

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        for name in ("counts", "sums", "squares"):
            getattr(self, name).add_(other[name])

    def _reduce(self, ranks: Ranks) -> None:
        for state in (self.counts, self.sums, self.squares):
            ranks.sum(state)

    def compute(self) -> Histograms:
        """The histograms so far."""
        return Histograms(self.counts.clone(), self.sums.clone(), self.squares.clone())
