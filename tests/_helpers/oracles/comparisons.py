"""Signals of two windows, of views and of targets."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray
from prdc import compute_prdc
from scipy.stats import chi2, multivariate_normal
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torchmetrics.image.fid import _compute_fid

from tests._helpers.oracles.neighbors import distances, two_nn
from tests._helpers.oracles.spectra import Array, centred


def compared(a: Array, y: NDArray[np.int64], b: Array, z: NDArray[np.int64]) -> dict[str, float]:
    """Signals of a window b with labels z against a reference a with labels y."""
    n, m, d = len(a), len(b), a.shape[1]
    with contextlib.redirect_stdout(None):  # it prints the numbers of rows
        truth = {f"fidelity_{k}": float(v) for k, v in compute_prdc(a, b, nearest_k=5).items()}
        swapped = float(compute_prdc(b, a, nearest_k=5)["coverage"])
    truth["fidelity_sym_precision"] = min(truth["fidelity_precision"], swapped)
    truth["fidelity_sym_recall"] = min(truth["fidelity_recall"], truth["fidelity_coverage"])
    # in the coordinates of the span: torchmetrics takes roots of a singular product's round-off otherwise
    _, s, basis = np.linalg.svd(np.concatenate([a, b]) - a.mean(0), full_matrices=False)
    inside = [(v - a.mean(0)) @ basis[s > s[0] * 1e-6].T for v in (a, b)]
    means, covariances = ([torch.tensor(f(v)) for v in inside] for f in (lambda v: v.mean(0), lambda v: np.cov(v.T)))
    truth["frechet_distance"] = float(_compute_fid(means[0], covariances[0], means[1], covariances[1]))
    kernel = [(u @ v.T / d + 1) ** 3 for u, v in ((a, a), (b, b), (a, b))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
    truth["kernel_mmd"] = float(sum(within) - 2 * kernel[2].mean())
    spread = np.cov(a.T, bias=True)
    if np.linalg.matrix_rank(spread) == d:
        truth["gaussian_log_density"] = float(multivariate_normal(a.mean(0), spread).logpdf(b).mean())
        truth["chi2_fraction"] = float((_mahalanobis(b, a.mean(0), spread) > chi2.ppf(0.99, d)).mean())
    labels = np.unique(y)
    centres = np.stack([a[y == c].mean(0) for c in labels])
    around = a - centres[np.searchsorted(labels, y)]
    outside = np.r_[np.zeros(n), np.ones(m)]
    if np.linalg.matrix_rank(tied := around.T @ around / n) == d:
        scores = [np.min([_mahalanobis(v, c, tied) for c in centres], axis=0) for v in (a, b)]
        truth["mahalanobis"] = float(scores[1].mean() / d)
        truth["mahalanobis_auroc"] = float(roc_auc_score(outside, np.concatenate(scores)))
    u, v = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (a, b))
    own = NearestNeighbors(n_neighbors=51).fit(u).kneighbors(u)[0][:, 50]
    far = NearestNeighbors(n_neighbors=50).fit(u).kneighbors(v)[0][:, 49]
    truth["knn_ood_score"] = float(far.mean())
    truth["knn_ood_auroc"] = float(roc_auc_score(outside, np.r_[own, far]))
    near = max(1, min(200, n // len(labels)))  # no more than a class has on average
    vote = KNeighborsClassifier(near, algorithm="brute", weights=lambda r: np.exp((1 - r**2 / 2) / 0.07)).fit(u, y)
    return truth | {"knn_accuracy": float(vote.score(v, z))}


def _mahalanobis(rows: Array, mean: Array, covariance: Array) -> Array:
    away = rows - mean
    squared: Array = np.einsum("ij,ij->i", away, np.linalg.solve(covariance, away.T).T)
    return squared


def views(groups: Array) -> dict[str, float]:
    """Signals of (samples, views, d)."""
    s, q, d = groups.shape
    around = groups - groups.mean(1, keepdims=True)
    within = np.einsum("sqi,sqj->ij", around, around) / (s * (q - 1)) + 1e-4 * np.eye(d)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    lam = np.clip(np.linalg.eigvalsh(root @ np.cov(groups.mean(1).T) @ root), 0, None)
    p = lam[lam > 0] / lam.sum()
    unit = groups / np.linalg.norm(groups, axis=2, keepdims=True)
    pairs = [((unit[:, i] - unit[:, j]) ** 2).sum(1) for i in range(q) for j in range(i)]
    return {"lidar": float(np.exp(-(p * np.log(p)).sum())), "alignment": float(np.mean(pairs))}


def regression(x: Array, targets: Array) -> dict[str, float]:
    """Signals of features with targets (n, t)."""
    h = centred(x)
    top = np.linalg.svd(h, full_matrices=False)[2][: targets.shape[1]]
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    dimensions = [two_nn(distances(v, 2)) for v in (x, targets)]
    return {"nrc1": float(((unit - unit @ top.T @ top) ** 2).sum(1).mean()), "id_ratio": dimensions[0] / dimensions[1]}
