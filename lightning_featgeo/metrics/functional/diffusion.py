"""Diffusion spectral entropy: how many states a random walk over the rows tells apart, and what labels explain of it.

Liao et al. (2023), "Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion Spectral
Entropy" (arXiv 2312.04823). Their fixed bandwidth follows the scale of the features, so that growing features read as
more states; here it is the median distance of the rows, and logged as ``dse_bandwidth``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.ranks import median
from lightning_featgeo.metrics.functional.segments import by_size
from lightning_featgeo.types import Float, Int64, Tensor

MOST_ROWS = 1024  # decomposing 2,048 takes twelve times as long
COLLISION_ROWS = 2048
LEAST_ROWS = 10
_ROWS_AT_ONCE = 128  # whose distances to all a cache holds
WIDE = 128  # dimensions from which on distances are taken by a product


class Diffusion(NamedTuple):
    """(m, m) squared distances of rows, the bandwidth: the median of the distances that are not 0, or 0, and the kernel
    exp(−‖x−y‖²/2σ²) of that bandwidth; of rows that are all the same, ones."""

    squares: Float[Tensor, "m m"]
    bandwidth: Float[Tensor, ""]
    kernel: Float[Tensor, "m m"]


def distances_of(rows: Float[Tensor, "n d"]) -> Diffusion:
    """Of at most 1,024 rows. Copies have no part in the bandwidth: it would fall to 0 as half of the rows collapse.

    Raises:
        Undefined: with fewer than ten rows.
    """
    if len(rows) < LEAST_ROWS:
        raise Undefined(f"needs {LEAST_ROWS} rows, got {len(rows)}")
    squares = squared_distances(rows[:MOST_ROWS])
    upper = squares[torch.ones_like(squares, dtype=torch.bool).triu(1)]
    apart = upper[upper > 0].sqrt()
    bandwidth = median(apart) if len(apart) else squares.new_zeros(())
    return Diffusion(squares, bandwidth, _kernel(squares, bandwidth))


def dse(diffusion: Diffusion) -> Float[Tensor, ""]:
    """Diffusion spectral entropy of at most 1,024 of the bank's rows, in bits, in [0, log₂ 1024].

    −Σ p log₂ p of p ∝ |λ|, the eigenvalues of D^−½ G D^−½; G = exp(−‖x−y‖²/2σ²), σ the median distance of two rows that
    are not the same and D the row sums of G. 0 where all rows are the same. Clusters read lower than one cloud.

    Raises:
        Undefined: with fewer than ten rows.
    """
    return _entropy(diffusion.kernel)


def dse_collision(diffusion: Diffusion, rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Order-2 Rényi entropy in place of Shannon's, of at most 2,048 of the bank's rows, in bits, in [0, 11].

    −log₂ Σ p², p as for ``dse`` and at its bandwidth: (tr A)²/‖A‖²_F of A = D^−½ G D^−½, which takes no eigenvalues,
    so that twice the rows are taken. Never above Shannon's of the same rows; large shares weigh more in it.

    Raises:
        Undefined: with fewer than ten rows.
    """
    first, others = rows[:MOST_ROWS], rows[MOST_ROWS:COLLISION_ROWS]
    blocks = [diffusion.kernel]
    if len(others):
        squares = squared_distances(rows[:COLLISION_ROWS], after=len(first))
        blocks += _kernel(squares, diffusion.bandwidth).split(len(first), dim=1)
    sums = blocks[0].sum(dim=1)
    if len(others):
        sums = torch.cat([sums + blocks[1].sum(dim=0), blocks[1].sum(dim=1) + blocks[2].sum(dim=1)])
    scaled = [1 / one for one in sums.split(len(first))]
    power = scaled[0] @ blocks[0].square() @ scaled[0]
    if len(others):
        power = power + scaled[1] @ (2 * blocks[1].square() @ scaled[0] + blocks[2].square() @ scaled[1])
    return ((1 / sums).sum().square() / power).log2().clamp(min=0)


def dse_bandwidth(diffusion: Diffusion) -> Float[Tensor, ""]:
    """σ of ``dse``: the median distance of two rows that are not the same, in the features' own units, ≥ 0.

    Raises:
        Undefined: with fewer than ten rows.
    """
    return diffusion.bandwidth


def dsmi(diffusion: Diffusion, bank_labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Diffusion spectral mutual information with the labels, in bits: Σ_c p_c [DSE(as many rows) − DSE(rows of c)].

    Each class is compared with as many of all rows, as the entropy grows with their number. About 0 where labels say
    nothing of the features.

    Args:
        diffusion: of the bank's first rows.
        bank_labels: of the bank; −1 where unknown, left out.

    Raises:
        Undefined: with fewer than ten rows, or if fewer than two classes have a labelled row among the first 1,024.
    """
    labels = bank_labels[: len(diffusion.squares)]
    known = (labels >= 0).nonzero().squeeze(1)
    classes, counts = labels[known].unique(return_counts=True)
    if len(classes) < 2:
        raise Undefined(f"needs 2 classes among the bank's first {MOST_ROWS:,} rows, found {len(classes)}")
    if int(counts.max()) < 2:
        raise Undefined("no class has two labelled rows among those that are compared")
    kernel = diffusion.kernel[known][:, known]
    labels = labels[known]
    found = kernel.new_zeros(())
    for _, index in by_size(labels, _largest(labels)):
        size = index.shape[1]
        of_all = _entropy(kernel[:size, :size])
        of_class = _entropy(kernel[index[:, :, None], index[:, None, :]])
        found = found + size / len(labels) * (of_all - of_class).sum()
    return found


def _largest(labels: Tensor) -> int:
    """Columns of a class's matrix, at most: what bounds how many classes are taken at once."""
    return int(torch.bincount(labels).max())


def squared_distances(rows: Float[Tensor, "n d"], after: int = 0) -> Float[Tensor, "m n"]:
    """Of all pairs, in float64 from their mean; of wide rows by one product (copies then differ by round-off: 0).

    ``after``: of all rows but so many at the start, with all rows.
    """
    x = rows.double()
    x = x - x.mean(dim=0)
    if x.shape[1] <= WIDE:
        return torch.cdist(x[after:], x, compute_mode="donot_use_mm_for_euclid_dist").square()
    lengths = x.square().sum(dim=1)
    parts = []
    for some, length in zip(x[after:].split(_ROWS_AT_ONCE), lengths[after:].split(_ROWS_AT_ONCE), strict=True):
        squares = (length[:, None] + lengths).addmm_(some, x.T, alpha=-2)
        floor = torch.maximum(length[:, None], lengths).mul_(64 * torch.finfo(torch.float64).eps)
        parts.append(squares.masked_fill_(squares <= floor, 0.0))
    found = torch.cat(parts) if parts else x.new_zeros(0, len(x))
    found.diagonal(after).fill_(0)
    return found


def _kernel(squares: Tensor, bandwidth: Tensor) -> Tensor:
    if not bandwidth > 0:
        return torch.ones_like(squares)
    return (squares * (-0.5 / bandwidth.square())).exp_()


def _entropy(kernel: Tensor) -> Tensor:
    """In bits, of one matrix or of each of several."""
    root = kernel.sum(dim=-1).rsqrt()
    values = torch.linalg.eigvalsh((root[..., :, None] * kernel).mul_(root[..., None, :])).abs()
    size = kernel.shape[-1]
    floor = size * torch.finfo(torch.float64).eps * values.amax(dim=-1, keepdim=True)
    values = torch.where(values > floor, values, 0.0)  # a repeated row has no state of its own, and round-off none
    shares = values / values.sum(dim=-1, keepdim=True)
    return -torch.special.xlogy(shares, shares).sum(dim=-1).clamp(max=0) / math.log(2) + 0.0  # no −0
