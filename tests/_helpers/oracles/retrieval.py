"""Retrieval and linear read-outs, by scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.neighbors import NearestCentroid

from tests._helpers.oracles.spectra import Array


def retrieval(x: Array, y: NDArray[np.int64], knn_k: int = 200) -> dict[str, float | None]:
    """By class among the rows themselves."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    k = max(1, min(knn_k, len(x) // len(np.unique(y)), len(x) - 1), min(10, len(x) - 1))
    counts = np.bincount(y)
    hits: dict[int, list[bool]] = {1: [], 5: [], 10: []}
    precisions = []
    for i, row in enumerate(cosines):
        if counts[y[i]] < 2:
            continue
        right = y[np.argsort(-row, kind="stable")[:k]] == y[i]
        for m, found in hits.items():
            found.append(bool(right[:m].any()))
        precisions.append((np.cumsum(right) / np.arange(1, k + 1) * right).sum() / min(k, counts[y[i]] - 1))
    n = min(len(x), 1024)
    i, j = np.triu_indices(n, 1)
    truth: dict[str, float | None] = {f"recall_at_{m}": float(np.mean(v)) if m <= k else None for m, v in hits.items()}
    truth["map_at_k"] = float(np.mean(precisions))
    truth["verification_auroc"] = float(roc_auc_score(y[i] == y[j], (unit @ unit.T)[i, j]))
    truth["nearest_mean_accuracy"] = float(NearestCentroid().fit(x, y).score(x, y))
    return truth


def pairs(groups: Array) -> dict[str, float]:
    """Of (samples, views, d), between the first two views."""
    a, b = (groups[:, v] / np.linalg.norm(groups[:, v], axis=1, keepdims=True) for v in (0, 1))
    cosines = a @ b.T
    truth = {}
    for k in (1, 5, 10):
        both = [
            np.mean(
                [(np.delete(row, i) >= row[i] - 1e-12).sum() < k for i, row in enumerate(table)]
            )  # ties count against it
            for table in (cosines, cosines.T)
        ]
        truth[f"pair_recall_at_{k}"] = float(np.mean(both))
    first = cosines[:1024, :1024]
    return truth | {"pair_auroc": float(roc_auc_score(np.eye(len(first), dtype=bool).ravel(), first.ravel()))}


def ridge_lambda(x: Array) -> float:
    """1e-3 of the average eigenvalue of the scatter."""
    return float(1e-3 * ((x - x.mean(0)) ** 2).sum() / x.shape[1])


def probe_accuracy(x: Array, y: NDArray[np.int64], rows: Array, labels: NDArray[np.int64]) -> float:
    """Fitted to x, scored on rows."""
    return float(RidgeClassifier(alpha=ridge_lambda(x), solver="cholesky").fit(x, y).score(rows, labels))


def probe_r2(x: Array, t: Array, rows: Array, targets: Array) -> float:
    """The same for targets."""
    return float(r2_score(targets, Ridge(alpha=ridge_lambda(x), solver="cholesky").fit(x, t).predict(rows)))
