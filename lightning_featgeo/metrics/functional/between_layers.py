"""Two layers of one window: do they hold the same samples in the same geometry?

Kornblith et al. (2019), "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414); Goel et al.
(2025), "Great Models Think Alike and this Undermines AI Oversight" (arXiv 2502.04313), for the overlap of neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.drift import Pair, cka_drift
from lightning_featgeo.types import Float, Tensor

OVERLAP_ROWS = 2048  # that are searched in each of the two
OVERLAP_K = 10
MATRIX_ROWS = 1024  # of each layer, for the chart of all pairs


def layer_cka(pair: Pair) -> Float[Tensor, ""]:
    """Linear CKA of the layer with the one that is watched before it, in [0, 1]; 1: the same up to rotation and scale.

    ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred rows of the same samples; the layers may have different dimensions.

    Raises:
        Undefined: for the first layer, without the same samples in both, or without spread in one of them.
    """
    return 1 - cka_drift(pair)


def layer_overlap(pair: Pair) -> Float[Tensor, ""]:
    """Mean share of a row's 10 nearest neighbours that are the same in the layer watched before it, in [0, 1].

    About 10/n for layers that have nothing to do with each other. Of the bank's first 2,048 rows. The same between
    the layer and an anchor is ``neighbor_overlap_anchor``.

    Raises:
        Undefined: for the first layer, without the same samples in both, or with fewer than 12 of them.
    """
    n = min(len(pair.now), OVERLAP_ROWS)
    if n < OVERLAP_K + 2:
        raise Undefined(f"needs {OVERLAP_K + 2} samples in both layers, got {n}")
    found = [ops.knn(rows[:n], rows[:n], OVERLAP_K, exclude_self=True)[1] for rows in (pair.now, pair.then)]
    return (found[0][:, :, None] == found[1][:, None, :]).any(dim=2).double().mean()


def cka_matrix(layers: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "l l"]:
    """(L, L) linear CKA of every pair of layers, from (n, d) rows of the same samples; NaN without any spread."""
    found = torch.full((len(layers), len(layers)), torch.nan, dtype=torch.float64)
    grams = []
    for rows in layers:
        x = rows.double()
        x = x - x.mean(dim=0)
        gram = x @ x.T  # n × n, whatever the widths
        length = torch.linalg.matrix_norm(gram)
        grams.append(gram / length if length > 0 else None)
    for i, one in enumerate(grams):
        for j, other in enumerate(grams[: i + 1]):
            if one is not None and other is not None:
                found[i, j] = found[j, i] = (one * other).sum().clamp(0, 1)
    return found
