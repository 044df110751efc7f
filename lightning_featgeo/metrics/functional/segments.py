"""Rows class by class without a loop over classes: all classes of as many rows at a time, as one batch of matrices."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lightning_featgeo.types import Int64, Tensor

_IN_CACHE = 2**18  # float64 numbers: 2 MiB
_ELEMENTS = 2**20  # of float64 numbers in a batch of matrices: 8 MiB, which is not asked of the system anew


def at_once(width: int) -> int:
    """How many rows of so many numbers are looked at together, so that a cache holds them in float64."""
    return max(1, _IN_CACHE // max(1, width))


def by_size(labels: Int64[Tensor, " n"], dim: int, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Classes (k,) that have s rows each, and which rows those are, (k, s), in their order; every class once.

    Args:
        labels: class of each row.
        dim: of a row: so many classes are handed out at a time as fit into 8 MiB.
        most: rows of a class; the first ones count. None: all.
    """
    order = labels.argsort(stable=True)
    classes, counts = torch.unique_consecutive(labels[order], return_counts=True)
    starts, sizes = counts.cumsum(dim=0) - counts, counts if most is None else counts.clamp(max=most)
    for size in sizes.unique().tolist():
        alike = (sizes == size).nonzero().squeeze(1)
        for some in alike.split(max(1, _ELEMENTS // max(1, size * dim))):
            yield classes[some], order[starts[some][:, None] + torch.arange(size, device=labels.device)]
