"""Reservoir bank: a uniform sample of rows of fixed size, with labels and sample indices, mergeable.

Bottom-k sampling: a row's priority is a counter-based hash of (seed, sample index, position) and the smallest
priorities stay. The same samples are kept whatever the order, batch size or number of shards, and no random
number generator is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.cuda_ext.reference import EMPTY_PRIORITY
from lightning_featgeo.metrics.accumulator import Accumulator
from lightning_featgeo.metrics.rows import UNLABELLED, Rows
from lightning_featgeo.types import Float, Int64, Tensor

_POSITIONS = 2**24  # rows a sample can have before two of them share a priority


@dataclass(frozen=True)
class Bank:
    """Frozen result: the kept rows in order of priority, so that arrival order leaves no trace."""

    rows: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    samples: Int64[Tensor, " n"]


class BankAccumulator(Accumulator):
    """Uniform sample of at most ``capacity`` rows.

    Args:
        dim: feature dimension d.
        capacity: rows kept.
        seed: of the hash; the same seed keeps the same samples.
        dtype: of the kept rows, float32 or float64.
        device: where the rows live.

    State bytes: capacity·(d·itemsize + 24).
    """

    priorities: Tensor
    rows: Tensor
    labels: Tensor
    samples: Tensor

    def __init__(
        self,
        dim: int,
        capacity: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device)
        if capacity < 1:
            raise ValueError(f"bank capacity must be at least 1 row, got {capacity}")
        self.capacity, self.seed = capacity, seed
        self._state("priorities", torch.full((capacity,), EMPTY_PRIORITY))
        self._state("rows", torch.zeros(capacity, dim, dtype=dtype))
        self._state("labels", torch.full((capacity,), UNLABELLED))
        self._state("samples", torch.full((capacity,), -1))

    def update(self, rows: Rows) -> None:
        """Offer rows to the sample."""
        priorities = ops.hash_priority(rows.sample * _POSITIONS + rows.position, self.seed)
        priorities = torch.where(rows.keep, priorities, EMPTY_PRIORITY)
        self._offer(priorities, rows.features, rows.label, rows.sample)

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        self._offer(other["priorities"], other["rows"], other["labels"], other["samples"])

    def _offer(self, priorities: Tensor, rows: Tensor, labels: Tensor, samples: Tensor) -> None:
        for start in range(0, rows.shape[0], self.capacity):
            part = slice(start, start + self.capacity)
            slots, sources, accepted = ops.reservoir_slots(self.priorities, priorities[part])
            columns = (self.priorities, priorities), (self.labels, labels), (self.samples, samples)
            for state, new in columns:
                state[slots] = torch.where(accepted, new[part][sources], state[slots])
            fresh = rows[part][sources].to(self.rows.dtype)
            self.rows[slots] = torch.where(accepted[:, None], fresh, self.rows[slots])

    def compute(self) -> Bank:
        """The sample so far."""
        order = torch.sort(self.samples, stable=True).indices
        order = order[torch.sort(self.priorities[order], stable=True).indices]
        order = order[: int((self.priorities != EMPTY_PRIORITY).sum())]
        return Bank(self.rows[order], self.labels[order], self.samples[order])
