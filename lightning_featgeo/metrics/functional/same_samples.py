"""Rows of two windows that are of the same samples, and what several measures take of both."""

from __future__ import annotations

import math
from functools import cached_property

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.diffusion import squared_distances
from lightning_featgeo.types import Float, Int64, Tensor

SAME_SAMPLES = 0.99  # share of samples that two windows must have in common
DISTANCES = 512  # rows whose distances to each other are compared
ANCHORS = 128  # rows to which cosines are compared


def paired(
    samples: Int64[Tensor, " n"], earlier: Int64[Tensor, " m"], what: str = "earlier window"
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Which rows of two windows are of the same samples, in the order of the first one.

    Rows whose sample nobody could tell have numbers below zero, and are of none.

    Raises:
        Undefined: if samples have several rows each, or fewer than 99 % of the samples are in both.
    """
    if int((samples < 0).sum()) > (1 - SAME_SAMPLES) * len(samples):
        raise Undefined(
            "which samples these rows are of can't be told (reordered or selected inside of the network, or "
            "ids that several samples have)"
        )
    if samples.unique().numel() != samples.numel() or earlier.unique().numel() != earlier.numel():
        raise Undefined("samples have several rows each: which rows belong together can't be told")
    order = earlier.argsort()
    place = torch.searchsorted(earlier[order], samples).clamp(max=max(0, len(earlier) - 1))
    both = earlier[order][place] == samples if len(earlier) else torch.zeros_like(samples, dtype=torch.bool)
    both &= samples >= 0
    n = int(both.sum())
    if n < max(2, math.ceil(SAME_SAMPLES * max(len(samples), len(earlier)))):
        raise Undefined(f"needs the same samples as the {what}: {n} of {len(samples)} were in it")
    return both.nonzero().squeeze(1), order[place[both]]


class Side:
    """(n, d) rows of one window, and what several measures take of them.

    Args:
        rows: of the window.
        known: numbers of these rows that an earlier window has computed; those that this one computes are added.
    """

    def __init__(self, rows: Float[Tensor, "n d"], known: dict[str, Tensor] | None = None) -> None:
        self.rows, self.known = rows, {} if known is None else known

    @property
    def centred(self) -> Tensor:
        """(n, d) in float64, scaled to length 1 as a whole.

        Raises:
            Undefined: if all rows are the same.
        """
        return self._scaled[0]

    @property
    def power(self) -> Tensor:
        """Σ‖x‖² of the same rows before they were centred."""
        return self._scaled[1]

    @cached_property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        x = self.rows.to(torch.float64, copy=True)
        size = torch.linalg.vector_norm(x)
        x -= x.mean(dim=0)
        length = torch.linalg.vector_norm(x)
        if len(x) < 2 or not length > 1e-12 * size:
            raise Undefined("the features of one of the two windows have no spread")
        return x.div_(length), (size / length).square()

    @cached_property
    def gram(self) -> Tensor:
        """(r, r) products of the centred rows' units with each other, summed over rows, r = min(n, d)."""
        x = self.core
        return x.T @ x

    @cached_property
    def core(self) -> Tensor:
        """(n, r) the same in coordinates of their own, r = min(n, d)."""
        x = self.centred
        return x if x.shape[0] >= x.shape[1] else torch.linalg.qr(x.T, mode="r").R.T

    @property
    def product_length(self) -> Tensor:
        """‖XᵀX‖_F of the centred rows X, which is also ‖XXᵀ‖_F."""
        if "product_length" not in self.known:
            # as one product with itself: rows that have not moved have a drift of exactly 0
            self.known["product_length"] = torch.linalg.matrix_norm(self.gram)
        return self.known["product_length"]

    @cached_property
    def directions(self) -> Tensor:
        """(n, d) rows of length 1; zero rows stay zero."""
        x = self.rows.to(torch.float64, copy=True)
        x /= torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-300)
        return x

    @cached_property
    def anchor_cosines(self) -> Tensor:
        """(n, a) cosines of all rows to the first 128."""
        return self.directions @ self.directions[:ANCHORS].T

    @cached_property
    def distances(self) -> Tensor:
        """Distances of the first 512 rows to each other, centred and scaled; their mean is 0, and their length 1.

        Raises:
            Undefined: if all of them are the same.
        """
        squares = squared_distances(self.centred[:DISTANCES])
        found = squares[torch.ones_like(squares, dtype=torch.bool).triu(1)].sqrt()
        found = found - found.mean()
        length = torch.linalg.vector_norm(found)
        if not length > 0:
            raise Undefined("all distances between samples are the same in one of the two windows")
        return found / length

    @cached_property
    def there(self) -> Tensor:
        """(n,) rows that are not zero."""
        least, largest = self.rows.aminmax(dim=1)
        return (least < 0) | (largest > 0)


class Pair:
    """Rows of the same samples in two windows, the bank's first ones first, and what several measures take of both.

    Args:
        now, then: (n, d) and (n, e) rows, sample by sample; of two windows of one layer, d = e. As a :class:`Side`,
            where another pair has it, too.
    """

    def __init__(self, now: Float[Tensor, "n d"] | Side, then: Float[Tensor, "n e"] | Side) -> None:
        self.sides = tuple(one if isinstance(one, Side) else Side(one) for one in (now, then))
        self.now, self.then = (one.rows for one in self.sides)

    @property
    def centred(self) -> tuple[Tensor, Tensor]:
        """(n, d) each, in float64, scaled to length 1 as a whole.

        Raises:
            Undefined: if the rows of one of the windows are all the same.
        """
        return self.sides[0].centred, self.sides[1].centred

    @property
    def directions(self) -> tuple[Tensor, Tensor]:
        """(n, d) each, rows of length 1; zero rows stay zero."""
        return self.sides[0].directions, self.sides[1].directions

    @cached_property
    def products(self) -> Tensor:
        """(d, e) products of the one's units with the other's, summed over samples."""
        x, y = self.centred
        return x.T @ y

    @cached_property
    def cross(self) -> Tensor:
        """(r, r) the same in coordinates of each one's rows, r = min(n, d); its singular values are the same."""
        one, other = (side.core for side in self.sides)
        wide = one.shape[1] < self.now.shape[1] or other.shape[1] < self.then.shape[1]
        return one.T @ other if wide else self.products

    def of_one_width(self) -> Pair:
        """Itself, where both have the same dimensions.

        Raises:
            Undefined: else.
        """
        d, e = self.now.shape[1], self.then.shape[1]
        if d != e:
            raise Undefined(f"features have {d} dimensions here and {e} there, and are compared one by one")
        return self
