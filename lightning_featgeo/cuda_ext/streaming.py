"""Nearest neighbours among more rows than are at hand at once: block after block, merged into the best k so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_featgeo.cuda_ext.distances import squares_to
from lightning_featgeo.cuda_ext.ops import knn
from lightning_featgeo.types import Float, Int64, Tensor


class StreamingNeighbors:
    """The exact k nearest neighbours of fixed queries among blocks of reference rows that come one after another.

    For banks larger than the device, shards that other processes hold, and queues. However the rows are cut into
    blocks, and in whatever order the blocks come, the result is that of one search among all rows.

    Args:
        queries: (n, d) rows to search for.
        k: how many neighbours, at least 1.
        query_groups: (n,) group of each query; reference rows of the same non-negative group are never neighbours.

    Example:
        >>> import torch
        >>> bank, queries = torch.arange(100.0)[:, None], torch.tensor([[3.2], [70.9]])
        >>> neighbors = StreamingNeighbors(queries, k=2)
        >>> for first in range(0, 100, 32):
        ...     neighbors.add(bank[first : first + 32], first)
        >>> neighbors.indices.tolist()
        [[3, 4], [71, 70]]
    """

    distances: Float[Tensor, "n k"]
    indices: Int64[Tensor, "n k"]

    def __init__(self, queries: Tensor, k: int, query_groups: Tensor | None = None) -> None:
        if k < 1:
            raise ValueError(f"StreamingNeighbors: k must be at least 1, got {k}")
        self.queries, self.k, self.query_groups = queries, k, query_groups
        self.distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
        self.indices = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)

    def add(self, block: Tensor, first_index: int | Tensor, groups: Tensor | None = None) -> None:
        """Search one block too.

        Args:
            block: (m, d) reference rows; moved to the queries' device.
            first_index: number of its first row, or (m,) the number of each. Numbers must be unique over all blocks.
            groups: (m,) group of each row, where the queries have groups.

        Raises:
            ValueError: if groups are given for the queries only, or for the block only; if there are not as many
                numbers as rows.
        """
        if (groups is None) != (self.query_groups is None):
            raise ValueError("StreamingNeighbors: give groups for the queries and for every block, or for neither")
        device = self.queries.device
        numbers = first_index
        if not isinstance(numbers, Tensor):
            numbers = torch.arange(numbers, numbers + len(block), device=device)
        if numbers.shape != (len(block),):
            raise ValueError(f"StreamingNeighbors: {len(block)} rows, but numbers of shape {tuple(numbers.shape)}")
        block = block.to(device)
        _, where = knn(
            self.queries,
            block,
            self.k,
            query_groups=self.query_groups,
            reference_groups=groups if groups is None else groups.to(device),
        )
        found = squares_to(self.queries, block, where).sqrt()  # in one way, so that ties between blocks are ties
        named = torch.where(where >= 0, numbers.to(device)[where.clamp(min=0)] if len(block) else where, -1)
        last = torch.iinfo(torch.int64).max
        mine, others = (torch.where(table < 0, last, table) for table in (self.indices, named))
        self.distances, indices = merged((self.distances, mine), (found, others), self.k)
        self.indices = torch.where(indices == last, -1, indices)


def merged(some: Sequence[Tensor], others: Sequence[Tensor], k: int) -> list[Tensor]:
    """The k nearest of two tables of neighbours, ties in the order of their numbers.

    Args:
        some: (n, a) distances, (n, a) numbers, and what else is kept of each neighbour.
        others: the same of others, (n, b).
        k: how many of them stay.
    """
    tables = [torch.cat(pair, dim=1) for pair in zip(some, others, strict=True)]
    for by in (1, 0):  # by distance last: sorts are stable
        order = tables[by].sort(dim=1, stable=True).indices
        tables = [table.gather(1, order) for table in tables]
    return [table[:, :k] for table in tables]
