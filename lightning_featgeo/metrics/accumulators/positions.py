"""Streaming sums of tokens by their position in the sequence, and of sequences as wholes.

What two-way analysis of variance takes apart (position, context, the rest), how alike the tokens of one sequence are,
and which units fire by position. A sequence's tokens come in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.types import Float, Int64, Tensor

EXACT = 128  # positions with a bin of their own; later ones share it, 16 bins an octave
BINS = 256
CONTEXTS = 256  # sequences whose means are kept
_NOBODY = 2**62  # above every priority


@dataclass(frozen=True)
class Positions:
    """Frozen result; everything float64.

    ``counts``: tokens in each bin of positions; ``means``: theirs, about that of all tokens (0 where there is none);
    ``active``: how many had a unit above zero. ``power``: Σ‖x‖² of all tokens, ``spread``: Σ‖x − μ‖², and of that
    ``context_spread``: Σ n_c‖m_c − μ‖² of sequences with n_c tokens of mean m_c. ``placed``: tokens whose sequence is
    known. ``similarity``: Σ over ``sequences`` (with two tokens that are not zero, and more) of the mean cosine of two
    tokens. ``contexts``: m_c − μ of some of the sequences, the same ones on any number of processes.
    """

    counts: Float[Tensor, " b"]
    means: Float[Tensor, "b d"]
    active: Float[Tensor, "b d"]
    power: Float[Tensor, ""]
    spread: Float[Tensor, ""]
    context_spread: Float[Tensor, ""]
    placed: Float[Tensor, ""]
    similarity: Float[Tensor, ""]
    sequences: Float[Tensor, ""]
    contexts: Float[Tensor, "m d"]


def bin_of(position: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """In [0, 256): the position itself below 128, then sixteen bins for each doubling; from 32,768 on the last one."""
    p = position.clamp(min=1)
    mantissa, exponent = torch.frexp(p.double())  # p = mantissa · 2^exponent, mantissa in [0.5, 1)
    later = EXACT + 16 * (exponent.long() - 8) + ((mantissa - 0.5) * 32).long()
    return torch.where(position < EXACT, position.clamp(min=0), later.clamp(max=BINS - 1))


class PositionAccumulator(Accumulator):
    """Sums by position, and of sequences.

    Args:
        dim: feature dimension d.
        seed: of the hash that draws the sequences whose means are kept.
        device: where the states live.

    State bytes: 256·(20·d + 16) + 4·d + 40. Differences are to a fixed origin, the mean of the first tokens: features
    far from zero lose nothing.
    """

    shift: Tensor
    counts: Tensor
    sums: Tensor
    active: Tensor
    totals: Tensor
    contexts: Tensor
    priorities: Tensor

    def __init__(self, dim: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.seed = seed
        self._state("shift", torch.zeros(dim, dtype=torch.float32))
        self._state("counts", torch.zeros(BINS, dtype=torch.float64))
        self._state("sums", torch.zeros(BINS, dim, dtype=torch.float64))
        self._state("active", torch.zeros(BINS, dim, dtype=torch.float64))
        self._state("totals", torch.zeros(5, dtype=torch.float64))
        self._state("contexts", torch.zeros(CONTEXTS, dim, dtype=torch.float32))
        self._state("priorities", torch.full((CONTEXTS,), _NOBODY, dtype=torch.int64))

    def update(self, rows: Rows) -> None:
        """Add tokens; those of a sample that nobody can tell count by position only."""
        here = rows.keep.double()
        x = torch.where(rows.keep[:, None], rows.features, 0).double()
        first = x.sum(dim=0) / here.sum().clamp(min=1)
        self.shift.copy_(torch.where(self.counts.sum() > 0, self.shift, first.float()))
        away = (x - self.shift.double()) * here[:, None]
        places = bin_of(rows.position)
        self.counts.index_add_(0, places, here)
        self.sums.index_add_(0, places, away)
        self.active.index_add_(0, places, (x > 0).double())
        self.totals[0] += away.square().sum()
        place = _numbered(rows.sample)
        known = here * (rows.sample >= 0)
        self._add_contexts(away, known, place, rows.sample)
        self._add_likeness(x, known, place)

    def _add_contexts(self, away: Tensor, known: Tensor, place: Tensor, sample: Tensor) -> None:
        n = len(away)  # as many sequences as there can be: nothing waits for their number
        tokens = known.new_zeros(n).index_add_(0, place, known)
        means = away.new_zeros(n, away.shape[1]).index_add_(0, place, away * known[:, None])
        means /= tokens.clamp(min=1)[:, None]
        self.totals[1] += (tokens[:, None] * means.square()).sum()
        self.totals[2] += tokens.sum()
        samples = torch.zeros_like(sample).index_copy_(0, place, sample)
        drawn = torch.where(tokens > 0, ops.hash_priority(samples, self.seed), _NOBODY)
        self._keep((means + self.shift).float(), drawn)

    def _add_likeness(self, x: Tensor, known: Tensor, place: Tensor) -> None:
        n = len(x)
        length = torch.linalg.vector_norm(x, dim=1)
        directions = x / torch.where(length > 0, length, 1.0)[:, None]
        pointed = known * (length > 0)
        count = pointed.new_zeros(n).index_add_(0, place, pointed)
        together = x.new_zeros(n, x.shape[1]).index_add_(0, place, directions * pointed[:, None]).square().sum(dim=1)
        alike = (together - count) / (count * (count - 1)).clamp(min=1)
        self.totals[3] += torch.where(count > 1, alike, 0.0).sum()
        self.totals[4] += (count > 1).sum()

    def _keep(self, means: Tensor, priorities: Tensor) -> None:
        """Of the sequences that are kept and these, those of the smallest priorities."""
        every, found = torch.cat([self.contexts, means]), torch.cat([self.priorities, priorities])
        chosen = found.argsort(stable=True)[:CONTEXTS]
        self.contexts.copy_(every[chosen])
        self.priorities.copy_(found[chosen])

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        adopt = (self.counts.sum() == 0) & (other["counts"].sum() > 0)
        self.shift.copy_(torch.where(adopt, other["shift"], self.shift))
        theirs = {name: other[name].clone() for name in ("counts", "sums", "totals")}
        _move(theirs["counts"], theirs["sums"], theirs["totals"], other["shift"].double() - self.shift.double())
        self.active += other["active"]
        for name, state in theirs.items():
            getattr(self, name).add_(state)
        self._keep(other["contexts"], other["priorities"])

    def _reduce(self, ranks: Ranks) -> None:
        own = self.counts.sum()
        weighted = torch.cat([own * self.shift.double(), own[None]])
        ranks.sum(weighted)
        common = (weighted[:-1] / weighted[-1].clamp(min=1)).float()
        _move(self.counts, self.sums, self.totals, self.shift.double() - common.double())
        self.shift.copy_(common)
        for state in (self.counts, self.sums, self.active, self.totals):
            ranks.sum(state)
        every = ranks.stack(self.priorities).flatten()  # rank after rank
        best = every.argsort(stable=True)[:CONTEXTS]
        mine = (best // CONTEXTS == ranks.rank).nonzero().squeeze(1)
        kept = self.contexts[best[mine] % CONTEXTS]
        self.contexts.zero_()
        self.contexts[mine] = kept
        ranks.sum(self.contexts)  # each is of one rank, and zero on the others: nothing is rounded
        self.priorities.copy_(every[best])

    def sync_bytes(self, size: int) -> int:
        """Priorities of all ranks, and a copy of the means."""
        return 24 * size * CONTEXTS + 4 * self.contexts.numel()

    def compute(self) -> Positions:
        """The sums so far."""
        squares, of_contexts, placed, similarity, sequences = self.totals.clone()
        n, origin = self.counts.sum(), self.shift.double()
        mean = self.sums.sum(dim=0) / n.clamp(min=1)
        means = torch.where(self.counts[:, None] > 0, self.sums / self.counts.clamp(min=1)[:, None] - mean, 0.0)
        offset = n * mean.square().sum()
        power = squares + n * (2 * (mean @ origin) + origin.square().sum())
        contexts = self.contexts[self.priorities < _NOBODY].double() - (origin + mean)
        return Positions(
            self.counts.clone(), means, self.active.clone(), power, squares - offset, of_contexts - offset, placed,
            similarity, sequences, contexts,
        )  # fmt: skip


def _numbered(sample: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The number of each row's sample among those of the batch, by a sort: nothing waits for how many there are."""
    order = sample.argsort(stable=True)
    ordered = sample[order]
    begins = torch.ones_like(sample)
    begins[1:] = ordered[1:] != ordered[:-1]
    return torch.zeros_like(sample).index_copy_(0, order, begins.cumsum(0) - 1)


def _move(counts: Tensor, sums: Tensor, totals: Tensor, delta: Tensor) -> None:
    """Sums about one origin as sums about another, in place; ``delta``: from the new origin to the old one."""
    along = 2 * (sums.sum(dim=0) @ delta)
    totals[0] += along + counts.sum() * delta.square().sum()
    totals[1] += along + totals[2] * delta.square().sum()  # where every token has its sequence
    sums += counts[:, None] * delta
