"""What the history keeps of a window's curves: few enough numbers for a line of a file."""

from __future__ import annotations

import math

from lightning_featgeo.types import Tensor

SPECTRUM_POINTS = 48  # eigenvalues


def thin_spectrum(eigenvalues: Tensor | None) -> list[list[float]]:
    """(rank, eigenvalue) pairs at ranks that are even on a logarithmic axis."""
    if eigenvalues is None or not len(eigenvalues):
        return []
    n = len(eigenvalues)
    ranks = dict.fromkeys(round(n ** (i / (SPECTRUM_POINTS - 1))) for i in range(SPECTRUM_POINTS))
    values = eigenvalues.clamp(min=0).tolist()
    return [[float(rank), float(f"{values[rank - 1]:.5g}")] for rank in ranks]


def below_the_diagonal(matrix: Tensor | None) -> list[list[float | None]]:
    """Rows of a symmetric matrix, each up to its diagonal; None where it has no value."""
    rows = [] if matrix is None else matrix.tolist()
    return [[float(f"{v:.4g}") if math.isfinite(v) else None for v in row[:i]] for i, row in enumerate(rows)]
