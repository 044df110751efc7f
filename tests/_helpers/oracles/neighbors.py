"""Signals of distances: dimension, density, votes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist, pdist
from scipy.special import digamma
from scipy.stats import skew
from sklearn.neighbors import NearestNeighbors

from tests._helpers.oracles.spectra import Array


def distances(x: Array, k: int) -> Array:
    """To the k nearest other rows, by scikit-learn's tree, which subtracts coordinates."""
    found, _ = NearestNeighbors(n_neighbors=k + 1, algorithm="kd_tree").fit(x).kneighbors(x)
    return found[:, 1:]


def two_nn(r: Array) -> float:
    r = r[r[:, 0] > 0]  # copies count as they would if they weren't there
    mu = np.sort(r[:, 1] / r[:, 0])
    n = len(mu)
    kept = int(0.9 * n)
    f = np.arange(1, kept + 1) / n
    lx, y = np.log(mu[:kept]), -np.log(1 - f)
    return float((lx @ y) / (lx @ lx))


def id_mle(r: Array) -> float:
    apart = [row[row > 0] for row in r]
    inverse = [np.log(row[-1] / row[:-1]).sum() / (len(row) - 1) for row in apart if len(row) > 1]
    return float(1 / np.mean(inverse))


def gride(r: Array, n1: int) -> float:
    """Maximum of the likelihood of μ = r_{2n₁}/r_{n₁}, with N−1 for N (no bias at n₁ = 1), by a scalar minimiser."""
    r = r[r[:, n1 - 1] > 0]
    mu, n2 = np.maximum(r[:, 2 * n1 - 1] / r[:, n1 - 1], 1 + 1e-12), 2 * n1  # equal distances: the limit

    def loss(d: float) -> float:
        return -float((len(mu) - 1) * np.log(d) + (n2 - n1 - 1) * np.log(np.expm1(d * np.log(mu))).sum()
                      - ((n2 - 1) * d + 1) * np.log(mu).sum())  # fmt: skip

    return float(minimize_scalar(loss, bounds=(0.01, 500), method="bounded", options={"xatol": 1e-10}).x)


def _log_ball(d: int) -> float:
    return 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)


def log_densities(r: Array, d: int) -> Array:
    n, k = r.shape
    return math.log(k - 1) - math.log(n - 1) - _log_ball(d) - d * np.log(r[:, -1])


def neighbours(x: Array, y: NDArray[np.int64], k: int = 20, knn_k: int = 200) -> dict[str, float | None]:
    r = distances(x, k)
    logs = log_densities(r, x.shape[1])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cos = unit @ unit.T
    np.fill_diagonal(cos, -np.inf)
    right, against, voters = 0, [], max(1, min(knn_k, len(x) // len(np.unique(y)), len(x) - 1))
    for i, row in enumerate(cos):
        near = np.argsort(-row, kind="stable")[:voters]
        votes = np.zeros(int(y.max()) + 1)
        np.add.at(votes, y[near], np.exp(row[near] / 0.07))
        right += votes.argmax() == y[i]
        against.append(1 - votes[y[i]] / votes.sum())
    all_pairs = cdist(x, x)
    np.fill_diagonal(all_pairs, np.inf)
    near = np.argsort(all_pairs, axis=1, kind="stable")[:, :k]  # ties go to the lower index
    log_mu = np.sort(np.log((r[:, 1] / np.where(r[:, 0] > 0, r[:, 0], 1.0))[r[:, 0] > 0]))
    m = int(0.9 * len(log_mu))
    kernel = np.exp(-2 * cdist(unit, unit, "sqeuclidean"))
    np.fill_diagonal(kernel, 0)
    entropy = digamma(len(x)) - digamma(k) + _log_ball(x.shape[1]) + x.shape[1] * np.log(r[:, -1]).mean()
    return {
        **{f"id_gride_{n1}": gride(r, n1) for n1 in (1, 2, 4, 8)},
        "id_two_nn_mle": float((m - 1) / (log_mu[:m].sum() + (len(log_mu) - m) * log_mu[m - 1])),
        "knn_entropy": float(entropy),
        "hubness": float(skew(np.bincount(near.ravel(), minlength=len(x)))),
        "id_two_nn": two_nn(r),
        "id_mle": id_mle(r),
        "knn_log_density": float(logs.mean()),
        "knn_log_density_q05": float(np.quantile(logs, 0.05)),
        "knn_log_density_q50": float(np.quantile(logs, 0.5)),
        "knn_log_density_q95": float(np.quantile(logs, 0.95)),
        "knn_accuracy": right / len(x),
        "label_disagreement": float(np.mean(against)),
        "uniformity": float(np.log(np.exp(-2 * pdist(unit, "sqeuclidean")).mean())),
        "effective_kde_points": float((kernel.sum(1) ** 2 / (kernel**2).sum(1)).mean()),
    }


def among_known_copies(x: Array, source: NDArray[np.int64], k: int) -> Array:
    """Distances to the k nearest other rows, where rows of one source are at distance zero."""
    r = cdist(x, x)
    r[source[:, None] == source[None, :]] = 0.0
    np.fill_diagonal(r, np.inf)
    return np.sort(r, axis=1)[:, :k]


def dimensions(r: Array) -> dict[str, float]:
    """Every dimension that distances give; a copy at distance zero counts nowhere."""
    mu = np.sort(np.log(r[r[:, 0] > 0, 1] / r[r[:, 0] > 0, 0]))
    m = int(0.9 * len(mu))
    mle = float((m - 1) / (mu[:m].sum() + (len(mu) - m) * mu[m - 1]))
    scales = {f"id_gride_{n1}": gride(r, n1) for n1 in (1, 2, 4, 8)}
    apart = r[(r > 0).sum(axis=1) >= 2]
    return {"id_two_nn": two_nn(r), "id_two_nn_mle": mle, "id_mle": id_mle(apart), **scales}
