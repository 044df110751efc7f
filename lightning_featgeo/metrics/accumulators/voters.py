"""Every labelled row that comes votes on rows that are there already: a reference of any size, in fixed memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.cuda_ext.streaming import merged
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.types import Tensor

BLOCK_BYTES = 192 * 2**20  # of rows in float64 that are searched at once: products of small blocks are slow
TABLES = ("distances", "samples", "labels")
LAST = torch.iinfo(torch.int64).max  # in place of a sample where there is none


class VoterAccumulator(Accumulator):
    """The k nearest labelled rows of all that come, by angle, to each of the rows that are voted on.

    Args:
        queries: of each window that is compared, (n, d) the rows that are voted on, L2-normalised.
        k: how many neighbours are kept.
        num_classes: classes whose rows are counted.
        device: where the states live.

    State bytes: n·(8·d + 24·k) of all queries together, and 8·num_classes; besides, up to 96 MiB of fp32 rows wait.
    """

    distances: Tensor
    samples: Tensor
    labels: Tensor
    class_counts: Tensor
    queries: Tensor

    def __init__(self, queries: Sequence[Tensor], k: int, num_classes: int, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._lengths, self._k = [len(rows) for rows in queries], k
        self._block = max(k, BLOCK_BYTES // (8 * queries[0].shape[1]))
        n = sum(self._lengths)
        self._state("distances", torch.full((n, k), torch.inf, dtype=torch.float64))
        self._state("samples", torch.full((n, k), LAST))
        self._state("labels", torch.full((n, k), -1))
        self._state("class_counts", torch.zeros(num_classes, dtype=torch.int64))
        self._state("queries", torch.cat(list(queries)).double())
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, rows: Rows) -> None:
        """Let rows vote; those without a class or a direction don't."""
        votes = rows.keep & (rows.label >= 0) & (rows.label < len(self.class_counts)) & (rows.features != 0).any(dim=1)
        features, label = rows.features[votes], rows.label[votes]
        self.class_counts += torch.bincount(label, minlength=len(self.class_counts))
        self._waiting.append((features, rows.sample[votes], label))
        if sum(len(waits) for waits, _, _ in self._waiting) >= self._block:
            self.search()

    def search(self) -> None:
        """Search the rows that wait."""
        if not self._waiting:
            return
        features, samples, labels = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        unit = features.double()
        unit /= torch.linalg.vector_norm(unit, dim=1, keepdim=True)
        parts = max(1, len(unit) // self._block)  # of equal size: a small one costs a whole merge
        for block, sample, label in zip(unit.chunk(parts), samples.chunk(parts), labels.chunk(parts), strict=True):
            distances, places = ops.knn(self.queries, block, self._k)
            found, none = places.clamp(min=0), places < 0
            if len(block):
                self._take(distances, sample[found].masked_fill(none, LAST), label[found].masked_fill(none, -1))

    def voted_on(self, rows: Tensor) -> slice | None:
        """Where these rows are among the queries; None: they were not asked for."""
        start = 0
        for length in self._lengths:
            if length == len(rows) and torch.equal(self.queries[start : start + length], rows.double()):
                return slice(start, start + length)
            start += length
        return None

    def compute(self) -> tuple[Tensor, Tensor]:
        """(n, k) distances between unit rows, ascending, inf where there are fewer; and (n, k) classes."""
        self.search()
        return self.distances, self.labels

    def _merge(self, other: Mapping[str, Tensor]) -> None:
        self.search()
        self.class_counts += other["class_counts"]
        self._take(*(other[name] for name in TABLES))

    def _take(self, *more: Tensor) -> None:
        """Keep the k nearest of those that are there and more; ties by their samples."""
        tables = merged([getattr(self, name) for name in TABLES], more, self._k)
        for name, table in zip(TABLES, tables, strict=True):
            getattr(self, name).copy_(table)

    def _reduce(self, ranks: Ranks) -> None:
        ranks.attempt(self.search)
        ranks.sum(self.class_counts)
        every = [ranks.stack(getattr(self, name)) for name in TABLES]
        for name, empty in zip(TABLES, (torch.inf, LAST, -1), strict=True):
            getattr(self, name).fill_(empty)
        for tables in zip(*every, strict=True):
            self._take(*tables)

    def sync_bytes(self, size: int) -> int:
        """Bytes that merging holds on the way."""
        return (size + 2) * sum(8 * getattr(self, name).numel() for name in TABLES)
