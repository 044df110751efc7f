"""Reservoir banks: uniform samples of fixed size, mergeable: of rows with their labels, and of samples with all views.

Bottom-k sampling: a row's priority is a counter-based hash of (seed, sample index, position) and the smallest
priorities stay. The same samples are kept whatever the order, batch size or number of shards, and no random
number generator is touched.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.cuda_ext.reference import EMPTY_PRIORITY
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.rows.draw import priorities
from lightning_featgeo.rows.rows import UNLABELLED, Rows
from lightning_featgeo.types import Bool, Float, Int64, Tensor


def picked(rows: Tensor, which: Bool[Tensor, " n"]) -> Tensor:
    """Some of the rows; where it is all of them, themselves: there may be little room."""
    return rows if bool(which.all()) else rows[which]


@dataclass(frozen=True)
class Bank:
    """Frozen result: the kept rows in order of priority, so that arrival order leaves no trace."""

    rows: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    samples: Int64[Tensor, " n"]
    groups: Int64[Tensor, " n"]
    targets: Float[Tensor, "n t"]

    @cached_property
    def has_direction(self) -> Bool[Tensor, " n"]:
        """Rows that are not zero."""
        least, largest = self.rows.aminmax(dim=1)
        return (least < 0) | (largest > 0)

    @property
    def can_vote(self) -> Bool[Tensor, " n"]:
        """Those of them that have a label."""
        return self.has_direction & (self.labels >= 0)

    def unit(self, which: Bool[Tensor, " n"]) -> Float[Tensor, "m d"]:
        """Some of the rows, L2-normalised in float64."""
        rows = picked(self.rows, which).to(torch.float64, copy=True)
        rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # in place: there may be little room
        return rows


class Reservoir(Accumulator):
    """The rows with the smallest priorities, and whatever columns belong to them.

    Args:
        dim: feature dimension d.
        capacity: rows kept.
        seed: of the hash; the same seed keeps the same samples.
        dtype: of the kept rows, float32 or float64.
        device: where the rows live.
    """

    priorities: Tensor
    rows: Tensor
    least = 1  # rows that a capacity must hold

    def __init__(
        self,
        dim: int,
        capacity: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device)
        if capacity < self.least:
            raise ValueError(f"bank capacity must be at least {self.least} rows, got {capacity}")
        self.capacity, self.seed = capacity, seed
        self._state("priorities", torch.full((capacity,), EMPTY_PRIORITY))
        self._state("rows", torch.zeros(capacity, dim, dtype=dtype))

    def _offer_rows(self, rows: Rows, columns: Mapping[str, Tensor]) -> None:
        """Offer rows by the hash of their sample and their place in it, which is the same in every view."""
        drawn = priorities(rows.sample, rows.position, self.seed)
        offered = torch.where(rows.keep, drawn, EMPTY_PRIORITY)  # those that don't count have none
        self._merge({"priorities": offered, "rows": rows.features, **columns})

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        """Let new rows take the places of those with larger priorities, in every column."""
        states, offered = self.tensors(), other["priorities"]
        for start in range(0, offered.shape[0], self.capacity):
            part = slice(start, start + self.capacity)
            slots, sources, accepted = ops.reservoir_slots(self.priorities, offered[part])
            is_free = offered.device.type == "cpu"  # to ask for a number: after the first thousands few rows are taken
            if is_free:  # those that are come first
                taken = int(accepted.sum())
                slots, sources = slots[:taken], sources[:taken]
            for name, state in states.items():
                if is_free:
                    state.index_copy_(0, slots, other[name][part].index_select(0, sources).to(state.dtype))
                else:
                    ops.place_(state, other[name][part], slots, sources, accepted)

    def _reduce(self, ranks: Ranks) -> None:
        # Only priorities are gathered. From them every rank knows which rows survive, and where each of its own goes.
        order = self._order(self._second)
        keys = self.priorities.new_full((2, self.capacity), EMPTY_PRIORITY)
        keys[0, : len(order)], keys[1, : len(order)] = self.priorities[order], self._second[order]
        priorities, seconds = ranks.stack(keys).transpose(0, 1).flatten(1)  # rank after rank
        best = torch.sort(seconds, stable=True).indices
        best = best[torch.sort(priorities[best], stable=True).indices][: self.capacity]
        best = best[priorities[best] != EMPTY_PRIORITY]
        mine = (best // self.capacity == ranks.rank).nonzero().squeeze(1)
        source = order[best[mine] % self.capacity]
        survivors = priorities[best]
        kept = ranks.attempt(lambda: {name: state[source] for name, state in self.tensors().items()})
        for name, state in self.tensors().items():
            state.zero_()
            state[mine] = kept.pop(name)
            ranks.sum(state)  # every row is of one rank, and zero on the others: nothing is rounded
        self.priorities.fill_(EMPTY_PRIORITY)
        self.priorities[: len(survivors)] = survivors

    @property
    @abstractmethod
    def _second(self) -> Tensor:
        """What orders rows of equal priority."""

    def sync_bytes(self, size: int) -> int:
        """Peak extra bytes while ranks merge: this rank's survivors, and everybody's priorities."""
        return self.memory_bytes + 40 * size * self.capacity

    def _order(self, second: Tensor) -> Int64[Tensor, " n"]:
        """Taken slots by priority, and by a second column where priorities are equal: arrival leaves no trace."""
        order = torch.sort(second, stable=True).indices
        order = order[torch.sort(self.priorities[order], stable=True).indices]
        return order[: int((self.priorities != EMPTY_PRIORITY).sum())]


class BankAccumulator(Reservoir):
    """Uniform sample of at most ``capacity`` rows.

    Args:
        dim, capacity, seed, dtype, device: see :class:`Reservoir`.
        target_dim, target_dtype: t and type of the regression targets kept with each row.

    State bytes: capacity·(d·itemsize + 32 + t·itemsize of the targets).
    """

    labels: Tensor
    samples: Tensor
    groups: Tensor
    targets: Tensor
    parts_repeats = False  # whether rows of one sample and place are others of the same name: then nobody's

    def __init__(
        self,
        dim: int,
        capacity: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        target_dim: int = 0,
        target_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(dim, capacity, seed, dtype, device)
        self._state("labels", torch.full((capacity,), UNLABELLED))
        self._state("samples", torch.full((capacity,), -1))
        self._state("groups", torch.full((capacity,), UNLABELLED))
        self._state("targets", torch.zeros(capacity, target_dim, dtype=target_dtype))

    def update(self, rows: Rows) -> None:
        """Offer rows to the sample."""
        t = self.targets.shape[1]
        target = rows.target if rows.target.shape[1] == t else self.targets.new_full((len(rows), t), torch.nan)
        columns = {"labels": rows.label, "samples": rows.sample, "groups": rows.group, "targets": target}
        self._offer_rows(rows, columns)

    @property
    def _second(self) -> Tensor:
        return self.samples

    def compute(self) -> Bank:
        """The sample so far."""
        order = self._order(self.samples)
        samples = self.samples[order]
        if self.parts_repeats:
            priorities, again = self.priorities[order], torch.zeros_like(samples, dtype=torch.bool)
            again[1:] = (samples[1:] == samples[:-1]) & (priorities[1:] == priorities[:-1]) & (samples[1:] >= 0)
            nobodys = -1 - torch.arange(len(samples), device=samples.device) - 2**62
            samples = torch.where(again, nobodys, samples)
        return Bank(self.rows[order], self.labels[order], samples, self.groups[order], self.targets[order])


class ViewBankAccumulator(Reservoir):
    """Uniform sample of samples with all their views: rows of one sample share a priority, so they stay together.

    Args: those of :class:`Reservoir`. State bytes: capacity·(d·itemsize + 16).
    """

    views: Tensor
    least = 2

    def __init__(
        self,
        dim: int,
        capacity: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(dim, capacity, seed, dtype, device)
        self._state("views", torch.full((capacity,), -1))

    def update(self, rows: Rows) -> None:
        """Offer rows to the sample."""
        self._offer_rows(rows, {"views": rows.view})

    @property
    def _second(self) -> Tensor:
        return self.views

    def compute(self) -> Float[Tensor, "s q d"]:
        """The rows of the samples that have q views, view by view; q is the number that most samples have.

        A view that came again counts once. A full bank may hold part of the sample at its cutoff: that one has fewer
        views than others, and is left out whatever part it is.
        """
        order = self._order(self.views)
        sample, view = self.priorities[order], self.views[order]
        new = torch.ones_like(sample, dtype=torch.bool)
        new[1:] = (sample[1:] != sample[:-1]) | (view[1:] != view[:-1])
        order = order[new]
        _, counts = torch.unique_consecutive(self.priorities[order], return_counts=True)
        if counts.numel() == 0:
            return self.rows.new_zeros(0, 0, self.rows.shape[1])
        q = int(torch.bincount(counts).flip(0).argmax().neg() + counts.max())  # of equally common ones the largest
        complete = torch.repeat_interleave(counts == q, counts)
        return self.rows[order][complete].reshape(-1, q, self.rows.shape[1])
