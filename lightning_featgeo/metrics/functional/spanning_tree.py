"""Intrinsic dimension from the growth of minimal spanning trees, the zeroth persistent homology of the rows.

Birdal et al. (2021), "Intrinsic Dimension, Persistent Homology and Generalization in Neural Networks" (arXiv
2111.13171); Tulchinskii et al. (2023), "Intrinsic Dimension Estimation for Robust Detection of AI-Generated Texts"
(arXiv 2306.04723).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.diffusion import squared_distances
from lightning_featgeo.types import Float, Tensor

MOST_ROWS = 1024
LEAST_ROWS = 64
STEPS = 7  # sizes from all rows down to an eighth, each 1/√2 of the one before


def id_mst(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """d = 1/(1 − m), m the slope of ln Σ(edges) on ln n over seven nested subsets of at most 1,024 rows; > 0.

    A tree of n rows of a d-dimensional set has a length that grows as n^((d−1)/d). Less biased by noise than
    ``id_two_nn``, which looks at the smallest distances only.

    Raises:
        Undefined: with fewer than 64 rows, if they are the same, or if the tree grows as fast as the rows (no finite
            dimension).
    """
    n = min(len(rows), MOST_ROWS)
    if n < LEAST_ROWS:
        raise Undefined(f"needs {LEAST_ROWS} rows, got {len(rows)}")
    distances = squared_distances(rows[:n]).sqrt().cpu()  # a step for each row, and each a wait on a device
    sizes = [round(n * 2 ** (-step / 2)) for step in range(STEPS)]
    lengths = torch.stack([_tree(distances[:size, :size]) for size in sizes])
    if not bool((lengths > 0).all()):
        raise Undefined("the rows are the same")
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), lengths.log()
    slope = ((x - x.mean()) @ (y - y.mean())) / (x - x.mean()).square().sum()
    if not slope < 1:
        raise Undefined("the tree grows as fast as the number of rows: no finite dimension")
    return (1 / (1 - slope)).to(rows.device)


def _tree(distances: Tensor) -> Tensor:
    """Length of the minimal spanning tree, by Prim's algorithm: the nearest row outside joins next."""
    nearest = distances[0].clone()
    nearest[0] = torch.inf
    joined, total = [0], []
    outside = torch.ones(len(distances), dtype=torch.bool)
    outside[0] = False
    for _ in range(len(distances) - 1):
        edge, row = nearest.min(dim=0)
        total.append(edge)
        joined.append(int(row))
        outside[row] = False
        nearest = torch.where(outside, torch.minimum(nearest, distances[row]), torch.inf)
    return torch.stack(total).sum()
