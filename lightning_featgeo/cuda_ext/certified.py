"""Exact neighbours from certified scans: cheap products first, and again for the rows they could not settle.

Every table is the exact one, whatever the precision of the products it came from: a scan says of each row whether its
neighbours are certain (:mod:`~lightning_featgeo.cuda_ext.scan`), and rows that are not go on to the next rung: bf16
where the hardware has such products, then fp32, then float64 (a sample of rows says where to begin), and at last the
search by subtraction (:mod:`~lightning_featgeo.cuda_ext.search`), which also untangles copies.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import ops, scan, search
from lightning_featgeo.cuda_ext.scan import BF16, F32, F64
from lightning_featgeo.distributed.ranks import Ranks

_CENTRE_FROM = 512  # rows that fix the centre; any centre near the rows will do
_AMONG = 4096  # rows among which a sample of queries is searched
_EXPONENTS = 500  # of two: squares of smaller differences leave float64
_SAMPLE = 64  # rows that decide which precision to begin with
_WORTH_A_SAMPLE = 2**32  # products of single numbers
_WIDE_KERNEL = 4.0  # of kernels between unit rows: up to this scale fp32 products do
_PAYS = 0.6  # share of certain rows from which on a scan is worth its time

_RUNGS = ("bf16", "fp32", "float64", "subtraction")

bf16_devices: set[str] = set()  # device types whose bf16 products are fast
settled: Counter[str] = Counter()  # rows by the rung that settled them, since the process began


def knn(
    queries: Tensor,
    reference: Tensor,
    k: int,
    query_groups: Tensor | None,
    reference_groups: Tensor | None,
    exclude_self: bool,
    kernel_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`lightning_featgeo.cuda_ext.ops.knn_with_kernel`."""
    n, m = queries.shape[0], reference.shape[0]
    ids = _ids(n, m, query_groups, reference_groups, exclude_self, queries.device)
    if ids is None or n == 0 or m == 0 or queries.shape[1] == 0:
        return search.knn(queries, reference, k, query_groups, reference_groups, exclude_self, kernel_scale)
    query_ids, reference_ids = ids
    # among themselves only if rows that are the same are also barred in the same way: ids say who may meet whom
    among = queries is reference and torch.equal(query_ids, reference_ids)
    wide = torch.float64 in (queries.dtype, reference.dtype)
    q, b = _plain(queries, wide), None if among else _plain(reference, wide)
    distances, indices, sums, _ = _ladder(q, b, query_ids, None if among else reference_ids, k, True, kernel_scale)
    if kernel_scale > 0:
        return distances, indices, sums, m - _how_often(query_ids, reference_ids)
    return distances, indices, sums, torch.zeros(n, dtype=torch.int64, device=queries.device)


def self_neighbors(
    rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`lightning_featgeo.cuda_ext.ops.self_neighbors`."""
    return shared_self_neighbors(Ranks.alone(), rows, k, groups, voters, vote_k, kernel_scale)


def shared_self_neighbors(
    ranks: Ranks, rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """:func:`self_neighbors` with the work divided: every rank has the same rows, and rank 0 gets the tables.

    Args:
        ranks: the processes that take part. On those but rank 0 the tables hold parts of the truth: throw them away.
        rows, k, groups, voters, vote_k, kernel_scale: as for the op.

    Raises:
        RankFailure: if this fails on any of them.
    """
    n, device = rows.shape[0], rows.device
    distances, indices = search.empty_table(n, k, device)
    chords, voted = search.empty_table(n, vote_k, device)
    sums, squares = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    ids = _ids(n, n, groups, groups, True, device)
    if ids is None or n == 0 or rows.shape[1] == 0:
        return search.self_neighbors(rows, k, groups, voters, vote_k, kernel_scale)
    ranks.attempt(lambda: search.finite_range(rows))
    own = ids[0]
    if k:
        plain = _plain(rows, rows.dtype == torch.float64)
        distances, indices, _, _ = _ladder(plain, None, own, None, k, True, 0.0, ranks)
    if not vote_k and kernel_scale <= 0:
        return distances, indices, chords, voted, sums, squares, counts
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    directed = length.squeeze(1) > 0
    voters = voters & directed
    together = bool(vote_k) and kernel_scale > 0 and torch.equal(voters, directed)

    def by_angle(some: Tensor, k: int, kernel_scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        unit = ranks.attempt(lambda: rows[some].double() / length[some])
        return _ladder(unit, None, own[some].contiguous(), None, k, False, kernel_scale, ranks)

    if kernel_scale > 0:
        some = directed.nonzero().squeeze(1)
        table = by_angle(some, vote_k if together else 0, kernel_scale)
        mine = own[some]
        sums[some], squares[some], counts[some] = table[2], table[3], len(some) - _how_often(mine, mine)
        if together:
            chords[some], voted[some] = table[0], _renamed(table[1], some)
    if vote_k and not together:
        some = voters.nonzero().squeeze(1)
        near, which, _, _ = by_angle(some, vote_k, 0.0)
        chords[some], voted[some] = near, _renamed(which, some)
    return distances, indices, chords, voted, sums, squares, counts


def _ladder(
    queries: Tensor,
    reference: Tensor | None,
    query_ids: Tensor,
    reference_ids: Tensor | None,
    k: int,
    measure: bool,
    kernel_scale: float,
    ranks: Ranks | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Neighbours rung by rung, and the kernel's sums and sums of squares; without a reference, among the queries."""
    ranks = ranks or Ranks.alone()
    all_rows = queries if reference is None else reference
    all_ids = query_ids if reference_ids is None else reference_ids
    n, device = queries.shape[0], queries.device
    if n == 0:
        nothing = queries.new_zeros(0, dtype=torch.float64)
        return *search.empty_table(0, k, device), nothing, nothing
    frame = ranks.attempt(lambda: _frame(queries, all_rows))
    bound = (queries, all_rows, query_ids, all_ids, frame)
    first = max(ranks.gather(ranks.attempt(lambda: _first_rung(*bound, k, measure, kernel_scale))))
    if ranks.several:
        distances, indices, certain, sums, squares = _shared_scan(
            ranks, queries, query_ids, frame, k, measure, first, kernel_scale
        )
    else:
        distances, indices, certain, sums, squares = ops.scan(
            queries, reference, query_ids, reference_ids, *frame, k, measure, first, kernel_scale
        )
    rest = (~certain).nonzero().squeeze(1)
    settled[_RUNGS[first]] += n - len(rest)
    for rung in range(first + 1, len(_RUNGS)):
        if not len(rest):
            break
        near, which = search.empty_table(len(rest), k, device)
        sure = torch.ones(len(rest), dtype=torch.bool, device=device)

        def scanned(part: slice, some: Tensor = rest, rung: int = rung) -> tuple[Tensor, Tensor, Tensor]:
            rows = some[part]
            if rung > F64:
                groups = query_ids[rows].to(torch.int64), all_ids.to(torch.int64)
                found = search.knn(queries[rows], all_rows, k, *groups, False, 0.0)
                return found[0], found[1], torch.ones_like(rows, dtype=torch.bool)
            return ops.scan(queries[rows], all_rows, query_ids[rows], all_ids, *frame, k, measure, rung, 0.0)[:3]

        ranks.in_shares(len(rest), scanned, (near, which, sure))
        ranks.everywhere(sure)
        distances[rest], indices[rest] = near, which
        settled[_RUNGS[rung]] += int(sure.sum())
        rest = rest[~sure]
    return distances, indices, sums, squares


def _first_rung(
    queries: Tensor,
    reference: Tensor,
    query_ids: Tensor,
    reference_ids: Tensor,
    frame: tuple[Tensor, float],
    k: int,
    measure: bool,
    kernel_scale: float,
) -> int:
    """The precision to begin with: by what is asked for, and by how many rows of a sample it would settle."""
    n, m, device = queries.shape[0], reference.shape[0], queries.device

    def pays(precision: int) -> bool:
        """By some rows among some others, which are further apart but about as hard to tell from each other."""
        rows, others = (torch.arange(0, s, max(1, s // c), device=device) for s, c in ((n, _SAMPLE), (m, _AMONG)))
        q, b, ids, other_ids = queries[rows], reference[others], query_ids[rows], reference_ids[others]
        certain = ops.scan(q, b, ids, other_ids, *frame, k, measure, precision, 0.0)[2]
        return float(certain.double().mean()) >= _PAYS

    fast = measure and kernel_scale <= 0 and queries.device.type in bf16_devices
    if kernel_scale > 0 and (measure or kernel_scale > _WIDE_KERNEL):
        return F64  # sums over rows of any scale, or of terms that hang on a distance's last digits
    if k == 0 or n * m * queries.shape[1] < _WORTH_A_SAMPLE:
        return F32
    return BF16 if fast and pays(BF16) else F32 if pays(F32) else F64


def _shared_scan(
    ranks: Ranks,
    rows: Tensor,
    ids: Tensor,
    frame: tuple[Tensor, float],
    k: int,
    measure: bool,
    precision: int,
    kernel_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows among each other: each rank looks at its share of the pairs, then settles its share of the rows."""
    n, device = rows.shape[0], rows.device
    room = scan.shared_width(k, precision, n - 1, ranks.size)
    values, indices, limits, sums, squares, lengths = ranks.attempt(
        lambda: ops.candidates(rows, ids, *frame, room, precision, kernel_scale, ranks.rank, ranks.size)
    )
    ranks.sum(sums)
    ranks.sum(squares)
    table = search.empty_table(n, k, device)
    certain = torch.ones(n, dtype=torch.bool, device=device)
    if k == 0:
        return *table, certain, sums, squares

    def in_parts(column: Tensor, empty: float) -> Tensor:
        share = -(-n // ranks.size)
        padded = column.new_full((ranks.size * share, *column.shape[1:]), empty)
        padded[:n] = column
        return padded.reshape(ranks.size, share, *column.shape[1:])

    sent = ranks.attempt(lambda: (in_parts(values, torch.inf), in_parts(indices, -1), in_parts(limits, torch.inf)))
    of_mine = [ranks.swap(part) for part in sent]

    def settled_rows(mine: slice) -> tuple[Tensor, Tensor, Tensor]:
        count = mine.stop - mine.start
        near, which = (part[:, :count].transpose(0, 1).flatten(1).contiguous() for part in of_mine[:2])
        lowest = of_mine[2].amin(dim=0)[:count].contiguous()
        return ops.settle(rows, mine.start, near, which, lowest, lengths, *frame, k, measure, precision)

    ranks.in_shares(n, settled_rows, (*table, certain))
    ranks.everywhere(certain)
    return *table, certain, sums, squares


def _frame(queries: Tensor, reference: Tensor) -> tuple[Tensor, float]:
    """A point near the rows, and a power of two that makes the longest of them, seen from there, no longer than 1."""
    lows, highs = zip(
        *map(search.finite_range, (reference,) if queries is reference else (reference, queries)), strict=True
    )
    low, high = min(lows), max(highs)
    centre = reference[:: max(1, len(reference) // _CENTRE_FROM)].double().mean(dim=0)
    reach = (high - low) * math.sqrt(reference.shape[1])
    exponent = max(-_EXPONENTS, math.ceil(math.log2(reach))) if reach > 0 else 0
    return centre, 2.0**-exponent


def _plain(rows: Tensor, wide: bool) -> Tensor:
    return rows.to(torch.float64 if wide else torch.float32).contiguous()


def _ids(
    n: int,
    m: int,
    query_groups: Tensor | None,
    reference_groups: Tensor | None,
    exclude_self: bool,
    device: torch.device,
) -> tuple[Tensor, Tensor] | None:
    """A number for each row such that equal numbers, and only those, may not be neighbours; None: impossible."""
    if query_groups is None or reference_groups is None:
        if exclude_self:
            own = torch.arange(max(n, m), dtype=torch.int32, device=device)
            return own[:n], own[:m]
        nobody = torch.full((n,), -1, dtype=torch.int32, device=device)
        return nobody, torch.zeros(m, dtype=torch.int32, device=device)
    shared = min(n, m)
    if exclude_self and not torch.equal(query_groups[:shared], reference_groups[:shared]):
        return None
    numbers = torch.cat([query_groups, reference_groups]).unique(return_inverse=True)[1].to(torch.int32)
    q, b = numbers[:n], numbers[n:]
    if exclude_self:  # rows of no group bar themselves alone
        own = torch.arange(n + m, n + m + max(n, m), dtype=torch.int32, device=device)
        return torch.where(query_groups < 0, own[:n], q), torch.where(reference_groups < 0, own[:m], b)
    return torch.where(query_groups < 0, -1, q), torch.where(reference_groups < 0, -2, b)


def _how_often(ids: Tensor, among: Tensor) -> Tensor:
    """How many of ``among`` equal each of ``ids``."""
    ordered = among.sort().values
    return torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)


def _renamed(indices: Tensor, names: Tensor) -> Tensor:
    return torch.where(indices >= 0, names[indices.clamp(min=0)], -1)
