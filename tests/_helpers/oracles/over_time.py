"""Rows of the same samples in two windows, by NumPy, SciPy, scikit-learn and repsim's definitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import NearestNeighbors

from tests._helpers.oracles.spectra import Array, centred


def cka(x: Array, y: Array) -> float:
    """Linear CKA by Gram matrices, as Kornblith et al. write it."""
    n = len(x)
    h = np.eye(n) - 1 / n
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def leading(x: Array) -> Array:
    """The 32 directions of largest variance, half of all, or as many as there are; of many dimensions by 1,024 rows."""
    x = x if x.shape[1] <= 1024 else x[:1024]
    values, turn = np.linalg.svd(centred(x), full_matrices=False)[1:]
    real = int((values > values[0] * max(x.shape) * np.finfo(np.float32).eps).sum())
    return turn[: min(32, x.shape[1] // 2, real)].T


def subspace_sine(x: Array, z: Array) -> float:
    """Mean sine of the angles between the leading directions of both."""
    one, other = leading(x), leading(z)
    k = min(one.shape[1], other.shape[1])
    return float(np.sin(subspace_angles(one[:, :k], other[:, :k])).mean())


def over_time(x: Array, z: Array, y: NDArray[np.int64], voters: int) -> dict[str, float]:
    """Signals of a window x and an earlier one z of the same samples, with labels y, in the bank's order."""
    a, b = (centred(v) / np.linalg.norm(centred(v)) for v in (x, z))
    turn, _ = orthogonal_procrustes(a, b)
    alive = [v[:, v.std(0) > 1e-9] for v in (x, z)]
    correlations = np.corrcoef(alive[0].T, alive[1].T)[: alive[0].shape[1], alive[0].shape[1] :]
    matched = linear_sum_assignment(-correlations)
    cosines = [cosine_similarity(v, v[:128]) for v in (x, z)]
    change = np.abs(cosines[0] - cosines[1])
    own = np.zeros_like(change, dtype=bool)
    np.fill_diagonal(own, True)
    per_row = np.array([row[~mine].mean() for row, mine in zip(change, own, strict=True)])
    classes = [c for c in np.unique(y) if (y == c).sum() > 1]
    shifts = [np.linalg.norm(x[y == c].mean(0) - z[y == c].mean(0)) for c in classes]
    within = np.concatenate([((z[y == c] - z[y == c].mean(0)) ** 2).sum(1) for c in classes])
    queries = min(512, len(x))
    new, old = (cosine_similarity(v[:queries], z) for v in (x, z))
    right = []
    for table in (new.copy(), old.copy()):
        table[np.arange(queries), np.arange(queries)] = -np.inf
        hits = 0
        for i, row in enumerate(table):
            near = np.argsort(-row, kind="stable")[: min(voters, len(z) - 1)]
            votes = np.zeros(int(y.max()) + 1)
            np.add.at(votes, y[near], np.exp(row[near] / 0.07))
            hits += votes.argmax() == y[i]
        right.append(hits / queries)
    same = y[:queries, None] == y[None, :queries]
    others = ~same
    np.fill_diagonal(same, False)
    nearer, further = new[:, :queries] >= old[:, :queries] - 1e-6, new[:, :queries] <= old[:, :queries] + 1e-6
    return {
        "cka_drift": 1 - cka(x, z),
        "procrustes_drift": float(((a @ turn - b) ** 2).sum() / 2),
        "rsa_drift": float(1 - pearsonr(pdist(x[:512]), pdist(z[:512])).statistic),
        "anchor_drift": float(per_row.mean()),
        "unit_match": float(correlations[matched].mean()),
        "subspace_drift": subspace_sine(x, z),
        "class_drift": float(np.mean(shifts) / np.sqrt(within.mean())),
        "compatibility": float(right[0] - right[1]),
        "compatible_pairs": float((nearer[same].mean() + further[others].mean()) / 2),
    }


def overlap(x: Array, y: Array, k: int = 10) -> float:
    """Mean share of k nearest neighbours that are the same in both."""
    near = [NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(return_distance=False) for rows in (x, y)]
    return float(np.mean([len(set(one) & set(other)) / k for one, other in zip(*near, strict=True)]))


def readouts(before: Array, now: Array) -> list[float]:
    """R² of scikit-learn's ridge for each leading direction, fitted without each row in turn."""
    y = PCA(min(10, *now.shape)).fit_transform(now)
    ridge = float(1e-3 * (centred(before) ** 2).sum() / before.shape[1])
    told = cross_val_predict(Ridge(alpha=ridge, solver="svd"), before, y, cv=LeaveOneOut())
    means = (y.sum(axis=0) - y) / (len(y) - 1)
    left, there = ((y - told) ** 2).sum(axis=0), ((y - means) ** 2).sum(axis=0)
    return [float(v) for v in 1 - left / there]
