"""Intrinsic dimension from the growth of minimal spanning trees, the zeroth persistent homology of the rows.

Birdal et al. (2021), "Intrinsic Dimension, Persistent Homology and Generalization in Neural Networks" (arXiv
2111.13171); Tulchinskii et al. (2023), "Intrinsic Dimension Estimation for Robust Detection of AI-Generated Texts"
(arXiv 2306.04723).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.diffusion import Diffusion
from lightning_featgeo.types import Float, Tensor

LEAST_ROWS = 64
STEPS = 7  # sizes from all rows down to an eighth, each 1/√2 of the one before


def id_mst(diffusion: Diffusion) -> Float[Tensor, ""]:
    """d = 1/(1 − m), m the slope of ln Σ(edges) on ln n over seven nested subsets of at most 1,024 rows; > 0.

    A tree of n rows of a d-dimensional set has a length that grows as n^((d−1)/d). Less biased by noise than
    ``id_two_nn``, which looks at the smallest distances only.

    Raises:
        Undefined: with fewer than 64 rows, if they are the same, or if the tree grows as fast as the rows (no finite
            dimension).
    """
    n = len(diffusion.squares)
    if n < LEAST_ROWS:
        raise Undefined(f"needs {LEAST_ROWS} rows, got {n}")
    distances = diffusion.squares.sqrt().cpu().numpy()  # a step for each row, and each a wait on a device
    sizes = [round(n * 2 ** (-step / 2)) for step in range(STEPS)]
    lengths = torch.tensor([_tree(distances[:size, :size]) for size in sizes], dtype=torch.float64)
    if not bool((lengths > 0).all()):
        raise Undefined("the rows are the same")
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), lengths.log()
    slope = ((x - x.mean()) @ (y - y.mean())) / (x - x.mean()).square().sum()
    if not slope < 1:
        raise Undefined("the tree grows as fast as the number of rows: no finite dimension")
    return (1 / (1 - slope)).to(diffusion.squares.device)


def _tree(distances: NDArray[np.float64]) -> float:
    """Length of the minimal spanning tree, by Prim's algorithm: the nearest row outside joins next."""
    joined = np.zeros(len(distances))
    joined[0] = np.inf
    nearest, edges = np.maximum(distances[0], joined), []
    for _ in range(len(distances) - 1):
        row = nearest.argmin()
        edges.append(nearest[row])
        joined[row] = np.inf
        np.minimum(nearest, distances[row], out=nearest)
        np.maximum(nearest, joined, out=nearest)
    return math.fsum(edges)
