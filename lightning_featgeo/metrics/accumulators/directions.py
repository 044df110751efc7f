"""Streaming sums of L2-normalised rows: what ``feature_std`` and ``mean_resultant`` read.

Raw float64 sums suffice: a normalised coordinate is at most 1, so a spread of 1e-7 is still resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.types import Float, Tensor


@dataclass(frozen=True)
class Directions:
    """Frozen result: rows, rows that are not zero, and sums of x/‖x‖ and its square per dimension (zero rows add 0)."""

    count: int
    nonzero: int
    sums: Float[Tensor, " d"]
    squares: Float[Tensor, " d"]


class DirectionAccumulator(Accumulator):
    """Sums of normalised rows. State bytes: 16·d + 16."""

    count: Tensor
    sums: Tensor
    squares: Tensor

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._state("count", torch.zeros(2, dtype=torch.float64))
        self._state("sums", torch.zeros(dim, dtype=torch.float64))
        self._state("squares", torch.zeros(dim, dtype=torch.float64))

    def update(self, rows: Rows) -> None:
        """Add rows."""
        ops.direction_sums_(rows.features, rows.keep, self.count, self.sums, self.squares)

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        for name in ("count", "sums", "squares"):
            getattr(self, name).add_(other[name])

    def _reduce(self, ranks: Ranks) -> None:
        for state in (self.count, self.sums, self.squares):
            ranks.sum(state)

    def compute(self) -> Directions:
        """The sums so far."""
        count, nonzero = (int(v) for v in self.count.tolist())
        return Directions(count, nonzero, self.sums.clone(), self.squares.clone())
