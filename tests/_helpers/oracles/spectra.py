"""Signals of the covariance, of directions and of single units."""

from __future__ import annotations

import math

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.special import softmax
from scipy.stats import entropy, linregress

Array = NDArray[np.float64]


def _entropy_rank(s: Array, epsilon: float) -> float:
    p = s / s.sum() + epsilon
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def centred(x: Array) -> Array:
    x = x - x.mean(0)
    return x - x.mean(0)  # twice: the first mean of large numbers is itself rounded


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


def singular_values(x: Array) -> Array:
    """Of the centred rows."""
    return np.linalg.svd(centred(x), compute_uv=False)[: min(len(x) - 1, x.shape[1])]


def rank_signals(x: Array, s: Array) -> dict[str, float]:
    """Signals of the singular values alone, ``s`` of the centred rows."""
    return {
        "effective_rank": _entropy_rank(s, 0.0),
        "rankme": _entropy_rank(np.linalg.svd(x, compute_uv=False), 1e-7),
        "stable_rank": float((s**2).sum() / s[0] ** 2),
    }


def spectrum(x: Array) -> dict[str, float | None]:
    s = singular_values(x)
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
        "pcs_90": float(np.searchsorted(shares[1:], 0.9 * (1 - 1e-12)) + 1),
        "pcs_99": float(np.searchsorted(shares[1:], 0.99 * (1 - 1e-12)) + 1),
        "condition_number": float(lam[0] / lam[-1]) if full_rank else None,
        "alpha_req": -fit.slope if fit else None,
        "alpha_req_r2": fit.rvalue**2 if fit else None,
        "spectral_spread": float(trapezoid(shares - np.arange(d + 1) / d) / ((d - 1) / 2)),
        "participation_ratio_corrected": _unbiased_participation(x),
        "firing_rate": float((x > 0).mean()),
        **chosen(x),
        "outlier_dims": float(np.sqrt((x**2).mean(0).max() / (x**2).mean())),
        "coding_rate": 0.5 * float(np.linalg.slogdet(np.eye(d) + d / (n * 0.5) * unit.T @ unit)[1]),
    }
    return more | {
        **rank_signals(x, s),
        "participation_ratio": float(lam.sum() ** 2 / (lam**2).sum()),
        "top_eigenvalue_share": float(lam[0] / lam.sum()),
        "feature_std": float(unit.std(0, ddof=1).mean() * math.sqrt(x.shape[1])),
        "mean_resultant": float((unit.mean(0) ** 2).sum()),
        "dead_fraction": float((~(x > 0).any(0)).mean()),
    }


def chosen(x: Array) -> dict[str, float | None]:
    """How often each entry is a row's largest, among rows whose entries differ."""
    x = x[x.max(1) > x.min(1)]
    counts = np.bincount(x.argmax(1), minlength=x.shape[1])
    return {
        "code_perplexity": float(np.exp(entropy(counts))),
        "unused_codes": float((counts == 0).mean()),
        "largest_code_share": float(counts.max() / len(x)),
        "routing_entropy": float(entropy(softmax(x, axis=1), axis=1).mean()),
    }


def log_vmf_normaliser(d: int, kappa: float) -> float:
    """ln C_d(κ) with mpmath's Bessel function at 60 digits."""
    with mpmath.workdps(60):
        k, order = mpmath.mpf(float(kappa)), mpmath.mpf(d) / 2 - 1
        return float(
            order * mpmath.log(k) - mpmath.mpf(d) / 2 * mpmath.log(2 * mpmath.pi) - mpmath.log(mpmath.besseli(order, k))
        )
