"""The neighbours of a bank, searched by several processes together: each has the same rows and does its share.

The parts that need no process come from :mod:`lightning_featgeo.cuda_ext`. Between two collectives a rank works inside
:meth:`Ranks.attempt`, so that a failure of one rank (out of memory, say) is an error on all.
"""

from __future__ import annotations

import torch

from lightning_featgeo.cuda_ext import certified, scan, scan_ops, self_search
from lightning_featgeo.cuda_ext.certified import Answer, Problem
from lightning_featgeo.cuda_ext.distances import empty_table, finite_range
from lightning_featgeo.cuda_ext.self_search import SelfNeighbors
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.types import Tensor


def self_neighbors(
    ranks: Ranks, rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float
) -> SelfNeighbors:
    """:func:`lightning_featgeo.cuda_ext.ops.self_neighbors` with the work divided.

    Args:
        ranks: the processes that take part. Only rank 0 gets the tables: on the others they hold parts of the truth,
            to be thrown away.
        rows, k, groups, voters, vote_k, kernel_scale: as for the op; the same on every rank.

    Raises:
        RankFailure: on all ranks, if this fails on any of them.
    """
    asked = rows, k, groups, voters, vote_k, kernel_scale
    if not ranks.several or not rows.numel():
        return SelfNeighbors(*self_search.self_neighbors(*asked))
    ranks.attempt(lambda: finite_range(rows))
    tables = ranks.attempt(lambda: self_search.empty_tables(len(rows), k, vote_k, rows.device))
    parts = self_search.parts(*asked)
    while (part := ranks.attempt(lambda: next(parts, None))) is not None:
        self_search.put(tables, part, _solve(ranks, part.problem))
        del part  # and its rows, before those of the next one are made
    return tables


def _solve(ranks: Ranks, problem: Problem) -> Answer:
    """:func:`certified.solve` of rows among each other, on all ranks; only rank 0 has the whole answer."""
    p, n, device = problem, len(problem.queries), problem.queries.device
    if not n:
        return certified.no_answer(p)
    ranks.attempt(lambda: p.frame)
    first = max(ranks.gather(ranks.attempt(lambda: certified.first_precision(p))))
    distances, indices, certain, sums, squares = _scan(ranks, p, first)

    def again(rest: Tensor, precision: int) -> tuple[Tensor, Tensor, Tensor]:
        near, which = empty_table(len(rest), p.k, device)
        sure = torch.ones(len(rest), dtype=torch.bool, device=device)
        ranks.in_shares(len(rest), lambda mine: certified.search_again(p, rest[mine], precision), (near, which, sure))
        return near, which, ranks.everywhere(sure)

    certified.settle_rest(distances, indices, certain, first, again)
    return Answer(distances, indices, sums, squares)


def _scan(ranks: Ranks, problem: Problem, precision: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op ``scan``: each rank looks at its share of the pairs, then settles its share of the rows."""
    p, rows, device = problem, problem.queries, problem.queries.device
    n = len(rows)
    room = scan.shared_width(p.k, precision, n - 1, ranks.size)
    values, indices, limits, sums, squares, lengths = ranks.attempt(
        lambda: scan_ops.candidates(
            rows, p.query_ids, *p.frame, room, precision, p.kernel_scale, ranks.rank, ranks.size
        )
    )
    ranks.sum(sums)
    ranks.sum(squares)
    table = empty_table(n, p.k, device)
    certain = torch.ones(n, dtype=torch.bool, device=device)
    if p.k == 0:
        return *table, certain, sums, squares

    def by_rank(column: Tensor, empty: float) -> Tensor:
        """(size, ⌈n/size⌉, …): the rows that each rank settles."""
        share = -(-n // ranks.size)
        padded = column.new_full((ranks.size * share, *column.shape[1:]), empty)
        padded[:n] = column
        return padded.reshape(ranks.size, share, *column.shape[1:])

    sent = ranks.attempt(lambda: (by_rank(values, torch.inf), by_rank(indices, -1), by_rank(limits, torch.inf)))
    of_mine = [ranks.swap(part) for part in sent]

    def settled(mine: slice) -> tuple[Tensor, Tensor, Tensor]:
        count = mine.stop - mine.start
        near, which = (part[:, :count].transpose(0, 1).flatten(1).contiguous() for part in of_mine[:2])
        lowest = of_mine[2].amin(dim=0)[:count].contiguous()
        return scan_ops.settle(rows, mine.start, near, which, lowest, lengths, *p.frame, p.k, p.measure, precision)

    ranks.in_shares(n, settled, (*table, certain))
    ranks.everywhere(certain)
    return *table, certain, sums, squares
