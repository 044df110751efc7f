"""What a record keeps of a window's curves: few numbers, so that histories stay small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_featgeo.history import sketches
from lightning_featgeo.history.layouts import is_due
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.between_layers import shown_matrix

SPECTRUM_POINTS = 48  # eigenvalues that the history keeps of a window


def kept_curves(curves: Mapping[str, Tensor], window: int) -> dict[str, Any]:
    """Fields of a record, by name.

    Args:
        curves: of a window.
        window: its number; later on, not each one has all of them.
    """
    return {
        "spectrum": thin_spectrum(curves.get("eigenvalues")),
        "layer_cka": shown_matrix(curves, window) if "layer_cka_matrix" in curves else [],
        "sketch": sketches.packed(curves["sketch"]) if "sketch" in curves and is_due(window) else "",
    }


def thin_spectrum(eigenvalues: Tensor | None) -> list[list[float]]:
    """(rank, eigenvalue) pairs at ranks that are even on a logarithmic axis."""
    if eigenvalues is None or not len(eigenvalues):
        return []
    n = len(eigenvalues)
    ranks = dict.fromkeys(round(n ** (i / (SPECTRUM_POINTS - 1))) for i in range(SPECTRUM_POINTS))
    values = eigenvalues.clamp(min=0).tolist()
    return [[float(rank), float(f"{values[rank - 1]:.5g}")] for rank in ranks]
