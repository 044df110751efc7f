"""Exact neighbours from certified scans: cheap products first, and again for the rows they could not settle.

Every table is the exact one, whatever the precision of the products it came from: a scan says of each row whether its
neighbours are certain (:mod:`~lightning_featgeo.cuda_ext.proof`). Rows whose neighbours are not are searched again in
the next precision: bf16 where the hardware has such products, then fp32, then float64, and at last by subtraction
(:mod:`~lightning_featgeo.cuda_ext.search`), which also tells copies apart. A sample of rows says where to begin.

:func:`solve` does all of this for one :class:`Problem`. Whoever divides the work among processes takes its parts:
:func:`first_precision`, a scan of one's own, and :func:`search_again` inside :func:`settle_rest`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import scan_ops, search
from lightning_featgeo.cuda_ext.distances import checked_range, empty_table, frame
from lightning_featgeo.cuda_ext.proof import BF16, F32, F64

_CENTRE_FROM = 512  # rows that fix the centre; any centre near the rows will do
_AMONG = 4096  # rows among which a sample of queries is searched
_EXPONENTS = 500  # of two: squares of smaller differences leave float64
_SAMPLE = 64  # rows that decide which precision to begin with
_WORTH_A_SAMPLE = 2**32  # products of single numbers
_WORTH_ON_CUDA = 4  # times as many there: a sample costs more there than products do
_WORTH_BF16 = 2**28  # products from which on bf16 is tried on CUDA without a sample
_WIDE_KERNEL = 4.0  # of kernels between unit rows: up to this scale fp32 products do
_PAYS = 0.6  # share of certain rows from which on a scan is worth its time

_PRECISIONS = ("bf16", "fp32", "float64", "subtraction")  # in the order in which they are tried

bf16_devices: set[str] = set()  # device types whose bf16 products are fast
settled: Counter[str] = Counter()  # rows by the precision that settled them, since the process began


@dataclass(frozen=True)
class Problem:
    """One search: which rows are sought among which, and what is wanted of them.

    Args:
        queries: rows to search for, float32 or float64, contiguous.
        query_ids: rows of equal ids are no neighbours of each other.
        reference: rows to search among, of the same type; None: the queries.
        reference_ids: of the reference, where there is one.
        k: neighbours; 0: none, kernel sums only.
        measure: whether distances are measured in float64; else only where it decides who is a neighbour.
        kernel_scale: t of exp(−t‖q−b‖²), summed over all allowed rows; 0: not computed.
        span: the largest difference of two numbers of the rows, where it is known and they are finite.
    """

    queries: Tensor
    query_ids: Tensor
    reference: Tensor | None
    reference_ids: Tensor | None
    k: int
    measure: bool
    kernel_scale: float
    span: float | None = None

    @property
    def rows(self) -> Tensor:
        """Rows to search among."""
        return self.queries if self.reference is None else self.reference

    @property
    def ids(self) -> Tensor:
        """Their ids."""
        return self.query_ids if self.reference_ids is None else self.reference_ids

    @cached_property
    def frame(self) -> tuple[Tensor, float]:
        """A point near the rows, and a power of two that makes the longest of them, seen from there, at most 1 long."""
        rows, others, span = self.rows, None if self.reference is None else self.queries, self.span
        if rows.numel():
            centre, ends = torch.ops.lightning_featgeo.frame(rows, others, _CENTRE_FROM)
        else:
            centre, ends = frame(rows, others, _CENTRE_FROM)
        if span is None:
            low, high = checked_range(*ends.tolist())
            span = high - low
        reach = span * math.sqrt(rows.shape[1])
        exponent = max(-_EXPONENTS, math.ceil(math.log2(reach))) if reach > 0 else 0
        return centre, 2.0**-exponent


class Answer(NamedTuple):
    """What a :class:`Problem` asks for; kernel sums are zero where none were asked for."""

    distances: Tensor
    indices: Tensor
    sums: Tensor
    squares: Tensor


def solve(problem: Problem) -> Answer:
    """Scan in the cheapest precision that pays, and search again for the rows that it could not settle."""
    p = problem
    if not len(p.queries):
        return no_answer(p)
    first = first_precision(p)
    distances, indices, certain, sums, squares = scan_ops.scan(
        p.queries, p.reference, p.query_ids, p.reference_ids, *p.frame, p.k, p.measure, first, p.kernel_scale
    )
    settle_rest(distances, indices, certain, first, lambda some, precision: search_again(p, some, precision))
    return Answer(distances, indices, sums, squares)


def no_answer(problem: Problem) -> Answer:
    """For no queries."""
    nothing = problem.queries.new_zeros(0, dtype=torch.float64)
    return Answer(*empty_table(0, problem.k, problem.queries.device), nothing, nothing)


def first_precision(problem: Problem) -> int:
    """The precision to begin with: by what is asked for, and by how many rows of a sample it would settle."""
    p, n, m, device = problem, len(problem.queries), len(problem.rows), problem.queries.device

    def pays(precision: int) -> bool:
        """By some rows among some others, which are further apart but about as hard to tell from each other."""
        some, others = slice(None, None, max(1, n // _SAMPLE)), slice(None, None, max(1, m // _AMONG))
        queries, rows, query_ids, ids = (  # views become copies here, but where all rows are taken
            of[part].contiguous()
            for of, part in ((p.queries, some), (p.rows, others), (p.query_ids, some), (p.ids, others))
        )
        certain = scan_ops.scan(queries, rows, query_ids, ids, *p.frame, p.k, p.measure, precision, 0.0)[2]
        return float(certain.double().mean()) >= _PAYS

    fast = p.measure and p.kernel_scale <= 0 and device.type in bf16_devices
    if p.kernel_scale > 0 and (p.measure or p.kernel_scale > _WIDE_KERNEL):
        return F64  # sums over rows of any scale, or of terms that hang on a distance's last digits
    products, on_cuda = n * m * p.queries.shape[1], device.type == "cuda"
    if p.k == 0 or products < _WORTH_A_SAMPLE * (_WORTH_ON_CUDA if on_cuda else 1):
        return BF16 if fast and on_cuda and products >= _WORTH_BF16 else F32
    return BF16 if fast and pays(BF16) else F32 if pays(F32) else F64


def search_again(problem: Problem, some: Tensor, precision: int) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours of some of the queries in one precision: distances, indices, and whether they are certain."""
    p = problem
    queries, ids = p.queries[some], p.query_ids[some]
    if precision > F64:
        groups = ids.to(torch.int64), p.ids.to(torch.int64)
        distances, indices, _, _ = search.knn(queries, p.rows, p.k, *groups, False, 0.0)
        return distances, indices, torch.ones_like(some, dtype=torch.bool)
    return scan_ops.scan(queries, p.rows, ids, p.ids, *p.frame, p.k, p.measure, precision, 0.0)[:3]


def settle_rest(
    distances: Tensor,
    indices: Tensor,
    certain: Tensor,
    first: int,
    again: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]],
) -> None:
    """Replace the neighbours that are not certain, one precision after the other, until all are.

    Args:
        distances, indices: (n, k) the table of a first scan, changed in place.
        certain: (n,) which of its rows are certain.
        first: the precision of that scan.
        again: searches for rows of these numbers in that precision, as :func:`search_again`.
    """
    if bool(certain.all()):  # as usual
        settled[_PRECISIONS[first]] += len(certain)
        return
    rest = (~certain).nonzero().squeeze(1)
    settled[_PRECISIONS[first]] += len(certain) - len(rest)
    for precision in range(first + 1, len(_PRECISIONS)):
        if not len(rest):
            return
        near, which, sure = again(rest, precision)
        distances[rest], indices[rest] = near, which
        settled[_PRECISIONS[precision]] += int(sure.sum())
        rest = rest[~sure]


# --- the op knn -----------------------------------------------------------------------------------------------------


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
    ids = ids_of(n, m, query_groups, reference_groups, exclude_self, queries.device)
    if ids is None or n == 0 or m == 0 or queries.shape[1] == 0:
        return search.knn(queries, reference, k, query_groups, reference_groups, exclude_self, kernel_scale)
    query_ids, reference_ids = ids
    # among themselves only if rows that are the same are also barred in the same way: ids say who may meet whom
    among = queries is reference and (query_ids is reference_ids or torch.equal(query_ids, reference_ids))
    wide = torch.float64 in (queries.dtype, reference.dtype)
    q, b = plain(queries, wide), None if among else plain(reference, wide)
    found = solve(Problem(q, query_ids, b, None if among else reference_ids, k, True, kernel_scale))
    counts = torch.zeros(n, dtype=torch.int64, device=queries.device)
    if kernel_scale > 0:
        counts = m - how_often(query_ids, reference_ids)
    return found.distances, found.indices, found.sums, counts


def plain(rows: Tensor, wide: bool) -> Tensor:
    """The rows as a scan takes them: contiguous, float64 or float32."""
    return rows.to(torch.float64 if wide else torch.float32).contiguous()


def ids_of(
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
            return (own, own) if n == m else (own[:n], own[:m])
        nobody = torch.full((n,), -1, dtype=torch.int32, device=device)
        return nobody, torch.zeros(m, dtype=torch.int32, device=device)
    if query_groups is reference_groups and exclude_self:
        alone = torch.arange(n, 2 * n, dtype=torch.int32, device=device)  # rows of no group bar themselves alone
        ids = torch.where(query_groups < 0, alone, _numbered(query_groups))
        return ids, ids
    shared = min(n, m)
    if exclude_self and not torch.equal(query_groups[:shared], reference_groups[:shared]):
        return None
    numbers = torch.cat([query_groups, reference_groups]).unique(return_inverse=True)[1].to(torch.int32)
    q, b = numbers[:n], numbers[n:]
    if exclude_self:  # rows of no group bar themselves alone
        own = torch.arange(n + m, n + m + max(n, m), dtype=torch.int32, device=device)
        return torch.where(query_groups < 0, own[:n], q), torch.where(reference_groups < 0, own[:m], b)
    return torch.where(query_groups < 0, -1, q), torch.where(reference_groups < 0, -2, b)


def _numbered(groups: Tensor) -> Tensor:
    """Numbers below n, equal where groups are; as ``unique`` gives them, but an accelerator is not waited for."""
    ordered = groups.sort()
    fresh = torch.ones_like(groups, dtype=torch.int32)
    fresh[1:] = ordered.values[1:] != ordered.values[:-1]
    return torch.empty_like(fresh).scatter_(0, ordered.indices, fresh.cumsum(0, dtype=torch.int32) - 1)


def how_often(ids: Tensor, among: Tensor) -> Tensor:
    """How many of ``among`` equal each of ``ids``."""
    ordered = among.sort().values
    return torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
