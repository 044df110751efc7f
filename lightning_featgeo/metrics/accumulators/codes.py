"""Streaming counts of what rows choose: the largest of a row's entries is its code, prototype or expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.types import Float, Int64, Tensor


@dataclass(frozen=True)
class Codes:
    """Frozen result.

    ``counts``: rows that choose each entry. ``entropy``: Σ over these rows of the entropy of their softmax, in nats.
    """

    counts: Int64[Tensor, " d"]
    entropy: Float[Tensor, ""]


class CodeAccumulator(Accumulator):
    """Counts of the largest entry, the first of several. A row whose entries are all equal chooses none.

    Args:
        dim: entries a row, d.
        device: where the states live.

    State bytes: 8·d + 8.
    """

    counts: Tensor
    entropy: Tensor

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._state("counts", torch.zeros(dim, dtype=torch.int64))
        self._state("entropy", torch.zeros((), dtype=torch.float64))

    def update(self, rows: Rows) -> None:
        """Add rows."""
        x, d = rows.features, len(self.counts)
        largest = x.amax(dim=1, keepdim=True)
        is_largest = x == largest
        chooses = rows.keep & ~is_largest.all(dim=1)
        place = torch.arange(d, device=x.device, dtype=torch.int32)
        first = torch.where(is_largest, place, d - 1).amin(dim=1)  # argmax promises no order among equal ones
        self.counts.index_add_(0, first, chooses.to(self.counts.dtype))  # bincount would wait for a GPU
        below = (x.double() - largest).clamp_(min=-1000)  # of which exp is 0, as of −inf
        weights = below.exp()
        mass = weights.sum(dim=1)
        entropy = mass.log() - weights.mul_(below).sum(dim=1) / mass
        self.entropy += torch.where(chooses, entropy, 0.0).sum()

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        self.counts += other["counts"]
        self.entropy += other["entropy"]

    def _reduce(self, ranks: Ranks) -> None:
        ranks.sum(self.counts)
        ranks.sum(self.entropy)

    def compute(self) -> Codes:
        """The counts so far."""
        return Codes(self.counts.clone(), self.entropy.clone())
