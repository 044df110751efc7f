"""Means over all pairs of points, block by block: ten thousand classes have fifty million pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lightning_featgeo.types import Float, Tensor

_BLOCK_ELEMENTS = 2**20  # pairs at a time: 8 MiB of float64
_CANCELLED = 1e-4  # below this share of the lengths, a squared distance from products has lost 4 digits


def mean_over_pairs(points: Float[Tensor, "c d"], value: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over pairs i < j of a function of ⟨p_i, p_j⟩."""

    def of_block(rows: Tensor, columns: Tensor, first: int) -> Tensor:
        return value(rows @ columns.T).triu(1).sum()

    return _mean(points, of_block)


def mean_over_distances(
    points: Float[Tensor, "c d"], value: Callable[[Tensor, slice, slice], Tensor], coincide: Callable[[], Exception]
) -> Tensor:
    """Mean over pairs i < j of a function of ‖p_i−p_j‖²: by products, and by subtraction where those cancel.

    Args:
        points: float64, centred.
        value: takes squared distances (r, s), and which rows and columns they are of.
        coincide: makes the error to raise if two points are the same.
    """
    norms = points.square().sum(dim=1)

    def of_block(rows: Tensor, columns: Tensor, first: int) -> Tensor:
        a, b = slice(first, first + len(rows)), slice(first, first + len(columns))
        both = norms[a, None] + norms[None, b]
        squares = both - 2 * (rows @ columns.T)
        upper = torch.ones_like(squares, dtype=torch.bool).triu(1)
        near = (upper & (squares < _CANCELLED * both)).nonzero()
        step = max(1, _BLOCK_ELEMENTS // max(1, points.shape[1]))
        for part in near.split(step):
            i, j = part.unbind(1)
            squares[i, j] = (rows[i] - columns[j]).square().sum(dim=1)
        squares = torch.where(upper, squares, 1.0)
        if not bool((squares > 0).all()):
            raise coincide()
        return torch.where(upper, value(squares, a, b), 0.0).sum()

    return _mean(points, of_block)


def _mean(points: Tensor, of_block: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Over the upper triangle: each block of rows with itself and all that come behind."""
    count = points.shape[0]
    total = points.new_zeros((), dtype=torch.float64)
    block = max(1, _BLOCK_ELEMENTS // max(1, count))
    for first in range(0, count, block):
        total += of_block(points[first : first + block], points[first:], first)
    return total / (count * (count - 1) / 2)
