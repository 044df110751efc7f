"""Coding rate of L2-normalised features: the volume they fill, and how much of it tells classes apart.

Yu et al. (2020), "Learning Diverse and Discriminative Representations via the Principle of Maximal Coding Rate
Reduction" (arXiv 2006.08558), with ε² = 0.5. In nats.
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.segments import by_size
from lightning_featgeo.types import Float, Int64, Tensor

EPSILON_SQUARED = 0.5
_BLOCK = 128  # rows of products at a time
_SEEN = 1e-6  # of round-off, beside the ones of I + G


def rate(unit: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """½ ln det(I + d/(nε²)·ZᵀZ) of L2-normalised rows, by the smaller of the two Gram matrices (Sylvester)."""
    n, dim = unit.shape
    if n < 1:
        raise Undefined("every row is zero: no row has a direction")
    return _rate_of_gram(unit.T @ unit if dim <= n else unit @ unit.T, n, dim)


def _rate_of_gram(gram: Tensor, n: int, dim: int) -> Tensor:
    """Of one Gram matrix, or of each of several."""
    return half_log_det(dim / (n * EPSILON_SQUARED) * gram)


def half_log_det(gram: Float[Tensor, "*k m m"]) -> Float[Tensor, "*k"]:
    """½ ln det(I + G) of a Gram matrix in float64, or of each of several: of what is at and below the diagonal.

    By Cholesky: LU of several matrices gives wrong numbers on a CPU with two or more threads (pytorch#142815). Of
    matrices so large that their round-off is seen beside the ones: by eigenvalues, without those that are round-off.
    """
    size = gram.shape[-1]
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    round_off = size * torch.finfo(gram.dtype).eps * diagonal.sum(dim=-1)
    if bool((round_off > _SEEN).any()):
        values = torch.linalg.eigvalsh(gram)
        return 0.5 * torch.where(values > round_off[..., None], values, 0.0).log1p().sum(dim=-1)
    factor = torch.linalg.cholesky(gram + torch.eye(size, dtype=gram.dtype, device=gram.device))
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def rates_by_class(
    unit_labelled_rows: Float[Tensor, "n d"], row_labels: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """R of all labelled rows, and Σ_j n_j/n·R_j over their classes."""
    n, dim = unit_labelled_rows.shape
    if n < 1:
        raise Undefined("no labelled row has a direction")
    within, gram = unit_labelled_rows.new_zeros(()), unit_labelled_rows.new_zeros(dim, dim)
    covered = True  # whether the classes' Gram matrices add up to that of all rows
    for _, index in by_size(row_labels, dim):
        z, size = unit_labelled_rows[index], index.shape[1]
        smaller = _lower_products(z.mT if dim <= size else z)
        within = within + size / n * _rate_of_gram(smaller, size, dim).sum()
        covered, gram = covered and dim <= size, gram + smaller.sum(dim=0) if dim <= size else gram
    return _rate_of_gram(gram, n, dim) if covered else rate(unit_labelled_rows), within


def _lower_products(z: Float[Tensor, "k m n"]) -> Float[Tensor, "k m m"]:
    """ZZᵀ at and below the diagonal, which is what a Cholesky decomposition reads; blocks above it are not set."""
    products = z.new_zeros(z.shape[0], z.shape[1], z.shape[1])
    for start in range(0, z.shape[1], _BLOCK):
        some = slice(start, start + _BLOCK)
        products[:, some, : start + _BLOCK] = z[:, some] @ z[:, : start + _BLOCK].mT
    return products


def coding_rate(unit_coding_rate: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Coding rate R = ½ ln det(I + d/(nε²)·ZᵀZ) of the bank's L2-normalised rows, in nats, > 0.

    Raises:
        Undefined: without a row that is not zero.
    """
    return unit_coding_rate


def coding_rate_reduction(class_coding_rates: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """ΔR = R − Σ_j (n_j/2n) ln det(I + d/(n_jε²)·Z_jᵀZ_j) over labelled rows, in nats, ≥ 0; 0 with one class.

    Raises:
        Undefined: without a labelled row that is not zero.
    """
    whole, within = class_coding_rates
    return (whole - within).clamp(min=0)
