"""Diffusion spectral entropy: how many states a random walk over the rows tells apart, and what labels explain of it.

Liao et al. (2023), "Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion Spectral
Entropy" (arXiv 2312.04823). Their fixed bandwidth follows the scale of the features, so that growing features read as
more states; here it is the median distance of the rows, and logged as ``dse_bandwidth``.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.segments import by_size
from lightning_featgeo.types import Float, Int64, Tensor

MOST_ROWS = 1024  # decomposing 2,048 takes twelve times as long
LEAST_ROWS = 10


def dse(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Diffusion spectral entropy of at most 1,024 of the bank's rows, in bits, in [0, log₂ 1024].

    −Σ p log₂ p of p ∝ |λ|, the eigenvalues of D^−½ G D^−½; G = exp(−‖x−y‖²/2σ²), σ the median distance of two rows and
    D the row sums of G. 0 where all rows are the same.

    Raises:
        Undefined: with fewer than ten rows.
    """
    squares, sigma = _squares(rows)
    return _entropy(_kernel(squares, sigma))


def dse_bandwidth(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """σ of ``dse``: the median distance of two of these rows, in the features' own units, ≥ 0.

    Raises:
        Undefined: with fewer than ten rows.
    """
    return _squares(rows)[1]


def dsmi(labelled_rows: Float[Tensor, "n d"], labelled_row_labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Diffusion spectral mutual information with the labels, in bits: Σ_c p_c [DSE(as many rows) − DSE(rows of c)].

    Each class is compared with as many of all rows, as the entropy grows with their number. About 0 where labels say
    nothing of the features.

    Args:
        labelled_rows: of the bank; at most 1,024 count.
        labelled_row_labels: their classes.

    Raises:
        Undefined: with fewer than ten labelled rows, or with fewer than two classes.
    """
    labels = labelled_row_labels[:MOST_ROWS]
    if len(labels.unique()) < 2:
        raise Undefined(f"needs labelled rows of 2 classes, found {len(labels.unique())}")
    squares, sigma = _squares(labelled_rows)
    kernel = _kernel(squares, sigma)
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


def _squares(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances of the rows, and the median of the distances of two different ones."""
    if len(rows) < LEAST_ROWS:
        raise Undefined(f"needs {LEAST_ROWS} rows, got {len(rows)}")
    some = rows[:MOST_ROWS].double()
    distances = torch.cdist(
        some - some.mean(dim=0), some - some.mean(dim=0), compute_mode="donot_use_mm_for_euclid_dist"
    )
    upper = distances[torch.ones_like(distances, dtype=torch.bool).triu(1)].sort().values
    return distances.square(), (upper[(len(upper) - 1) // 2] + upper[len(upper) // 2]) / 2


def _kernel(squares: Tensor, sigma: Tensor) -> Tensor:
    """G; where half of all distances are 0, the rows on one another are one state and the others alone."""
    if not sigma > 0:
        return (squares == 0).double()
    return torch.exp(-squares / (2 * sigma.square()))


def _entropy(kernel: Tensor) -> Tensor:
    """In bits, of one matrix or of each of several."""
    root = kernel.sum(dim=-1).rsqrt()
    values = torch.linalg.eigvalsh(root[..., :, None] * kernel * root[..., None, :]).abs()
    size = kernel.shape[-1]
    floor = size * torch.finfo(torch.float64).eps * values.amax(dim=-1, keepdim=True)
    values = torch.where(values > floor, values, 0.0)  # a repeated row has no state of its own, and round-off none
    shares = values / values.sum(dim=-1, keepdim=True)
    return -(torch.special.xlogy(shares, shares)).sum(dim=-1) / torch.log(torch.tensor(2.0, dtype=torch.float64))
