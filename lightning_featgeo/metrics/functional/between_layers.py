"""Two layers of one window: do they hold the same samples in the same geometry?

Kornblith et al. (2019), "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414); Goel et al.
(2025), "Great Models Think Alike and this Undermines AI Oversight" (arXiv 2502.04313), for the overlap of neighbours;
Xu et al. (2020), "A Theory of Usable Information Under Computational Constraints" (arXiv 2002.10689), for what a linear
map can read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.drift import cka_drift
from lightning_featgeo.metrics.functional.probes import RIDGE
from lightning_featgeo.metrics.functional.same_samples import Pair
from lightning_featgeo.types import Float, Tensor

OVERLAP_ROWS = 2048  # that are searched in each of the two
OVERLAP_K = 10
MATRIX_ROWS = 1024  # of each layer, for the charts of all pairs
DIRECTIONS = 10  # of a layer that are read from others


def layer_cka(pair: Pair) -> Float[Tensor, ""]:
    """Linear CKA of the layer with the one that is watched before it, in [0, 1]; 1: the same up to rotation and scale.

    ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred rows of the same samples; the layers may have different dimensions.

    Raises:
        Undefined: for the first layer, without the same samples in both, of samples with several rows (tokens), or
            without spread in one of them.
    """
    return 1 - cka_drift(pair)


def layer_overlap(pair: Pair) -> Float[Tensor, ""]:
    """Mean share of a row's 10 nearest neighbours that are the same in the layer watched before it, in [0, 1].

    About 10/n for layers that have nothing to do with each other. Of the bank's first 2,048 rows.

    Raises:
        Undefined: for the first layer, without the same samples in both, of samples with several rows (tokens), or
            with fewer than 12 samples.
    """
    return neighbor_overlap(pair)


def neighbor_overlap(pair: Pair) -> Float[Tensor, ""]:
    """Mean share of a row's 10 nearest neighbours that are the same in the other rows of the same samples, in [0, 1].

    About 10/n for rows that have nothing to do with each other. Of the bank's first 2,048 rows.

    Raises:
        Undefined: without the same samples in both, or with fewer than 12 of them.
    """
    n = min(len(pair.now), OVERLAP_ROWS)
    if n < OVERLAP_K + 2:
        raise Undefined(f"needs {OVERLAP_K + 2} samples in both, got {n}")
    return _shared(*(_nearest(rows[:n]) for rows in (pair.now, pair.then)))


def _nearest(rows: Tensor) -> Tensor:
    return ops.knn(rows, rows, OVERLAP_K, exclude_self=True)[1]


def _shared(one: Tensor, other: Tensor) -> Tensor:
    """Mean share of each row's neighbours that both tables have."""
    return (one[:, :, None] == other[:, None, :]).any(dim=2).double().mean()


def readouts(before: Float[Tensor, "n d"], now: Float[Tensor, "n e"]) -> Float[Tensor, " k"]:
    """How well a linear map of one layer's rows tells another's k ≤ 10 leading principal directions, in (−∞, 1] each.

    R² of ridge regression with each row left out in turn, in closed form: 1 − Σ e_i²/(1 − h_ii)² over what the mean of
    the other rows misses. λ is 1e-3 of the average eigenvalue, as for linear probes. Not the R² of the rows that it was
    fitted to, which for n rows of d dimensions reads d/n of noise.

    Args:
        before: rows of the layer that is read.
        now: rows of the same samples, whose directions are told.

    Raises:
        Undefined: with fewer than three rows, or without spread in one of the two.
    """
    x, y = (t[:MATRIX_ROWS].double() for t in (before, now))
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    n = len(x)
    ridge = RIDGE * x.square().sum() / x.shape[1]
    if n < 3 or not ridge > 0 or not y.square().sum() > 0:
        raise Undefined("needs three samples, and spread in both layers")
    u, s, _ = torch.linalg.svd(y, full_matrices=False)
    k = min(DIRECTIONS, int((s > 1e-6 * s[0]).sum()))
    target = u[:, :k] * s[:k]
    basis, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    kept = sizes.square() / (sizes.square() + ridge)
    leverage = 1 / n + basis.square() @ kept
    missed = (target - basis @ (kept[:, None] * (basis.T @ target))) / (1 - leverage).clamp(min=1e-12)[:, None]
    return 1 - missed.square().sum(dim=0) / (target * (n / (n - 1))).square().sum(dim=0)


def layer_readout(pair: Pair) -> Float[Tensor, ""]:
    """Mean R² with which the layer watched before tells this one's leading directions by a linear map, in (−∞, 1].

    Of up to 10 principal directions, each row left out in turn (see ``readouts``). 1: nothing new is computed between
    the two that a linear layer could not. Of the bank's first 1,024 rows.

    Raises:
        Undefined: for the first layer, without the same samples in both, of samples with several rows (tokens), or
            without spread in one of them.
    """
    return readouts(pair.then, pair.now).mean()


def layer_cosine(pair: Pair) -> Float[Tensor, ""]:
    """Mean cosine of a row with the row of the same sample in the layer watched before it, in [−1, 1].

    Near 1 along a residual stream: each block adds little. Rows that are zero in one of the two are left out.

    Raises:
        Undefined: for the first layer, of samples with several rows (tokens), if the two have different dimensions, or
            if all rows are zero in one of them.
    """
    there = pair.of_one_width().sides[0].there & pair.sides[1].there
    if not bool(there.any()):
        raise Undefined("every row is zero in one of the two layers")
    here, before = pair.directions
    return (here * before).sum(dim=1)[there].mean()


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


def overlap_matrix(layers: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "l l"]:
    """(L, L) mean share of a row's 10 nearest neighbours that two layers have in common, from rows of the same samples.

    Raises:
        Undefined: with fewer than 12 samples.
    """
    if len(layers[0]) < OVERLAP_K + 2:
        raise Undefined(f"needs {OVERLAP_K + 2} samples, got {len(layers[0])}")
    tables = [_nearest(rows) for rows in layers]
    return torch.stack([torch.stack([_shared(one, other) for other in tables]) for one in tables])
