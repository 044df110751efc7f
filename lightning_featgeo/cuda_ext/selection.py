"""The k nearest of each row of a tile of squared distances, with whatever is in doubt measured again by subtraction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext.distances import Points

ErrorBound = Callable[[Tensor], Tensor]  # how wrong a squared distance up to a limit can be

_SPARE = 8  # candidates beyond k, among which near ties are told apart
_TYING = 1e-12  # squared distances nearer to each other than this share of the norms may be equal
_CANCELLING = 1e-4  # below this share of the norms, a squared distance from the product has lost 4 digits


def nearest(
    squared: Tensor,
    points: Points,
    start: int,
    k: int,
    norm: Tensor | None,
    other_norm: Tensor | None,
    error: ErrorBound,
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
    squared: Tensor, points: Points, queries: Tensor, k: int, width: int, limit: Tensor
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
