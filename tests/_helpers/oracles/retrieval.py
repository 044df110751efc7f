"""Retrieval and linear read-outs, by scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.neighbors import NearestCentroid

from tests._helpers.oracles.spectra import Array


def retrieval(x: Array, y: NDArray[np.int64], knn_k: int = 200, queries: int | None = None) -> dict[str, float | None]:
    """By class among the rows themselves, of which the first ones ask."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    k = max(1, min(knn_k, len(x) // len(np.unique(y)), len(x) - 1), min(10, len(x) - 1))
    counts = np.bincount(y)
    hits: dict[int, list[bool]] = {1: [], 5: [], 10: []}
    precisions = []
    for i, row in enumerate(cosines[:queries]):
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
    truth["opis"] = opis(unit[:n], y[:n])
    truth["nearest_mean_accuracy"] = float(NearestCentroid().fit(x, y).score(x, y))
    return truth


def opis(unit: Array, y: NDArray[np.int64]) -> float | None:
    """Class by class and threshold by threshold, as the paper writes it."""
    classes = [c for c in np.unique(y) if (y == c).sum() > 1]
    if len(classes) < 2:
        return None
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=2) if len(unit) < 400 else _distances(unit)
    off = ~np.eye(len(y), dtype=bool)
    low, high = np.quantile(distances[off & (y[:, None] != y[None])], [0.01, 0.1])
    utility = np.zeros((len(classes), 101))
    for a, c in enumerate(classes):
        own, others = distances[np.ix_(y == c, y == c)], distances[np.ix_(y == c, y != c)].ravel()
        own = own[~np.eye(len(own), dtype=bool)]
        for b, threshold in enumerate(np.linspace(low, high, 101)):
            accepted, rejected = (own <= threshold).mean(), (others > threshold).mean()
            utility[a, b] = 2 * accepted * rejected / (accepted + rejected) if accepted + rejected else 0.0
    return float(utility.var(axis=0).mean())


def _distances(unit: Array) -> Array:
    return np.sqrt(np.maximum(2 - 2 * unit @ unit.T, 0))


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
    own = np.eye(len(first), dtype=bool)
    shares = [np.histogram(first[which], 64, (-1, 1))[0] / which.sum() for which in (own, ~own)]
    truth["pair_overlap"] = float(np.minimum(*shares).sum())
    return truth | {"pair_auroc": float(roc_auc_score(own.ravel(), first.ravel()))}


def ridge_lambda(x: Array) -> float:
    """1e-3 of the average eigenvalue of the scatter."""
    return float(1e-3 * ((x - x.mean(0)) ** 2).sum() / x.shape[1])


def probe_accuracy(x: Array, y: NDArray[np.int64], rows: Array, labels: NDArray[np.int64]) -> float:
    """Fitted to x, scored on rows."""
    return float(RidgeClassifier(alpha=ridge_lambda(x), solver="cholesky").fit(x, y).score(rows, labels))


def probe_r2(x: Array, t: Array, rows: Array, targets: Array) -> float:
    """The same for targets."""
    return float(r2_score(targets, Ridge(alpha=ridge_lambda(x), solver="cholesky").fit(x, t).predict(rows)))
