"""Signals of labelled rows and a head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from scipy.spatial import distance
from scipy.spatial.distance import cdist
from scipy.stats import linregress

from tests._helpers.oracles.spectra import Array, centred


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


def _slope(counts: NDArray[np.int64], ratio: Array) -> float | None:
    if len(counts) < 3 or counts.max() < 1.5 * counts.min():
        return None
    return float(linregress(np.log(counts), np.log(ratio)).slope)


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
        "nc3_orthogonal": float(np.mean([distance.cosine(a, b) for a, b in zip(weight, raw, strict=True)])),
        "nc_count_slope": _slope(counts, np.linalg.norm(weight, axis=1) / raw_norms),
        "nc4": float((predicted != labels[nearest]).mean()),
        "cdnv": float(np.mean([(v[i] + v[j]) / (2 * ((means[i] - means[j]) ** 2).sum()) for i, j in pairs])),
    }
