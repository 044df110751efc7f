"""Independent float64 formulas and other libraries: what every signal is compared with. NumPy, SciPy, scikit-learn
and scikit-dimension only; nothing here imports lightning_featgeo."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.neighbors import NearestNeighbors

Array = NDArray[np.float64]


def _entropy_rank(s: Array, epsilon: float) -> float:
    p = s / s.sum() + epsilon
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def centred(x: Array) -> Array:
    x = x - x.mean(0)
    return x - x.mean(0)  # twice: the first mean of large numbers is itself rounded


def distances(x: Array, k: int) -> Array:
    """To the k nearest other rows, by scikit-learn's tree, which subtracts coordinates."""
    found, _ = NearestNeighbors(n_neighbors=k + 1, algorithm="kd_tree").fit(x).kneighbors(x)
    return found[:, 1:]


def spectrum(x: Array) -> dict[str, float]:
    s = np.linalg.svd(centred(x), compute_uv=False)[: min(len(x) - 1, x.shape[1])]
    lam = s**2
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return {
        "effective_rank": _entropy_rank(s, 0.0),
        "rankme": _entropy_rank(np.linalg.svd(x, compute_uv=False), 1e-7),
        "participation_ratio": float(lam.sum() ** 2 / (lam**2).sum()),
        "stable_rank": float(lam.sum() / lam[0]),
        "top_eigenvalue_share": float(lam[0] / lam.sum()),
        "feature_std": float(unit.std(0, ddof=1).mean() * math.sqrt(x.shape[1])),
        "mean_resultant": float((unit.mean(0) ** 2).sum()),
        "dead_fraction": float((~(x > 0).any(0)).mean()),
    }


def two_nn(r: Array) -> float:
    mu = np.sort(r[:, 1] / r[:, 0])
    n = len(mu)
    kept = int(0.9 * n)
    f = np.arange(1, kept + 1) / n
    lx, y = np.log(mu[:kept]), -np.log(1 - f)
    return float((lx @ y) / (lx @ lx))


def id_mle(r: Array) -> float:
    k = r.shape[1]
    inverse = np.log(r[:, -1:] / r[:, :-1]).sum(1) / (k - 1)
    return float(1 / inverse.mean())


def log_densities(r: Array, d: int) -> Array:
    n, k = r.shape
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return math.log(k - 1) - math.log(n - 1) - ball - d * np.log(r[:, -1])


def neighbours(x: Array, y: NDArray[np.int64], k: int = 20, vote_k: int = 200) -> dict[str, float]:
    r = distances(x, k)
    logs = log_densities(r, x.shape[1])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cos = unit @ unit.T
    np.fill_diagonal(cos, -np.inf)
    right = 0
    for i, row in enumerate(cos):
        near = np.argsort(-row, kind="stable")[: min(vote_k, len(x) - 1)]
        votes = np.zeros(int(y.max()) + 1)
        np.add.at(votes, y[near], np.exp(row[near] / 0.07))
        right += votes.argmax() == y[i]
    return {
        "id_two_nn": two_nn(r),
        "id_mle": id_mle(r),
        "knn_log_density": float(logs.mean()),
        "knn_log_density_q05": float(np.quantile(logs, 0.05)),
        "knn_log_density_q50": float(np.quantile(logs, 0.5)),
        "knn_log_density_q95": float(np.quantile(logs, 0.95)),
        "knn_accuracy": right / len(x),
        "uniformity": float(np.log(np.exp(-2 * pdist(unit, "sqeuclidean")).mean())),
    }


def classes(x: Array, y: NDArray[np.int64], weight: Array, bias: Array) -> dict[str, float]:
    labels = np.unique(y)
    c = len(labels)
    origin = x.mean(0)
    x, bias = x - origin, bias + weight @ origin
    groups = [x[y == label] for label in labels]
    means = np.stack([g.mean(0) for g in groups])
    spread = [centred(g) for g in groups]
    v = np.array([(s**2).sum(1).mean() for s in spread])
    within = sum(s.T @ s for s in spread) / len(x)
    m = means - means.mean(0)
    between = m.T @ m / c
    u, s, vt = np.linalg.svd(between)
    pinv = (vt[: c - 1].T / s[: c - 1]) @ u[:, : c - 1].T
    norms = np.linalg.norm(m, axis=1)
    cos = (m / norms[:, None]) @ (m / norms[:, None]).T
    pairs = [(i, j) for i in range(c) for j in range(c) if i < j]
    predicted = (x @ weight.T + bias).argmax(1)
    nearest = ((x[:, None, :] - means[None]) ** 2).sum(2).argmin(1)
    return {
        "nc1": float(np.trace(within @ pinv) / c),
        "nc1_ratio": float(np.trace(within) / np.trace(between)),
        "nc2_equinorm": float(norms.std(ddof=1) / norms.mean()),
        "nc2_equiangle": float(np.mean([abs(cos[i, j] + 1 / (c - 1)) for i, j in pairs])),
        "nc3": float(np.linalg.norm(weight / np.linalg.norm(weight) - m / np.linalg.norm(m))),
        "nc4": float((predicted != labels[nearest]).mean()),
        "cdnv": float(np.mean([(v[i] + v[j]) / (2 * ((means[i] - means[j]) ** 2).sum()) for i, j in pairs])),
    }


def every_signal(x: Array, y: NDArray[np.int64], weight: Array, bias: Array) -> dict[str, float]:
    return {**spectrum(x), **neighbours(x, y), **classes(x, y, weight, bias), "n_samples": float(len(x))}
