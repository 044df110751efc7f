"""Signals of heads, lengths, units, spanning trees and diffusion; of groups; and of a window against a reference."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import distance
from scipy.spatial.distance import cdist, pdist, squareform
from scipy.special import logsumexp
from scipy.stats import f_oneway, kurtosis, linregress, multivariate_normal, spearmanr
from sklearn.cluster import HDBSCAN
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from tests._helpers.oracles.neighbors import distances
from tests._helpers.oracles.spectra import Array, centred


def eta_squared(x: Array, y: NDArray[np.int64]) -> float:
    """From the F values of SciPy, dimension by dimension, back to sums of squares."""
    x = centred(x)
    x = x[:, x.std(0) > 0]
    groups = [x[y == value] for value in np.unique(y)]
    within = np.sum([(centred(g) ** 2).sum(0) for g in groups], axis=0)
    some = within > 0  # a unit that is constant in each group has no F
    f = f_oneway(*[g[:, some] for g in groups]).statistic * (len(groups) - 1) / (len(x) - len(groups))
    between = (x**2).sum(0)
    between[some] = f * within[some]
    return float(between.sum() / (between.sum() + within.sum()))


def class_ranks(x: Array, y: NDArray[np.int64]) -> list[float]:
    found = []
    for value in np.unique(y):
        rows = centred(x[y == value][:128])
        s = np.linalg.svd(rows, compute_uv=False)
        p = s[s > s[0] * 1e-7] / s[s > s[0] * 1e-7].sum()
        found.append(float(np.exp(-(p * np.log(p)).sum())))
    return found


def spanning_dimension(x: Array) -> float:
    n = min(len(x), 1024)
    sizes = [round(n * 2 ** (-j / 2)) for j in range(7)]
    # SciPy takes a distance near 0 for no edge: each is 1 longer
    lengths = [minimum_spanning_tree(squareform(pdist(x[:m]) + 1)).sum() - (m - 1) for m in sizes]
    return float(1 / (1 - linregress(np.log(sizes), np.log(lengths)).slope))


def _diffusion_entropy(x: Array, sigma: float, collision: bool = False) -> float:
    g = np.exp(-squareform(pdist(x, "sqeuclidean")) / (2 * sigma**2))
    root = np.diag(g.sum(1) ** -0.5)
    values = np.abs(np.linalg.eigvalsh(root @ g @ root))
    p = values[values > 1e-13] / values.sum()
    return float(-np.log2((p**2).sum()) if collision else -(p * np.log2(p)).sum())


def diffusion(x: Array, y: NDArray[np.int64]) -> dict[str, float]:
    more, x, y = centred(x)[:2048], centred(x)[:1024], y[:1024]
    sigma = float(np.median(pdist(x)[pdist(x) > 0]))
    classes = [x[y == value] for value in np.unique(y)]
    gained = [
        len(c) / len(x) * (_diffusion_entropy(x[: len(c)], sigma) - _diffusion_entropy(c, sigma)) for c in classes
    ]
    return {
        "dse": _diffusion_entropy(x, sigma), "dse_bandwidth": sigma, "dsmi": sum(gained),
        "dse_collision": _diffusion_entropy(more, sigma, collision=True),
    }  # fmt: skip


def heads(x: Array, weight: Array, bias: Array) -> dict[str, float]:
    z = x @ weight.T + bias
    order = np.argsort(-z, axis=1)
    first, second = order[:, 0], order[:, 1]
    rows = np.arange(len(z))
    margin = (z[rows, first] - z[rows, second]) / np.linalg.norm(weight[first] - weight[second], axis=1)
    radius = distances(x, 20)[:, -1]
    return {
        "energy_score": float(-logsumexp(z, axis=1).mean()),
        "prediction_entropy": float(torch.distributions.Categorical(logits=torch.tensor(z)).entropy().mean()),
        "margin_density": float(spearmanr(margin[radius > 0], -radius[radius > 0]).statistic),
    }


def rows_of(x: Array, y: NDArray[np.int64], weight: Array, bias: Array) -> dict[str, float | None]:
    """Those that one window of labelled rows and a head suffice for."""
    norms = np.linalg.norm(x, axis=1)
    means = np.stack([x[y == value].mean(0) for value in np.unique(y)])
    centre = means.mean(0)
    own = (means - centre)[np.searchsorted(np.unique(y), y)]
    cosines = ((x - centre) * own).sum(1) / (np.linalg.norm(x - centre, axis=1) * np.linalg.norm(own, axis=1))
    varies = x.std(0) > 1e-12 * np.abs(x).max()
    correlations = np.atleast_2d(np.corrcoef(x[:, varies].T))
    clusters, _ = connected_components(np.abs(correlations) >= 0.95)
    near = np.argsort(cdist(x, x) + np.diag(np.full(len(x), np.inf)), axis=1, kind="stable")[:, :20]
    local = [np.log(r[-1] / r[r > 0]).sum() / ((r > 0).sum() - 1) for r in distances(x, 20)]
    ranks = class_ranks(x, y)
    unlike = cdist(x[:2048], x[:2048])[y[:2048, None] != y[None, :2048]]
    return {
        **diffusion(x, y),
        **heads(x, weight, bias),
        "id_mst": spanning_dimension(centred(x)),
        "own_class_cosine": float(cosines.mean()),
        "class_variance_share": eta_squared(x, y),
        "class_rank": float(np.median(ranks)),
        "class_rank_lowest": min(ranks),
        "nc3_uniform": float(
            np.var([1 - distance.cosine(w, m) for w, m in zip(weight, means - centre, strict=True)], ddof=1)
        ),
        "neighbor_purity": float((y[near] == y[:, None]).mean()),
        "local_dimension_q50": float(np.quantile(1 / np.array(local), 0.5)),
        "local_dimension_q95": float(np.quantile(1 / np.array(local), 0.95)),
        "feature_norm": float(norms.mean()),
        "feature_norm_cv": float(norms.std(ddof=1) / norms.mean()),
        "outlier_max": float(np.abs(x).max() / np.sqrt((x**2).mean())),
        "unit_kurtosis": float(kurtosis(centred(x)[:, varies], fisher=False).mean()),
        "best_unit_auroc": best_unit_auroc(x, y),
        **hdbscan(x),
        "kde_bandwidth": kde_bandwidth(x),
        "label_sharpness": float(np.sqrt((pdist(x[:2048]) ** 2).mean()) / unlike.min()) if unlike.min() > 0 else None,
        "unit_redundancy": 1 - clusters / int(varies.sum()),
    }


def best_unit_auroc(x: Array, y: NDArray[np.int64]) -> float:
    """Each class against the rest, each unit alone, either sign."""
    found = []
    for value in np.unique(y):
        if 2 <= (y == value).sum() < len(y):
            each = np.array([roc_auc_score(y == value, unit) for unit in x.T])
            found.append(np.maximum(each, 1 - each).max())
    return float(np.mean(found))


def kde_bandwidth(x: Array) -> float:
    """Where half of the rows' kernel sums rest on ten others: by a root of the median over rows."""
    d = cdist(centred(x)[:512], centred(x)[:512]) ** 2
    upper = np.sqrt(np.sort(d[np.triu_indices(len(d), 1)]))
    d /= upper[(len(upper) - 1) // 2] ** 2
    others = d[~np.eye(len(d), dtype=bool)].reshape(len(d), -1)

    def carried(log_bandwidth: float) -> float:
        w = np.exp(-(others - others.min(axis=1, keepdims=True)) / (2 * np.exp(2 * log_bandwidth)))
        return float(np.median(w.sum(1) ** 2 / (w**2).sum(1))) - 10

    low, high = np.log(2.0**-12), np.log(4.0)
    return float(np.exp(low if carried(low) >= 0 else brentq(carried, low, high, xtol=1e-14)))


def conditional_shift(a: Array, b: Array) -> float:
    """Both Gaussians' gradients at all rows of both."""
    moments = [(v.mean(0), np.cov(v.T, bias=True)) for v in (b, a)]
    size = np.mean([np.trace(c) / len(c) for _, c in moments])
    inverse = [np.linalg.inv(c + 1e-3 * size * np.eye(len(c))) for _, c in moments]
    gaps = [sum(s * (v - m) @ p for s, (m, _), p in zip((1, -1), moments, inverse, strict=True)) for v in (a, b)]
    scores = sum((g**2).mean(0) for g in gaps) / (np.diag(inverse[0]) + np.diag(inverse[1]))
    return float(scores.mean())


def unit_moves(a: Array, b: Array) -> float:
    """Mean over units of the earth mover's distance of what lies in each bin, over the spread of both windows.

    The area between two distribution functions over a bin is the difference of the means of all values, clipped to it.
    """
    steps = [m * 2.0**e for e in range(-8, 8) for m in (1.0, 1.5)][:31]
    ends = [-np.inf, *(-x for x in reversed(steps)), 0.0, *steps, np.inf]
    moved = np.zeros(a.shape[1])
    for low, high in pairwise(ends):
        inner = low if np.isfinite(low) else high
        moved += np.abs((np.clip(a, low, high) - inner).mean(0) - (np.clip(b, low, high) - inner).mean(0))
    spread = np.sqrt((a.var(0) + b.var(0)) / 2 + (a.mean(0) - b.mean(0)) ** 2 / 4)
    return float((moved[spread > 0] / spread[spread > 0]).mean())


def shrunk_auroc(a: Array, b: Array) -> float:
    """With scikit-learn's Ledoit–Wolf covariance of a."""
    fitted = LedoitWolf().fit(a)
    return float(roc_auc_score(np.r_[np.zeros(len(a)), np.ones(len(b))], fitted.mahalanobis(np.r_[a, b])))


def hdbscan(x: Array) -> dict[str, float]:
    """scikit-learn's HDBSCAN, of SciPy's distances; rounded, as equal ones decide by their last digits."""
    apart = squareform(pdist(centred(x)[:1024])).astype("float32").astype("float64")
    found = HDBSCAN(min_cluster_size=10, metric="precomputed", copy=True).fit(apart).labels_
    return {"cluster_count": float(found.max() + 1), "cluster_noise": float((found < 0).mean())}


def against(a: Array, y: NDArray[np.int64], b: Array, weight: Array, bias: Array) -> dict[str, float]:
    """A window b against a reference a with labels y, under a head."""
    outside = np.r_[np.zeros(len(a)), np.ones(len(b))]
    energy = [-logsumexp(v @ weight.T + bias, axis=1) for v in (a, b)]
    nearest = NearestNeighbors(n_neighbors=1).fit(a).kneighbors(b)
    near = NearestNeighbors(n_neighbors=6, algorithm="kd_tree").fit(a).kneighbors(a)[0]  # by subtraction
    own = np.where(near > 0, near, np.inf).min(1)  # copies are no neighbours
    labels, counts = np.unique(y, return_counts=True)
    means = np.stack([a[y == value].mean(0) for value in labels])
    cosines = means @ b.mean(0) / (np.linalg.norm(means, axis=1) * np.linalg.norm(b.mean(0)))
    truth = {
        "energy_auroc": float(roc_auc_score(outside, np.concatenate(energy))),
        "authenticity": float((nearest[0][:, 0] > own[nearest[1][:, 0]]).mean()),
        "nc5": float(np.abs(cosines).mean()),
        "conditional_shift": conditional_shift(a, b),
        "unit_shift": unit_moves(a, b),
        "gaussian_auroc_shrunk": shrunk_auroc(a, b),
    }
    spread, d = np.cov(a.T, bias=True), a.shape[1]
    if np.linalg.matrix_rank(spread) == d:
        pca = PCA(svd_solver="full").fit(a)  # not by a product of rows that lie far out
        squares = (pca.transform(b) ** 2).sum(0) / pca.explained_variance_
        far = [np.einsum("ij,ij->i", v - a.mean(0), np.linalg.solve(spread, (v - a.mean(0)).T).T) for v in (a, b)]
        truth["gaussian_auroc"] = float(roc_auc_score(outside, np.concatenate(far)))
        truth["gaussian_low_variance_share"] = float(squares[d - d // 2 :].sum() / squares.sum())
    tied = sum(centred(a[y == value]).T @ centred(a[y == value]) for value in labels) / len(a)
    if np.linalg.matrix_rank(tied) == d:
        densities = [
            np.log(n / len(a)) + multivariate_normal(np.zeros(d), tied).logpdf(b - mean)
            for n, mean in zip(counts, means, strict=True)
        ]
        truth["mixture_log_density"] = float(logsumexp(np.stack(densities), axis=0).mean())
    return truth


def macro_std(right: NDArray[np.bool_], y: NDArray[np.int64], groups: NDArray[np.int64]) -> float:
    """Class by class, of predictions that are right or not."""
    found = []
    for value in np.unique(y):
        mine = [right[(y == value) & (groups == g)] for g in np.unique(groups[y == value])]
        if len(mine) > 1:
            accuracy, weights = np.array([m.mean() for m in mine]), [len(m) for m in mine]
            mean = np.average(accuracy, weights=weights)
            found.append(np.sqrt(np.average((accuracy - mean) ** 2, weights=weights)))
    return float(np.mean(found))


def distance_correlation(x: Array, t: Array) -> float:
    def doubly(v: Array) -> Array:
        d: Array = squareform(pdist(v))
        return d - d.mean(0) - d.mean(1)[:, None] + d.mean()

    a, b = doubly(x), doubly(t)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))
