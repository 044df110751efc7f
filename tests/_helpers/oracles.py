"""Independent float64 formulas and other libraries: what every signal is compared with.

NumPy, SciPy, mpmath, scikit-learn, prdc and torchmetrics; nothing here imports lightning_featgeo.
"""

from __future__ import annotations

import contextlib
import math

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from prdc import compute_prdc
from scipy.integrate import trapezoid
from scipy.linalg import subspace_angles
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist, pdist
from scipy.special import digamma
from scipy.stats import chi2, linregress, multivariate_normal, skew
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torchmetrics.image.fid import _compute_fid

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


def _unbiased_participation(x: Array) -> float:
    """(trΣ)² and trΣ² as averages over rows that are all different: the definition of a U-statistic, from the Gram."""
    n = len(x)
    g = centred(x) @ centred(x).T
    np.fill_diagonal(h := g.copy(), 0)
    length = np.diag(g)
    # sums over distinct i, j, k, l of (x_i·x_j)(x_k·x_l) and so on, of centred rows, by inclusion and exclusion
    s2 = (h**2).sum()
    s3 = (h.sum(1) ** 2).sum() - s2
    s4 = h.sum() ** 2 - 2 * s2 - 4 * s3
    below = s2 / (n * (n - 1)) - 2 * s3 / (n * (n - 1) * (n - 2)) + s4 / (n * (n - 1) * (n - 2) * (n - 3))
    # (trΣ)²: ½|x_i−x_j|² · ½|x_k−x_l|² over distinct rows
    q = length[:, None] + length[None, :] - 2 * g
    np.fill_diagonal(q, 0)
    t2 = (q**2).sum()
    t3 = (q.sum(1) ** 2).sum() - t2
    above = (q.sum() ** 2 - 2 * t2 - 4 * t3) / 4 / (n * (n - 1) * (n - 2) * (n - 3))
    return float(above / below)


def spectrum(x: Array) -> dict[str, float | None]:
    s = np.linalg.svd(centred(x), compute_uv=False)[: min(len(x) - 1, x.shape[1])]
    lam = s**2
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    n, d = x.shape
    shares = np.concatenate([[0], np.cumsum(np.pad(lam, (0, d - len(lam)))) / lam.sum()])
    ranks = np.arange(6, min(50, int((lam > 1e-13 * lam[0]).sum())) + 1)
    fit = linregress(np.log(ranks), np.log(lam[ranks - 1])) if len(ranks) >= 10 else None
    full_rank = len(lam) == d and lam[-1] > d * np.finfo(float).eps * lam[0]
    resultant = np.linalg.norm(unit.mean(0))
    kappa = resultant * (d - resultant**2) / (1 - resultant**2)
    more = {
        "vmf_kappa": float(kappa),
        "vmf_log_density": float(kappa * resultant + log_vmf_normaliser(d, kappa)),
        "numerical_rank": float(np.linalg.matrix_rank(centred(x), tol=s[0] * max(n, d) * np.finfo(np.float32).eps)),
        "condition_number": float(lam[0] / lam[-1]) if full_rank else None,
        "alpha_req": -fit.slope if fit else None,
        "alpha_req_r2": fit.rvalue**2 if fit else None,
        "spectral_spread": float(trapezoid(shares - np.arange(d + 1) / d) / ((d - 1) / 2)),
        "participation_ratio_corrected": _unbiased_participation(x),
        "firing_rate": float((x > 0).mean()),
        "outlier_dims": float(np.sqrt((x**2).mean(0).max() / (x**2).mean())),
        "coding_rate": 0.5 * float(np.linalg.slogdet(np.eye(d) + d / (n * 0.5) * unit.T @ unit)[1]),
    }
    return more | {
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


def log_vmf_normaliser(d: int, kappa: float) -> float:
    """ln C_d(κ) with mpmath's Bessel function at 60 digits."""
    with mpmath.workdps(60):
        k, order = mpmath.mpf(float(kappa)), mpmath.mpf(d) / 2 - 1
        return float(
            order * mpmath.log(k) - mpmath.mpf(d) / 2 * mpmath.log(2 * mpmath.pi) - mpmath.log(mpmath.besseli(order, k))
        )


def _log_ball(d: int) -> float:
    return 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)


def log_densities(r: Array, d: int) -> Array:
    n, k = r.shape
    return math.log(k - 1) - math.log(n - 1) - _log_ball(d) - d * np.log(r[:, -1])


def neighbours(x: Array, y: NDArray[np.int64], k: int = 20, vote_k: int = 200) -> dict[str, float | None]:
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
        "uniformity": float(np.log(np.exp(-2 * pdist(unit, "sqeuclidean")).mean())),
        "effective_kde_points": float((kernel.sum(1) ** 2 / (kernel**2).sum(1)).mean()),
    }


def _rate(z: Array) -> float:
    return 0.5 * float(np.linalg.slogdet(np.eye(z.shape[1]) + z.shape[1] / (len(z) * 0.5) * z.T @ z)[1])


def _thirds(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    order = np.argsort(-counts, kind="stable")
    third = len(counts) // 3
    head, tail = order[:third], order[len(order) - third :]
    return (head, tail) if third and counts[head].min() >= 2 * counts[tail].max() else None


def _tail_min_angle(m: Array, counts: NDArray[np.int64]) -> float | None:
    thirds = _thirds(counts)
    if thirds is None or len(thirds[1]) < 2:
        return None
    angles = np.degrees(np.arccos(np.clip(1 - cdist(m[thirds[1]], m[thirds[1]], "cosine"), -1, 1)))
    return float(angles[np.triu_indices(len(angles), 1)].min())


def _volume_gap(groups: list[Array], counts: NDArray[np.int64]) -> float | None:
    thirds = _thirds(counts)
    if thirds is None:
        return None
    m, d = int(counts[np.concatenate(thirds)].min()), groups[0].shape[1]

    def volume(c: int) -> float:
        z = centred(groups[c][:m])
        return 0.5 * float(np.linalg.slogdet(np.eye(d) + d / m * z.T @ z)[1])

    return float(np.mean([volume(c) for c in thirds[0]]) - np.mean([volume(c) for c in thirds[1]]))


def _affinity(groups: list[Array], r: int = 5) -> float | None:
    def fits(g: Array) -> bool:  # directions below √(d·eps) of the first can't be told from round-off in a Gram matrix
        s = np.linalg.svd(g, compute_uv=False)
        return len(s) >= r and s[r - 1] ** 2 > min(g.shape) * np.finfo(float).eps * s[0] ** 2

    fit = [g for g in groups if fits(g)]
    if len(fit) < 2:
        return None
    bases = [np.linalg.svd(g, full_matrices=False)[2][:r].T for g in fit]
    pairs = [(a, b) for i, a in enumerate(bases) for b in bases[:i]]
    return float(np.mean([np.sqrt((np.cos(subspace_angles(a, b)) ** 2).mean()) for a, b in pairs]))


def classes(x: Array, y: NDArray[np.int64], weight: Array, bias: Array) -> dict[str, float | None]:
    labels = np.unique(y)
    c = len(labels)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    rate = [_rate(unit)] + [len(unit[y == v]) / len(unit) * _rate(unit[y == v]) for v in labels]
    raw = np.stack([x[y == v].mean(0) for v in labels])
    raw_norms = np.linalg.norm(raw, axis=1)
    raw_cos = (raw / raw_norms[:, None]) @ (raw / raw_norms[:, None]).T
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
    counts = np.array([len(g) for g in groups])
    pairs = [(i, j) for i in range(c) for j in range(c) if i < j]
    predicted = (x @ weight.T + bias).argmax(1)
    nearest = ((x[:, None, :] - means[None]) ** 2).sum(2).argmin(1)
    directions = m / norms[:, None]
    same = [unit[y == v] @ unit[y == v].T for v in labels]
    cosines = np.concatenate([s[np.triu_indices(len(s), 1)] for s in same])
    return {
        "tail_min_angle": _tail_min_angle(m, counts),
        "class_volume_tail_gap": _volume_gap(groups, counts),
        "class_subspace_affinity": _affinity([g[:128] + origin for g in groups]),
        "tolerance": float(cosines.mean()),
        "coding_rate_reduction": rate[0] - sum(rate[1:]),
        "nc2_equinorm_orthogonal": float(raw_norms.std(ddof=1) / raw_norms.mean()),
        "nc2_equiangle_orthogonal": float(np.mean([abs(raw_cos[i, j]) for i, j in pairs])),
        "gnc2": float(np.mean([-np.log(np.linalg.norm(directions[i] - directions[j])) for i, j in pairs])),
        "nc1": float(np.trace(within @ pinv) / c),
        "nc1_ratio": float(np.trace(within) / np.trace(between)),
        "nc2_equinorm": float(norms.std(ddof=1) / norms.mean()),
        "nc2_equiangle": float(np.mean([abs(cos[i, j] + 1 / (c - 1)) for i, j in pairs])),
        "nc3": float(np.linalg.norm(weight / np.linalg.norm(weight) - m / np.linalg.norm(m))),
        "nc4": float((predicted != labels[nearest]).mean()),
        "cdnv": float(np.mean([(v[i] + v[j]) / (2 * ((means[i] - means[j]) ** 2).sum()) for i, j in pairs])),
    }


def every_signal(x: Array, y: NDArray[np.int64], weight: Array, bias: Array) -> dict[str, float | None]:
    """None where the definition has no value."""
    return {**spectrum(x), **neighbours(x, y), **classes(x, y, weight, bias), "n_samples": float(len(x))}


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
    near = min(200, n)
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
