"""Exact neighbour search in plain torch: the reference of the search ops, and the last resort of the certified search.

Rows are centred and multiplied in float64, a tile of queries at a time; the squared distances of a tile come from one
matrix product, and the distance matrix is never held. A product loses digits where two rows nearly coincide, so those
distances, and those that could decide who is the k-th neighbour, are measured again by subtraction
(:mod:`~lightning_featgeo.cuda_ext.selection`). Copies are then exactly zero apart, ties are ties (and go to the lower
index), and the neighbours are the true ones also where lengths differ by many orders.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext.distances import EPS, TILE_ELEMENTS, Points, empty_table, finite_range
from lightning_featgeo.cuda_ext.selection import ErrorBound, nearest

_SHORT = 1e-3  # rows below this share of the longest get chords from a product of their own


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
    device = queries.device
    finite_range(queries)
    finite_range(reference)
    distances, indices = empty_table(n, k, device)
    kernel_sums = torch.zeros(n, dtype=torch.float64, device=device)
    kernel_counts = torch.zeros(n, dtype=torch.int64, device=device)
    if n == 0 or m == 0:
        return distances, indices, kernel_sums, kernel_counts
    points = Points(queries, reference)
    centre = reference.double().mean(dim=0)
    b = reference.double() - centre
    b_norm = b.square().sum(dim=1)
    columns = torch.arange(m, device=device)
    tile = max(1, TILE_ELEMENTS // m)
    for start in range(0, n, tile):
        part = slice(start, min(start + tile, n))
        q = queries[part].double() - centre
        q_norm = q.square().sum(dim=1)
        squared = (q_norm[:, None] + b_norm[None, :]).addmm_(q, b.T, alpha=-2.0)
        barred = torch.zeros_like(squared, dtype=torch.bool)
        if exclude_self:
            barred |= columns[None, :] == torch.arange(part.start, part.stop, device=device)[:, None]
        if query_groups is not None and reference_groups is not None:
            mine = query_groups[part, None]
            barred |= (mine == reference_groups[None, :]) & (mine >= 0)
        squared.masked_fill_(barred, torch.inf)
        if kernel_scale > 0:
            kernel_sums[part] = torch.exp(-kernel_scale * squared.clamp(min=0.0)).sum(dim=1)
            kernel_counts[part] = (~barred).sum(dim=1)
        distances[part], indices[part] = nearest(
            squared, points, start, k, q_norm, b_norm, _euclidean_error(q_norm, b.shape[1])
        )
    return distances, indices, kernel_sums, kernel_counts


def self_neighbors(
    rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`lightning_featgeo.cuda_ext.ops.self_neighbors`.

    With u the length of a row, the squared chord of two directions is (‖x−y‖² − (u_x−u_y)²)/(u_x·u_y): a tile of
    squared distances becomes one of chords without another product, and loses nothing to a far origin. Only rows far
    shorter than the longest take a product of unit rows.
    """
    n, device = rows.shape[0], rows.device
    finite_range(rows)
    distances, indices = empty_table(n, k, device)
    chords, voted = empty_table(n, vote_k, device)
    sums, squares = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    if n == 0:
        return distances, indices, chords, voted, sums, squares, counts
    wide = rows.double()
    centred = wide - wide.mean(dim=0)
    norm, length = centred.square().sum(dim=1), torch.linalg.vector_norm(wide, dim=1)
    directed = length > 0
    inverse = torch.where(directed, 1.0 / length, 0.0)
    unit = wide * inverse[:, None]
    short = directed & (length < _SHORT * length.max())
    shorts = short.nonzero().squeeze(1)
    spread = _chord_error(norm, length, inverse, short)
    voters = voters & directed
    angles, everything = bool(vote_k) or kernel_scale > 0, bool(directed.all())
    grouped = groups[groups >= 0]
    alone = grouped.unique().numel() == grouped.numel()  # then a row bars nobody but itself
    points, directions = Points(rows, rows), Points(unit, unit)
    tile = max(1, TILE_ELEMENTS // n)
    buffers = [wide.new_empty(min(tile, n), n) for _ in range(2 if angles else 1)]  # once: fresh pages are slow
    for start in range(0, n, tile):
        part = slice(start, min(start + tile, n))
        squared = torch.add(norm[part, None], norm[None, :], out=buffers[0][: part.stop - start])
        squared.addmm_(centred[part], centred.T, alpha=-2.0)
        barred = None if alone else (groups[part, None] == groups[None, :]) & (groups[part, None] >= 0)
        _bar(squared, barred, start)
        if k:
            error = _euclidean_error(norm[part], rows.shape[1])
            distances[part], indices[part] = nearest(squared, points, start, k, norm[part], norm, error)
        if not angles:
            continue
        apart = torch.sub(length[part, None], length[None, :], out=buffers[1][: len(squared)])
        squared.addcmul_(apart, apart, value=-1.0)
        squared.mul_(inverse[part, None]).mul_(inverse[None, :])
        if shorts.numel():
            mine = short[part].nonzero().squeeze(1)
            squared[:, shorts] = 2 - 2 * unit[part] @ unit[shorts].T
            squared[mine] = 2 - 2 * unit[part][mine] @ unit.T
        if shorts.numel() or not everything:
            squared.masked_fill_(~directed[None, :], torch.inf)  # and inf × 0 is NaN
            _bar(squared, barred, start)
        if vote_k:
            among = squared if bool(voters.all()) else squared.masked_fill(~voters[None, :], torch.inf)
            error = _fixed_error(spread[part], rows.shape[1])
            chords[part], voted[part] = nearest(among, directions, start, vote_k, None, None, error)
        if kernel_scale > 0:
            counts[part] = n - 1 if alone and everything else squared.isfinite().sum(dim=1)
            kernel = squared.mul_(-kernel_scale).exp_()
            sums[part], squares[part] = kernel.sum(dim=1), torch.linalg.vector_norm(kernel, dim=1).square()
    chords.masked_fill_(~voters[:, None], torch.inf)
    voted.masked_fill_(~voters[:, None], -1)
    for column in (sums, squares, counts):
        column.masked_fill_(~directed, 0)
    return distances, indices, chords, voted, sums, squares, counts


def _bar(squared: Tensor, barred: Tensor | None, start: int) -> None:
    """Put the rows themselves, and what is barred, infinitely far."""
    squared.diagonal(start).fill_(torch.inf)
    if barred is not None:
        squared.masked_fill_(barred, torch.inf)


# --- how wrong a squared distance from a product can be --------------------------------------------------------------


def _euclidean_error(norm: Tensor, columns: int) -> ErrorBound:
    """How wrong a squared distance up to a limit can be: rows within it are no longer than the query and the limit."""
    rounding = (16 + columns) * EPS
    return lambda limit: rounding * (norm + (norm.sqrt() + limit.clamp(min=0.0).sqrt()).square())


def _chord_error(norm: Tensor, length: Tensor, inverse: Tensor, short: Tensor) -> Tensor:
    """How wrong a row's squared chords can be, in units of eps: by the product, by (u_x−u_y)², or by unit rows (4)."""
    usual = (length > 0) & ~short
    if not bool(usual.any()):
        return torch.full_like(norm, 4.0)
    longest, shortest = length[usual].max(), length[usual].min()
    apart = torch.maximum(longest - length, length - shortest).clamp(min=0.0)
    error = (norm + norm[usual].max() + 2 * apart * (length + longest)) * inverse / shortest
    return torch.where(usual, error, 4.0).clamp(min=4.0 if bool(short.any()) else 0.0)


def _fixed_error(scale: Tensor, columns: int) -> ErrorBound:
    rounding = (16 + columns) * EPS
    return lambda limit: rounding * scale + 0 * limit
