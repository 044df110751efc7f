"""Distances measured by subtraction, pair by pair, and the tables they go into.

Where two rows nearly coincide, a matrix product loses the digits of their distance; a subtraction of float32 numbers in
float64 loses none.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2**64 over the golden ratio, as a signed number
TILE_ELEMENTS = 2**21  # 16 MiB of float64 distances at a time: about what stays in a cache
_IN_CACHE = 2**17  # numbers that a CPU reads once and converts without asking for memory
EPS = torch.finfo(torch.float64).eps
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # as wide as a floating-point number of so many bytes


def finite_range(*rows: Tensor, most: float = 1e150) -> tuple[float, float]:
    """The smallest and the largest number in all of the rows; (0, 0) if there are none.

    Raises:
        ValueError: if one is NaN or infinite, or further from zero than ``most``, whose square float64 can hold. (One
            pass without a copy: ``isfinite`` takes twenty times as long.)
    """
    low, high = _ends(*rows).tolist() if any(part.numel() for part in rows) else (0.0, 0.0)
    return checked_range(low, high, most)


def checked_range(low: float, high: float, most: float = 1e150) -> tuple[float, float]:
    """The same numbers, if distances can be measured between rows that reach from one to the other; see above."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("rows hold NaN or infinity, which have no neighbours: drop them, x[x.isfinite().all(dim=1)]")
    if max(-low, high) > most:
        raise ValueError(
            f"rows span {low:g} to {high:g}: float64 cannot hold the squares of such distances; rescale them"
        )
    return low, high


def _ends(*rows: Tensor) -> Tensor:
    """(2,) the smallest and the largest number, NaN if one is."""
    ends = [torch.stack(torch.aminmax(part)).double() for part in rows if part.numel()]
    both = torch.stack(ends) if ends else torch.zeros(1, 2, dtype=torch.float64, device=rows[0].device)
    return torch.stack([both[:, 0].amin(), both[:, 1].amax()])


def frame(rows: Tensor, others: Tensor | None, most: int) -> tuple[Tensor, Tensor]:
    """What a search begins with.

    Returns:
        (d,) the mean of about ``most`` of the rows, float64; (2,) the smallest and the largest number of both, float64,
        NaN if one is.
    """
    centre = mean_row(rows[:: max(1, len(rows) // most)])
    return centre, _ends(rows) if others is None else _ends(rows, others)


def mean_row(rows: Tensor) -> Tensor:
    """(d,) mean in float64; a matrix of that type is never made (``mean(dtype=torch.float64)`` makes one)."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    most = _IN_CACHE if rows.device.type == "cpu" else TILE_ELEMENTS
    for part in rows.split(max(1, most // max(1, rows.shape[1]))):
        total += part.double().sum(dim=0)
    return total / max(len(rows), 1)


def empty_table(n: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Distances and indices of no neighbours yet."""
    distances = torch.full((n, k), torch.inf, dtype=torch.float64, device=device)
    return distances, torch.full((n, k), -1, dtype=torch.int64, device=device)


class Points:
    """Queries and reference rows, to measure between."""

    def __init__(self, queries: Tensor, reference: Tensor) -> None:
        self.queries, self.reference = queries, reference

    def squares(self, i: Tensor, j: Tensor) -> Tensor:
        """Squared distances of pairs by subtraction, a slice at a time."""
        return _squares(self.queries, i, self.reference, j)

    def squares_of_many(self, i: Tensor, j: Tensor) -> Tensor:
        """Distances where many rows may be copies: one subtraction for all pairs of the same two kinds of rows."""
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
        bits = rows.view(_INTEGERS[rows.element_size()])
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
    step = max(1, TILE_ELEMENTS // max(1, a.shape[1]))
    pairs = zip(i.split(step), j.split(step), strict=True)
    parts = [(a[p].double() - b[q].double()).square().sum(dim=1) for p, q in pairs]
    return torch.cat(parts) if parts else a.new_zeros(0, dtype=torch.float64)


def squares_to(queries: Tensor, reference: Tensor, indices: Tensor) -> Tensor:
    """(n, k) squared distances to the rows that a table names, by subtraction; inf where it names none (−1)."""
    at, place = (indices >= 0).nonzero(as_tuple=True)
    squares = torch.full(indices.shape, torch.inf, dtype=torch.float64, device=indices.device)
    squares[at, place] = _squares(queries, at, reference, indices[at, place])
    return squares
