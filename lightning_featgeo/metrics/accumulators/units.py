"""Streaming per-unit statistics: how often each unit was above zero, and its range."""

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
class Units:
    """Frozen result. ``active``: rows in which the unit was > 0. Range of a unit never seen: inf, -inf."""

    count: int
    active: Float[Tensor, " d"]
    minimum: Float[Tensor, " d"]
    maximum: Float[Tensor, " d"]


class UnitAccumulator(Accumulator):
    """Activity and range per unit. State bytes: 24·d + 8."""

    count: Tensor
    active: Tensor
    minimum: Tensor
    maximum: Tensor

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._state("count", torch.zeros((), dtype=torch.float64))
        self._state("active", torch.zeros(dim, dtype=torch.float64))
        self._state("minimum", torch.full((dim,), torch.inf, dtype=torch.float64))
        self._state("maximum", torch.full((dim,), -torch.inf, dtype=torch.float64))

    def update(self, rows: Rows) -> None:
        """Add rows."""
        self.count += rows.keep.sum()
        ops.unit_stats_(rows.features, rows.keep, self.active, self.minimum, self.maximum)

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        self.count += other["count"]
        self.active += other["active"]
        self.minimum.copy_(torch.minimum(self.minimum, other["minimum"]))
        self.maximum.copy_(torch.maximum(self.maximum, other["maximum"]))

    def _reduce(self, ranks: Ranks) -> None:
        ranks.sum(self.count)
        ranks.sum(self.active)
        ranks.minimum(self.minimum)
        ranks.maximum(self.maximum)

    def compute(self) -> Units:
        """The statistics so far."""
        return Units(int(self.count), self.active.clone(), self.minimum.clone(), self.maximum.clone())
