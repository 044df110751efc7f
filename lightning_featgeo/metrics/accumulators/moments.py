"""Streaming moments: count, mean and scatter, per class in the same pass when labels are given.

Each class g keeps a fixed fp32 shift s_g (its first-seen mean). From S = Σ(x−s)(x−s)ᵀ and T_g = Σ(x−s_g),
with δ_g = T_g/n_g: mean μ_g = s_g + δ_g; within-class scatter W = S − Σ n_g δ_g δ_gᵀ; total = W + between.
Differences and products are in float64 and the differences are small, so features far from the origin (mean 1000)
lose nothing; a sum of products of raw features, or of fp32 batch means, would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.types import Float, Int64, Tensor

GROUPS_AT_ONCE = 2**20  # numbers of group means: 8 MiB
SYNC_BLOCK_BYTES = 4 * 2**20  # of group means that ranks agree on at a time


@dataclass(frozen=True)
class Moments:
    """Frozen result. Scatters are sums over rows, not averages; everything float64."""

    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, "e e"]  # (0, 0) where no scatter was kept


@dataclass(frozen=True)
class ClassMoments:
    """Frozen result over the labelled rows. ``variances``: mean squared distance to the class mean (trace)."""

    counts: Int64[Tensor, " c"]
    means: Float[Tensor, "c d"]
    variances: Float[Tensor, " c"]
    within: Float[Tensor, "e e"]  # (0, 0) where no scatter was kept


class MomentsAccumulator(Accumulator):
    """Count, mean and scatter of all rows; per class and within classes if ``num_classes`` > 0.

    Args:
        dim: feature dimension d.
        num_classes: C; 0 keeps no class statistics. Unlabelled rows then or otherwise count in totals only.
        keep_scatter: also keep d×d second moments; without them class means and variances are all there is.
        device: where the states live.

    State bytes: with G = C+1 groups, G·(12·d + 16) + B·8·d², B = 2 if C > 0 else 1 (0 without scatter).
    """

    shift: Tensor
    counts: Tensor
    sums: Tensor
    squares: Tensor
    scatter: Tensor

    def __init__(
        self,
        dim: int,
        num_classes: int = 0,
        keep_scatter: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device)
        self.dim, self.num_classes = dim, num_classes
        groups, buckets = num_classes + 1, (2 if num_classes else 1) if keep_scatter else 0
        self._state("shift", torch.zeros(groups, dim, dtype=torch.float32))
        self._state("counts", torch.zeros(groups, dtype=torch.float64))
        self._state("sums", torch.zeros(groups, dim, dtype=torch.float64))
        self._state("squares", torch.zeros(groups, dtype=torch.float64))
        self._state("scatter", torch.zeros(buckets, dim, dim, dtype=torch.float64))

    def update(self, rows: Rows) -> None:
        """Add rows; labels outside [0, C) count as unlabelled."""
        unlabelled = (rows.label < 0) | (rows.label >= self.num_classes)
        groups = torch.where(unlabelled, self.num_classes, rows.label)
        groups = torch.where(rows.keep, groups, -1)
        ops.scatter_(
            rows.features,
            groups,
            self.shift,
            self.counts,
            self.sums,
            self.squares,
            self.scatter if len(self.scatter) else None,
            self.num_classes,
        )

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        # Re-express the other's sums about our shift; where we saw nothing, its shift becomes ours.
        adopt = (self.counts == 0) & (other["counts"] > 0)
        self.shift.copy_(torch.where(adopt[:, None], other["shift"], self.shift))
        delta = other["shift"].double() - self.shift.double()
        n, sums = other["counts"], other["sums"]
        for bucket, members in enumerate(self._buckets()):
            t, by = sums[members], delta[members]
            cross = t.T @ by
            self.scatter[bucket] += other["scatter"][bucket] + cross + cross.T + by.T @ (n[members][:, None] * by)
        self.counts += n
        self.sums += sums + n[:, None] * delta
        self.squares += other["squares"] + 2 * (sums * delta).sum(dim=1) + n * delta.square().sum(dim=1)

    def _reduce(self, ranks: Ranks) -> None:
        # Shifts differ between ranks: agree on their average, which is near all of them, and re-express before summing.
        own = self.counts.clone()
        ranks.sum(self.counts)
        rows = max(1, SYNC_BLOCK_BYTES // (8 * self.dim))
        buckets = self._buckets() or [slice(0, len(own))]
        for bucket, members in enumerate(buckets):
            for start in range(members.start, members.stop, rows):
                part = slice(start, min(start + rows, members.stop))
                weighted = ranks.attempt(partial(self._weighted_shift, part, own))
                ranks.sum(weighted)
                scatter = self.scatter[bucket] if len(self.scatter) else None
                ranks.attempt(partial(self._move_shift, part, own, weighted, scatter))
        for state in (self.sums, self.squares, self.scatter):
            ranks.sum(state)

    def _weighted_shift(self, part: slice, own: Tensor) -> Tensor:
        return own[part, None] * self.shift[part].double()

    def _move_shift(self, part: slice, own: Tensor, weighted: Tensor, scatter: Tensor | None) -> None:
        common = (weighted / self.counts[part].clamp(min=1)[:, None]).to(self.shift.dtype)
        delta, n, sums = self.shift[part].double() - common.double(), own[part], self.sums[part]
        moved = n[:, None] * delta
        if scatter is not None:
            half = sums + moved / 2
            scatter.addmm_(half.T, delta).addmm_(delta.T, half)
        self.squares[part] += 2 * (sums * delta).sum(dim=1) + n * delta.square().sum(dim=1)
        self.sums[part] += moved
        self.shift[part] = common

    def sync_bytes(self, size: int) -> int:
        """Peak extra bytes while ranks merge: blocks of group means, whatever C and d."""
        return 16 * max(SYNC_BLOCK_BYTES, 8 * self.dim)

    def _buckets(self) -> list[slice]:
        """Which groups each scatter bucket pools: labelled, unlabelled; or all."""
        c = self.num_classes
        members = [slice(0, c), slice(c, c + 1)] if c else [slice(0, 1)]
        return members[: len(self.scatter)]

    def _blocks(self, members: slice) -> Iterator[slice]:
        """Groups, so many at a time as take a few MiB: all means of 100,000 classes take as much as the state."""
        size = max(1, GROUPS_AT_ONCE // self.dim)
        for start in range(members.start, members.stop, size):
            yield slice(start, min(start + size, members.stop))

    def _within(self, buckets: int) -> Tensor:
        """Scatter about the means of the groups in the first so many buckets."""
        members = slice(self._buckets()[0].start, self._buckets()[buckets - 1].stop)
        scatter = self.scatter[0].clone()
        for other in self.scatter[1:buckets]:
            scatter += other
        for part in self._blocks(members):
            delta = self._delta(part)
            scatter.addmm_(delta.T, self.counts[part][:, None] * delta, alpha=-1)
        return scatter

    def _delta(self, part: slice | Tensor) -> Tensor:
        """From the shift of these groups to their means."""
        return self.sums[part] / self.counts[part].clamp(min=1)[:, None]

    def _means(self, part: slice | Tensor) -> Tensor:
        return self.shift[part].double() + self._delta(part)

    def compute(self, within: Tensor | None = None) -> Moments:
        """Moments of all rows, labelled or not.

        Args:
            within: what ``compute_classes`` gave, if it is there: it needs no second pass over the classes.
        """
        n, groups = self.counts.sum(), slice(0, len(self.counts))
        # about an actual mean, not the origin: the weighted average of nearby numbers
        origin = self._means(self.counts.argmax()[None])[0]
        mean = origin.clone()
        for part in self._blocks(groups):
            mean += (self.counts[part][:, None] * (self._means(part) - origin)).sum(dim=0) / n.clamp(min=1)
        if not len(self.scatter):
            return Moments(int(n), mean, self.scatter.new_zeros(0, 0))
        if within is None or not self.num_classes:
            total = self._within(len(self.scatter))
        else:
            delta = self._delta(slice(self.num_classes, self.num_classes + 1))
            total = within + self.scatter[1]
            total.addmm_(delta.T, self.counts[self.num_classes :, None] * delta, alpha=-1)
        for part in self._blocks(groups):
            away = self._means(part) - mean
            total.addmm_(away.T, self.counts[part][:, None] * away)
        return Moments(int(n), mean, symmetrized_(total))

    def class_counts(self) -> Int64[Tensor, " c"]:
        """Rows of each class."""
        return self.counts[: self.num_classes].to(torch.int64)

    def compute_classes(self, chosen: Int64[Tensor, " k"] | None = None) -> ClassMoments:
        """Class moments of the labelled rows.

        Args:
            chosen: indices of the classes that are wanted; None: all. The within-class scatter is always that of all.

        Raises:
            ValueError: if the accumulator was built without classes.
        """
        if not self.num_classes:
            raise ValueError("no class statistics were kept: build the accumulator with num_classes > 0")
        wanted: slice | Tensor = slice(0, self.num_classes) if chosen is None else chosen.to(self.counts.device)
        n, delta = self.counts[wanted], self._delta(wanted)
        variances = (self.squares[wanted] / n.clamp(min=1) - delta.square().sum(dim=1)).clamp(min=0)
        within = symmetrized_(self._within(1)) if len(self.scatter) else self.scatter.new_zeros(0, 0)
        return ClassMoments(n.to(torch.int64), self._means(wanted), variances, within)


def symmetrized_(a: Tensor, block: int = 1024) -> Tensor:
    """(A + Aᵀ)/2 in place, block by block: what rounding made uneven, without a second matrix of that size."""
    for i in range(0, len(a), block):
        for j in range(i, len(a), block):
            upper, lower = a[i : i + block, j : j + block], a[j : j + block, i : i + block]
            mean = (upper + lower.T) / 2
            upper.copy_(mean)
            lower.copy_(mean.T)
    return a
