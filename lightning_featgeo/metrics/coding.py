"""Coding rate of L2-normalised features: the volume they fill, and how much of it tells classes apart.

Yu et al. (2020), "Learning Diverse and Discriminative Representations via the Principle of Maximal Coding Rate
Reduction" (arXiv 2006.08558), with ε² = 0.5. In nats.
"""

from __future__ import annotations

import torch

from lightning_featgeo.types import Float, Int64, Tensor, Undefined

EPSILON_SQUARED = 0.5


def _rate(unit: Tensor, dim: int) -> Tensor:
    """½ ln det(I + d/(nε²)·ZᵀZ), by the smaller of the two Gram matrices (Sylvester's identity)."""
    n = unit.shape[0]
    gram = unit.T @ unit if unit.shape[1] <= n else unit @ unit.T
    eye = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    return 0.5 * torch.linalg.slogdet(eye + dim / (n * EPSILON_SQUARED) * gram).logabsdet


def coding_rate(unit_rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Coding rate R = ½ ln det(I + d/(nε²)·ZᵀZ) of L2-normalised rows, in nats, > 0.

    Raises:
        Undefined: without a row that is not zero.
    """
    if unit_rows.shape[0] < 1:
        raise Undefined("every row is zero: no row has a direction")
    return _rate(unit_rows, unit_rows.shape[1])


def coding_rate_reduction(
    unit_labelled_rows: Float[Tensor, "n d"], row_labels: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """ΔR = R − Σ_j (n_j/2n) ln det(I + d/(n_jε²)·Z_jᵀZ_j) over labelled rows, in nats, ≥ 0; 0 with one class.

    Raises:
        Undefined: without a labelled row that is not zero.
    """
    n, dim = unit_labelled_rows.shape
    if n < 1:
        raise Undefined("no labelled row has a direction")
    reduction = _rate(unit_labelled_rows, dim)
    for label in row_labels.unique().tolist():
        members = unit_labelled_rows[row_labels == label]
        reduction = reduction - members.shape[0] / n * _rate(members, dim)
    return reduction.clamp(min=0)
