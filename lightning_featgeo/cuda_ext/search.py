"""Exact neighbour search in plain torch: the reference of the search ops, and the last rung of the certified search.

Products of float64 rows tile by tile, and subtraction wherever they cancel. A tile's squared distances come from one
product of centred rows. What lies so near that the product has lost digits, or so close to the k-th neighbour that
round-off could decide, is measured again by subtraction, which is exact for float32 rows: copies are exactly zero
apart, ties are ties (and go to the lower index), and the neighbours are the true ones also where lengths differ by many
orders. The distance matrix is never held.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2**64 over the golden ratio, as a signed number
_TILE_ELEMENTS = 2**21  # 16 MiB of float64 distances at a time: about what stays in a cache
_SPARE = 8  # candidates beyond k, among which near ties are told apart
_EPS = torch.finfo(torch.float64).eps
_TYING = 1e-12  # squared distances nearer to each other than this share of the norms may be equal
_CANCELLING = 1e-4  # below this share of the norms, a squared distance from the product has lost 4 digits
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
    points = _Points(queries, reference)
    centre = reference.double().mean(dim=0)
    b = reference.double() - centre
    b_norm = b.square().sum(dim=1)
    columns = torch.arange(m, device=device)
    tile = max(1, _TILE_ELEMENTS // m)
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
        distances[part], indices[part] = _nearest(
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
    points, directions = _Points(rows, rows), _Points(unit, unit)
    tile = max(1, _TILE_ELEMENTS // n)
    buffers = [wide.new_empty(min(tile, n), n) for _ in range(2 if angles else 1)]  # once: fresh pages are slow
    for start in range(0, n, tile):
        part = slice(start, min(start + tile, n))
        squared = torch.add(norm[part, None], norm[None, :], out=buffers[0][: part.stop - start])
        squared.addmm_(centred[part], centred.T, alpha=-2.0)
        barred = None if alone else (groups[part, None] == groups[None, :]) & (groups[part, None] >= 0)
        _bar(squared, barred, start)
        if k:
            error = _euclidean_error(norm[part], rows.shape[1])
            distances[part], indices[part] = _nearest(squared, points, start, k, norm[part], norm, error)
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
            chords[part], voted[part] = _nearest(among, directions, start, vote_k, None, None, error)
        if kernel_scale > 0:
            counts[part] = n - 1 if alone and everything else squared.isfinite().sum(dim=1)
            kernel = squared.mul_(-kernel_scale).exp_()
            sums[part], squares[part] = kernel.sum(dim=1), torch.linalg.vector_norm(kernel, dim=1).square()
    chords.masked_fill_(~voters[:, None], torch.inf)
    voted.masked_fill_(~voters[:, None], -1)
    for column in (sums, squares, counts):
        column.masked_fill_(~directed, 0)
    return distances, indices, chords, voted, sums, squares, counts


def finite_range(rows: Tensor, most: float = 1e150) -> tuple[float, float]:
    """The smallest and the largest number in the rows; (0, 0) if there are none.

    Raises:
        ValueError: if one is NaN or infinite, or further from zero than ``most``, whose square float64 can hold. (One
            pass without a copy: ``isfinite`` takes twenty times as long.)
    """
    if not rows.numel():
        return 0.0, 0.0
    low, high = (float(x) for x in torch.aminmax(rows))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("rows hold NaN or infinity, which have no neighbours: drop them, x[x.isfinite().all(dim=1)]")
    if max(-low, high) > most:
        raise ValueError(
            f"rows span {low:g} to {high:g}: float64 cannot hold the squares of such distances; rescale them"
        )
    return low, high


def empty_table(n: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Distances and indices of no neighbours yet."""
    distances = torch.full((n, k), torch.inf, dtype=torch.float64, device=device)
    return distances, torch.full((n, k), -1, dtype=torch.int64, device=device)


def _bar(squared: Tensor, barred: Tensor | None, start: int) -> None:
    """Put the rows themselves, and what is barred, infinitely far."""
    squared.diagonal(start).fill_(torch.inf)
    if barred is not None:
        squared.masked_fill_(barred, torch.inf)


# --- measuring by subtraction ---------------------------------------------------------------------------------------


class _Points:
    """Queries and reference rows, to measure between."""

    def __init__(self, queries: Tensor, reference: Tensor) -> None:
        self.queries, self.reference = queries, reference

    def squares(self, i: Tensor, j: Tensor) -> Tensor:
        """Squared distances of pairs by subtraction, a slice at a time."""
        return _squares(self.queries, i, self.reference, j)

    def squares_of_many(self, i: Tensor, j: Tensor) -> Tensor:
        """The same where many pairs may be of copies: one subtraction for all pairs of the same two kinds of rows."""
        kinds, first = self._kinds
        if len(first) == len(kinds):  # no copies
            return self.squares(i, j)
        a, b = kinds[i], kinds[j if self._same else len(self.queries) + j]
        pairs, back = (a * len(first) + b).unique(return_inverse=True)
        found = _squares(self._rows, first[pairs // len(first)], self._rows, first[pairs % len(first)])
        return found[back]

    @property
    def _same(self) -> bool:
        return self.reference is self.queries

    @cached_property
    def _rows(self) -> Tensor:
        return self.queries if self._same else torch.cat([self.queries, self.reference])

    @cached_property
    def _kinds(self) -> tuple[Tensor, Tensor]:
        """A number for each row, the same for equal rows only (by a hash, then compared), and a row of each number."""
        rows = self._rows.contiguous()
        bits = rows.view(torch.int32 if rows.element_size() == 4 else torch.int64)
        odd = torch.arange(bits.shape[1], device=bits.device) * _GOLDEN | 1
        hashes = torch.cat([(part.to(torch.int64) * odd).sum(dim=1) for part in bits.split(1024)])
        own = torch.arange(len(rows), device=rows.device)
        kinds = hashes.unique(return_inverse=True)[1]
        first = torch.full_like(own, len(rows)).scatter_reduce_(0, kinds, own, "amin")
        truly = (rows == rows[first[kinds]]).all(dim=1)
        kinds = torch.where(truly, kinds, len(rows) + own).unique(return_inverse=True)[1]
        first = torch.full_like(own, len(rows)).scatter_reduce_(0, kinds, own, "amin")
        return kinds, first[: int(kinds.max()) + 1]


def _squares(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> Tensor:
    step = max(1, _TILE_ELEMENTS // max(1, a.shape[1]))
    pairs = zip(i.split(step), j.split(step), strict=True)
    parts = [(a[p].double() - b[q].double()).square().sum(dim=1) for p, q in pairs]
    return torch.cat(parts) if parts else a.new_zeros(0, dtype=torch.float64)


def squares_to(queries: Tensor, reference: Tensor, indices: Tensor) -> Tensor:
    """(n, k) squared distances to the rows that a table names, by subtraction; inf where it names none (−1)."""
    at, place = (indices >= 0).nonzero(as_tuple=True)
    squares = torch.full(indices.shape, torch.inf, dtype=torch.float64, device=indices.device)
    squares[at, place] = _squares(queries, at, reference, indices[at, place])
    return squares


def _euclidean_error(norm: Tensor, columns: int) -> Callable[[Tensor], Tensor]:
    """How wrong a squared distance up to a limit can be: rows within it are no longer than the query and the limit."""
    rounding = (16 + columns) * _EPS
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


def _fixed_error(scale: Tensor, columns: int) -> Callable[[Tensor], Tensor]:
    rounding = (16 + columns) * _EPS
    return lambda limit: rounding * scale + 0 * limit


# --- selecting ------------------------------------------------------------------------------------------------------


def _nearest(
    squared: Tensor,
    points: _Points,
    start: int,
    k: int,
    norm: Tensor | None,
    other_norm: Tensor | None,
    error: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Distances to the k nearest of each row of a tile, and their columns; ties to the lower one.

    Args:
        squared: the tile, from products; inf where barred.
        points: the rows themselves.
        start: number of the tile's first query.
        k: how many.
        norm, other_norm: squared lengths behind the tile's products, of its rows and its columns; None: all are 1.
        error: how wrong entries up to a limit can be.
    """
    m = squared.shape[1]
    width = min(m, k + _SPARE)
    values, near = _smallest(squared, width)
    limit = values[:, min(k, m) - 1]
    slack = error(limit)
    # more entries lie about the k-th than were looked at: round-off, or copies, would decide which are nearest
    crowded = (values[:, -1] <= limit + slack) & values[:, -1].isfinite() & (width < m)
    if bool(crowded.any()):
        values[crowded], near[crowded] = _disentangle(
            squared[crowded], points, start + crowded.nonzero().squeeze(1), min(k, m), width, (limit + slack)[crowded]
        )
    values.clamp_(min=0.0)
    if norm is None or other_norm is None:
        again, tied = values < 2 * _CANCELLING, values.diff(dim=1) < 2 * _TYING
    else:
        scale = norm[:, None] + other_norm[near]
        # at most, not below: copies that lie on the centre have no length, and are tied all the same
        again, tied = values <= _CANCELLING * scale, values.diff(dim=1) <= _TYING * scale[:, :-1]
    again[:, 1:] |= tied
    again[:, :-1] |= tied
    at, column = (again & values.isfinite()).nonzero(as_tuple=True)
    values[at, column] = points.squares(start + at, near[at, column])
    unsure = again.any(dim=1)
    if bool(unsure.any()):  # elsewhere they lie in order already
        by_index = near[unsure].sort(dim=1)
        order = values[unsure].gather(1, by_index.indices).sort(dim=1, stable=True)
        values[unsure], near[unsure] = order.values, by_index.values.gather(1, order.indices)
    distances, columns = values[:, :k].sqrt(), near[:, :k]
    columns = columns.masked_fill(distances.isinf(), -1)
    missing = k - distances.shape[1]
    return torch.nn.functional.pad(distances, (0, missing), value=torch.inf), torch.nn.functional.pad(
        columns, (0, missing), value=-1
    )


def _disentangle(
    squared: Tensor, points: _Points, queries: Tensor, k: int, width: int, limit: Tensor
) -> tuple[Tensor, Tensor]:
    """The ``width`` nearest of each row, all that may be among the k nearest measured by subtraction."""
    at, column = ((squared <= limit[:, None]) & squared.isfinite()).nonzero(as_tuple=True)
    exact = torch.full_like(squared, torch.inf)
    exact[at, column] = points.squares_of_many(queries[at], column)
    last = exact.shape[1]
    kth = exact.topk(k, dim=1, largest=False).values[:, -1:]
    rank = torch.arange(last, device=exact.device).expand_as(exact)
    rank = torch.where(exact < kth, -1, torch.where(exact == kth, rank, last))  # of those equally far, the first
    found = rank.topk(width, dim=1, largest=False).indices
    ordered = exact.gather(1, found).sort(dim=1)
    return ordered.values, found.gather(1, ordered.indices)


def _smallest(squared: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` smallest entries of each row in ascending order, and their columns.

    They lie in the ``width`` blocks of columns with the smallest minima, so that only those need to be sorted.
    """
    block = squared.shape[1] // (6 * width)
    if block < 4 or 64 * width < squared.shape[1]:  # few of many are found fast without
        found = squared.topk(width, dim=1, largest=False)
        return found.values, found.indices
    whole = squared.shape[1] // block * block
    minima = squared[:, :whole].unflatten(1, (-1, block)).amin(dim=2)
    blocks = minima.topk(width, dim=1, largest=False, sorted=False).indices
    columns = (blocks[:, :, None] * block + torch.arange(block, device=squared.device)).flatten(1)
    rest = torch.arange(whole, squared.shape[1], device=squared.device).expand(len(squared), -1)
    columns = torch.cat([columns, rest], dim=1)
    found = squared.gather(1, columns).topk(width, dim=1, largest=False)
    return found.values, columns.gather(1, found.indices)
