"""Plain-torch reference of every compiled op: the fallback where no kernel is loaded, and the oracle of its tests.

Accuracy comes first here and speed second: products are in float64 wherever a later step subtracts or
takes a square root of what they yield. Nothing in this file draws from a random number generator, and on
an accelerator no op of a training step waits for the device (``knn`` runs once a window and may).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext.distances import frame
from lightning_featgeo.cuda_ext.proof import prove
from lightning_featgeo.cuda_ext.scan import best, candidates, kernel_sums_, prepare, scan, select_, settle
from lightning_featgeo.cuda_ext.search import knn, self_neighbors

__all__ = [
    "EMPTY_PRIORITY",
    "best",
    "candidates",
    "direction_sums_",
    "frame",
    "group_sums_",
    "hash_priority",
    "kernel_sums_",
    "knn",
    "place_",
    "prepare",
    "prove",
    "reservoir_slots",
    "scan",
    "scatter_",
    "select_",
    "self_neighbors",
    "settle",
    "unit_stats_",
]

# SplitMix64 (Steele, Lea & Flood, 2014, "Fast splittable pseudorandom number generators"), as signed int64.
_GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685
EMPTY_PRIORITY = torch.iinfo(torch.int64).max  # marks a free slot; hashes are below 2**62


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's shift of a negative int64 drags the sign bit along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hash_priority(index: Tensor, seed: int) -> Tensor:
    """Counter-based priorities: SplitMix64 of (seed, index), uniform over [0, 2**62), the same everywhere."""
    z = index.to(torch.int64) * _GOLDEN + seed
    for _ in range(2):  # a second round decorrelates neighbouring seeds
        z = (z ^ _shift_right(z, 30)) * _MIX_1
        z = (z ^ _shift_right(z, 27)) * _MIX_2
        z = z ^ _shift_right(z, 31)
    return _shift_right(z, 2)


def reservoir_slots(priorities: Tensor, new_priorities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which slots of a bottom-k reservoir take which new rows, in fixed shapes and without a device sync.

    Args: current priorities (capacity,), ``EMPTY_PRIORITY`` where free; new ones (n,), n <= capacity.
    Returns ``(slots, sources, accepted)``, each (n,): new row ``sources[i]`` goes to ``slots[i]`` where
    ``accepted[i]``. Slots are distinct. Ties keep the row that came first.
    """
    capacity, n = priorities.numel(), new_priorities.numel()
    order = torch.sort(torch.cat([priorities, new_priorities]), stable=True).indices
    keep = torch.zeros(capacity + n, dtype=torch.bool, device=priorities.device)
    keep[order[:capacity]] = True
    keep[capacity:] &= new_priorities != EMPTY_PRIORITY
    sources = torch.sort(~keep[capacity:], stable=True).indices
    accepted = keep[capacity:][sources]
    # Slots to give up, the largest priorities first: exactly as many as there are accepted rows are needed.
    slots = torch.sort(priorities, stable=True, descending=True).indices[:n]
    return slots, sources, accepted


def place_(state: Tensor, fresh: Tensor, slots: Tensor, sources: Tensor, accepted: Tensor) -> None:
    """Put the rows of one column where :func:`reservoir_slots` says, without a device sync."""
    taken = accepted.reshape(-1, *[1] * (state.ndim - 1))
    rows = torch.where(taken, fresh.index_select(0, sources).to(state.dtype), state[slots])
    state.index_copy_(0, slots, rows)


def scatter_(
    rows: Tensor,
    groups: Tensor,
    shift: Tensor,
    counts: Tensor,
    sums: Tensor,
    squares: Tensor,
    scatter: Tensor | None,
    labelled_groups: int,
) -> None:
    """Add rows to shifted first and second moments, per group; the shift is each group's first-seen mean."""
    centred = torch.ops.lightning_featgeo.group_sums_(
        rows, groups, shift, counts, sums, squares, scatter, labelled_groups
    )
    if scatter is not None:
        scatter[0].addmm_(centred.T, centred)


def group_sums_(
    rows: Tensor,
    groups: Tensor,
    shift: Tensor,
    counts: Tensor,
    sums: Tensor,
    squares: Tensor,
    scatter: Tensor | None,
    labelled_groups: int,
) -> Tensor:
    """All of :func:`scatter_` but the product for the first bucket.

    Returns:
        (n, d) the rows about their groups' shifts, float64, zero where they are not of the first bucket; (0, d) where
        no scatter is kept.
    """
    keep = groups >= 0
    index = groups.clamp(min=0)
    added = torch.zeros_like(counts).index_add_(0, index, keep.to(counts.dtype))
    unseen = (counts == 0) & (added > 0)
    on_cpu = rows.device.type == "cpu"
    if not on_cpu or bool(unseen.any()):
        wide = torch.where(keep[:, None], rows.double(), 0.0)
        first = torch.zeros_like(sums).index_add_(0, index, wide) / added.clamp(min=1)[:, None]
        shift.copy_(torch.where(unseen[:, None], first.to(shift.dtype), shift))

    # The difference of two fp32 numbers is exact in float64 unless one is more than 2**28 times the other.
    centred = torch.where(keep[:, None], rows.double() - shift.double()[index], 0.0)
    counts.add_(added)
    sums.index_add_(0, index, centred)
    squares.index_add_(0, index, centred.square().sum(dim=1))
    if scatter is None:
        return centred[:0]
    if scatter.shape[0] == 1:
        return centred
    unlabelled = index >= labelled_groups
    if on_cpu and not bool((unlabelled & keep).any()):
        return centred
    other = torch.where(unlabelled[:, None], centred, 0.0)
    scatter[1].addmm_(other.T, other)
    return centred.masked_fill_(unlabelled[:, None], 0.0)


def direction_sums_(rows: Tensor, keep: Tensor, count: Tensor, sums: Tensor, squares: Tensor) -> None:
    """Add L2-normalised rows to per-dimension sums. Zero rows have no direction: they add nothing."""
    wide = torch.where(keep[:, None], rows.double(), 0.0)
    norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    unit = torch.where(norm > 0, wide / norm, 0.0)
    count.add_(torch.stack([keep.sum(), (norm.squeeze(1) > 0).sum()]).to(count.dtype))
    sums.add_(unit.sum(dim=0))
    squares.add_(unit.square().sum(dim=0))


def unit_stats_(
    rows: Tensor, keep: Tensor, active: Tensor, minimum: Tensor | None = None, maximum: Tensor | None = None
) -> None:
    """Add rows to per-unit activity (how often above zero) and, where both are given, to minima and maxima."""
    active.add_(((rows > 0) & keep[:, None]).sum(dim=0).to(active.dtype))
    if minimum is None or maximum is None or rows.shape[0] == 0:
        return
    wide = rows.to(minimum.dtype)
    minimum.copy_(torch.minimum(minimum, torch.where(keep[:, None], wide, torch.inf).amin(dim=0)))
    maximum.copy_(torch.maximum(maximum, torch.where(keep[:, None], wide, -torch.inf).amax(dim=0)))
