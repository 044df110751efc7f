"""Von Mises–Fisher: concentration and log density of directions, for any dimension without overflow.

Banerjee et al. (2005), "Clustering on the Unit Hypersphere using von Mises-Fisher Distributions". The normaliser needs
ln I_ν(κ) with ν = d/2−1: by the uniform asymptotic expansion for large orders (Debye; NIST DLMF 10.41), and for small
orders from there by the downward recurrence, all of whose terms are positive.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Tensor

_LARGE_ORDER = 40
_TERMS = 8


@cache
def _debye_polynomials() -> tuple[tuple[float, ...], ...]:
    """Coefficients of u_1…u_8 in powers of p, from their recurrence (DLMF 10.41.9), exact until the last step."""
    u = [Fraction(1)]
    found = []
    for _ in range(_TERMS):
        new = [Fraction(0)] * (len(u) + 3)
        for power, c in enumerate(u):
            new[power + 1] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            new[power + 3] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        u = new
        found.append(tuple(float(c) for c in u))
    return tuple(found)


def _log_bessel_large(order: float, x: float) -> float:
    z = x / order
    root = math.sqrt(1 + z * z)
    p = 1 / root
    eta = root + math.log(z / (1 + root))
    total = 1.0
    for k, coefficients in enumerate(_debye_polynomials(), start=1):
        total += math.fsum(c * p**power for power, c in enumerate(coefficients)) / order**k
    return order * eta - 0.5 * math.log(2 * math.pi * order * root) + math.log(total)


def log_bessel_i(order: float, x: float) -> float:
    """ln I_order(x), the modified Bessel function of the first kind, for order ≥ −½ and x > 0."""
    steps = max(0, math.ceil(_LARGE_ORDER - order))
    if not steps:
        return _log_bessel_large(order, x)
    upper, here = (_log_bessel_large(order + steps + 1, x), _log_bessel_large(order + steps, x))
    for step in range(steps, 0, -1):  # I_{ν−1} = I_{ν+1} + (2ν/x)·I_ν
        nu = order + step
        if nu <= 0:  # order −½ from ½: (2ν/x) would vanish or turn negative
            break
        a, b = upper, here + math.log(2 * nu / x)
        upper, here = here, max(a, b) + math.log1p(math.exp(-abs(a - b)))
    return here


def vmf_kappa(nonzero_count: int, direction_sums: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Concentration κ ≈ R̄(d−R̄²)/(1−R̄²) of L2-normalised features, > 0; R̄ is the length of their mean.

    Source: Banerjee et al. (2005). 0 would be uniform on the sphere; it grows without bound as features gather in one
    direction. n random directions read R̄ ≈ 1/√n, that is κ ≈ d/√n, not 0.

    Raises:
        Undefined: in one dimension, if every row is zero, the mean direction is, or all directions are the same.
    """
    return torch.tensor(_fit(nonzero_count, direction_sums)[1], dtype=torch.float64)


def vmf_log_density(nonzero_count: int, direction_sums: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Mean log density of L2-normalised features under their own von Mises–Fisher fit, in nats: κR̄ + ln C_d(κ).

    ln C_d(κ) = (d/2−1)·ln κ − (d/2)·ln 2π − ln I_{d/2−1}(κ), with the κ of ``vmf_kappa``. Holds without overflow in any
    dimension. A density per unit area of the sphere: compare at one d only.

    Raises:
        Undefined: where ``vmf_kappa`` is.
    """
    resultant, kappa = _fit(nonzero_count, direction_sums)
    d = direction_sums.numel()
    return torch.tensor(kappa * resultant + log_normaliser(d, kappa), dtype=torch.float64)


def log_normaliser(dim: int, kappa: float) -> float:
    """ln C_d(κ) of the von Mises–Fisher density on the unit sphere in ``dim`` ≥ 2 dimensions."""
    order = dim / 2 - 1
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - log_bessel_i(order, kappa)


def _fit(nonzero_count: int, direction_sums: Tensor) -> tuple[float, float]:
    d = direction_sums.numel()
    if d < 2:
        raise Undefined("one dimension has no sphere of directions")
    if nonzero_count < 1:
        raise Undefined("every row is zero: no row has a direction")
    resultant = float(torch.linalg.vector_norm(direction_sums)) / nonzero_count
    if not 0 < resultant < 1 - 1e-15:
        raise Undefined("the mean direction is zero, or all directions are the same: there is no concentration")
    return resultant, resultant * (d - resultant**2) / ((1 - resultant) * (1 + resultant))
