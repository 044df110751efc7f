"""Rows of equal values, found by hashes of them."""

from __future__ import annotations

import torch

from lightning_featgeo.rows.likeness import occurrence
from lightning_featgeo.types import Tensor


def tells(hashes: Tensor) -> bool:
    """Whether equal rows say something: not where rows have few values."""
    return len(hashes.unique()) >= 0.9 * len(hashes)


def hashes(rows: Tensor) -> Tensor:
    """(n, w) -> (n,) 64-bit hashes of the rows' values; −0 is 0."""
    if rows.is_floating_point():
        kind = torch.float32 if rows.dtype != torch.float64 else torch.float64
        bits = (rows.to(kind) + 0.0).view(torch.int32 if kind == torch.float32 else torch.int64).to(torch.int64)
    else:
        bits = rows.to(torch.int64)
    factors = torch.tensor(
        [((i * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) | 1) % 2**63 for i in range(rows.shape[1])],
        device=rows.device, dtype=torch.int64,
    )  # fmt: skip
    mixed = bits * factors
    return ((mixed ^ (mixed >> 29)) * -4658895280553007687).sum(dim=1)


def look_up(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """For each of our hashes the row of theirs that is equal, the k-th to the k-th; and whether there is one."""
    ordered, place = theirs.sort(stable=True)
    low = torch.searchsorted(ordered, ours)
    many = torch.searchsorted(ordered, ours, right=True) - low
    known = many > 0
    at = low + torch.where(known, occurrence(ours) % many.clamp(min=1), 0)
    return place[at.clamp(max=len(theirs) - 1)], known
