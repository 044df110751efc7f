"""The op ``self_neighbors``: all rows' neighbours among each other, by distance and by angle, from certified searches.

It takes up to three searches (:func:`parts`): one among the rows as they are, and one or two among unit rows, for the
neighbours by angle and for the kernel sums. Each is solved on its own (:func:`certified.solve`, or by several processes
together), and its answer is put into the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import search
from lightning_featgeo.cuda_ext.certified import Answer, Problem, how_often, ids_of, plain, solve
from lightning_featgeo.cuda_ext.distances import empty_table, finite_range
from lightning_featgeo.types import Float, Int64


class SelfNeighbors(NamedTuple):
    """Tables of ``self_neighbors``: by distance, by angle (as chords of unit vectors), and kernel sums."""

    distances: Float[Tensor, "n k"]
    indices: Int64[Tensor, "n k"]
    chords: Float[Tensor, "n v"]
    voted: Int64[Tensor, "n v"]
    kernel_sums: Float[Tensor, " n"]
    kernel_squares: Float[Tensor, " n"]
    kernel_counts: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Part:
    """One of the searches. ``numbers``: which rows take part, the others having no direction or no vote; None: all."""

    problem: Problem
    numbers: Tensor | None


def self_neighbors(
    rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`lightning_featgeo.cuda_ext.ops.self_neighbors`."""
    if not rows.numel():
        return search.self_neighbors(rows, k, groups, voters, vote_k, kernel_scale)
    if not k:  # else the first search looks
        finite_range(rows)
    tables = empty_tables(len(rows), k, vote_k, rows.device)
    for part in parts(rows, k, groups, voters, vote_k, kernel_scale):
        put(tables, part, solve(part.problem))
        del part  # and its rows, before those of the next one are made
    return tables


def empty_tables(n: int, k: int, vote_k: int, device: torch.device) -> SelfNeighbors:
    """Tables of no neighbours yet."""
    sums, squares = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    return SelfNeighbors(*empty_table(n, k, device), *empty_table(n, vote_k, device), sums, squares, counts)


def parts(rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float) -> Iterator[Part]:
    """The searches that these tables take, one after another: unit rows are made when their turn comes.

    Args: those of :func:`lightning_featgeo.cuda_ext.ops.self_neighbors`.
    """
    n = len(rows)
    ids = ids_of(n, n, groups, groups, True, rows.device)
    assert ids is not None  # the groups are the same on both sides
    own = ids[0]
    if k:
        yield Part(Problem(plain(rows, rows.dtype == torch.float64), own, None, None, k, True, 0.0), None)
    if not vote_k and kernel_scale <= 0:
        return
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    directed = length.squeeze(1) > 0
    voting = voters & directed
    directions, votes = torch.stack([directed.sum(), voting.sum()]).tolist()
    everybody = torch.arange(n, device=rows.device)

    def numbers(which: Tensor, many: int) -> Tensor:
        return everybody if many == n else which.nonzero().squeeze(1)

    def by_angle(some: Tensor, k: int, kernel_scale: float) -> Part:
        unit = rows[some].double()
        unit /= length[some]  # in place: there may be little room
        return Part(Problem(unit, own[some].contiguous(), None, None, k, False, kernel_scale, span=2.0), some)

    together = bool(vote_k) and kernel_scale > 0 and votes == directions  # one search does for both
    if kernel_scale > 0:
        yield by_angle(numbers(directed, directions), vote_k if together else 0, kernel_scale)
    if vote_k and not together:
        yield by_angle(numbers(voting, votes), vote_k, 0.0)


def put(tables: SelfNeighbors, part: Part, answer: Answer) -> None:
    """Write the answer to one of the searches into the tables."""
    problem, some = part.problem, part.numbers
    if some is None:
        tables.distances.copy_(answer.distances)
        tables.indices.copy_(answer.indices)
        return
    if problem.kernel_scale > 0:
        tables.kernel_sums[some], tables.kernel_squares[some] = answer.sums, answer.squares
        tables.kernel_counts[some] = len(some) - how_often(problem.query_ids, problem.query_ids)
    if problem.k:
        tables.chords[some] = answer.distances
        tables.voted[some] = torch.where(answer.indices >= 0, some[answer.indices.clamp(min=0)], -1)
