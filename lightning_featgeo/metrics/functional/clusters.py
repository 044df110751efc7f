"""How many clusters the rows form, without labels: HDBSCAN, where scikit-learn is installed.

Campello, Moulavi & Sander (2013), "Density-Based Clustering Based on Hierarchical Density Estimates".
"""

from __future__ import annotations

from typing import Any

import torch

from lightning_featgeo import _compat
from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.functional.diffusion import Diffusion
from lightning_featgeo.types import Float, Int64, Tensor

LEAST = 10  # rows of a cluster
HOW_TO = "pip install scikit-learn"


def clusters_of(diffusion: Diffusion) -> Int64[Tensor, " m"]:
    """Cluster of each of at most 1,024 rows; −1 for noise.

    Raises:
        Undefined: with fewer than twenty rows, or without scikit-learn.
    """
    n = len(diffusion.squares)
    if n < 2 * LEAST:
        raise Undefined(f"needs {2 * LEAST} rows, got {n}")
    if not _compat.is_installed("sklearn"):
        raise Undefined(f"clusters are found by scikit-learn, which is not installed: {HOW_TO}", GapKind.NO_INPUT)
    from sklearn.cluster import HDBSCAN

    distances: Any = diffusion.squares.sqrt().float().double().cpu().numpy()  # rounded: equal ones stay equal
    found = HDBSCAN(min_cluster_size=LEAST, metric="precomputed", copy=False).fit(distances).labels_
    return torch.from_numpy(found.astype("int64"))


def cluster_count(row_clusters: Int64[Tensor, " m"]) -> Float[Tensor, ""]:
    """Clusters of ten rows and more that HDBSCAN finds in at most 1,024 of the bank's rows, in [0, 102]; no labels.

    0: one cloud, or noise. More than classes: some have several modes, or features keep more than the label. Takes
    scikit-learn.

    Raises:
        Undefined: with fewer than twenty rows, or without scikit-learn.
    """
    return (row_clusters.max() + 1).double()


def cluster_noise(row_clusters: Int64[Tensor, " m"]) -> Float[Tensor, ""]:
    """Share of these rows that HDBSCAN puts into no cluster, in [0, 1].

    Raises:
        Undefined: with fewer than twenty rows, or without scikit-learn.
    """
    return (row_clusters < 0).double().mean()
