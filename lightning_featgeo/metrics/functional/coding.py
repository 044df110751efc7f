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


def rate(unit: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """½ ln det(I + d/(nε²)·ZᵀZ) of L2-normalised rows, by the smaller of the two Gram matrices (Sylvester)."""
    n, dim = unit.shape
    if n < 1:
        raise Undefined("every row is zero: no row has a direction")
    return _rate_of_gram(unit.T @ unit if dim <= n else unit @ unit.T, n, dim)


def _rate_of_gram(gram: Tensor, n: int, dim: int) -> Tensor:
    """Of one Gram matrix, or of each of several."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return 0.5 * torch.linalg.slogdet(eye + dim / (n * EPSILON_SQUARED) * gram).logabsdet


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
        smaller = z.mT @ z if dim <= size else z @ z.mT
        within = within + size / n * _rate_of_gram(smaller, size, dim).sum()
        covered, gram = covered and dim <= size, gram + smaller.sum(dim=0) if dim <= size else gram
    return _rate_of_gram(gram, n, dim) if covered else rate(unit_labelled_rows), within


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
