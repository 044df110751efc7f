"""Streaming per-unit statistics: how often each unit was above zero and, on request, its smallest and largest value."""

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
    """Frozen result over ``count`` rows.

    ``active``: rows in which the unit was > 0. ``minimum`` and ``maximum``: None unless they were asked for; over no
    rows inf and -inf.
    """

    count: int
    active: Float[Tensor, " d"]
    minimum: Float[Tensor, " d"] | None = None
    maximum: Float[Tensor, " d"] | None = None


class UnitAccumulator(Accumulator):
    """Activity per unit and, with ``extremes``, its smallest and largest value.

    Args:
        dim: feature dimension d.
        device: where the states live.
        extremes: also keep minimum and maximum.

    State bytes: 8·d + 8; with extremes 24·d + 8.
    """

    count: Tensor
    active: Tensor
    minimum: Tensor
    maximum: Tensor

    def __init__(self, dim: int, device: torch.device | str = "cpu", extremes: bool = False) -> None:
        super().__init__(device)
        self.extremes = extremes
        self._state("count", torch.zeros((), dtype=torch.float64))
        self._state("active", torch.zeros(dim, dtype=torch.float64))
        if extremes:
            self._state("minimum", torch.full((dim,), torch.inf, dtype=torch.float64))
            self._state("maximum", torch.full((dim,), -torch.inf, dtype=torch.float64))

    def update(self, rows: Rows) -> None:
        """Add rows."""
        self.count += rows.keep.sum()
        wanted = (self.minimum, self.maximum) if self.extremes else ()
        ops.unit_stats_(rows.features, rows.keep, self.active, *wanted)

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        self.count += other["count"]
        self.active += other["active"]
        if self.extremes:
            self.minimum.copy_(torch.minimum(self.minimum, other["minimum"]))
            self.maximum.copy_(torch.maximum(self.maximum, other["maximum"]))

    def _reduce(self, ranks: Ranks) -> None:
        ranks.sum(self.count)
        ranks.sum(self.active)
        if self.extremes:
            ranks.minimum(self.minimum)
            ranks.maximum(self.maximum)

    def compute(self) -> Units:
        """The statistics so far."""
        if not self.extremes:
            return Units(int(self.count), self.active.clone())
        return Units(int(self.count), self.active.clone(), self.minimum.clone(), self.maximum.clone())
