"""The proof that a scan's neighbours are the true ones, whatever precision its products had.

A scan throws rows away by an approximate squared distance. This file bounds how wrong that distance can be, and calls
the k nearest candidates of a query *certain* if no row that was thrown away can be nearer. ``csrc/cpu/proof.h`` does
the same in C++.

**Symbols.** All rows were centred and scaled first, so that the longest has length 1; the centre and the scale need not
be exact, since they only make the numbers small.

- q, b: a query and another row. ‖q‖ is q's length.
- D: the true distance ‖q−b‖.
- q̃, b̃: the rows as they are multiplied, rounded to bf16, fp32 or float64.
- ρ (``lost``): the largest share of its length that any row lost by that rounding: ‖x−x̃‖ ≤ ρ‖x‖ for every row x.
- d (``columns``): the number of columns.
- u (``unit``): the largest relative error of one addition when products are summed (:func:`unit_roundoff`).
- w = 2⁻⁵³: the same for float64, in which rows are centred and their lengths are taken.
- s(q,b): the scanned value, ‖q‖² + ‖b‖² − 2 q̃·b̃ as it was computed.

**1. A product is wrong by at most η‖q‖‖b‖.** Summing d products one after another, or in any other order, gives q̃·b̃
up to γ‖q̃‖‖b̃‖, with γ = (d+2)u/(1−(d+2)u) (Higham, 2002, "Accuracy and Stability of Numerical Algorithms", section
3.1, and the Cauchy–Schwarz inequality). A rounded row is no longer than (1+ρ) times the row itself, which makes this
γ(1+ρ)²‖q‖‖b‖. The exact q̃·b̃ differs from q·b by (q̃−q)·b + q·(b̃−b) + (q̃−q)·(b̃−b), at most (2ρ+ρ²)‖q‖‖b‖. Together
η = γ(1+ρ)² + 2ρ + ρ².

**2. A scanned value is wrong by at most E.** The product counts twice: 2η‖q‖‖b‖. The two lengths, which are rounded to
the type of the sums, and the two additions that put the value together lose at most 4u(‖q‖+‖b‖)²; centring and squaring
in float64 at most (d+4)w(‖q‖+‖b‖)². So |s(q,b) − D²| ≤ 2η‖q‖‖b‖ + (4u+(d+4)w)(‖q‖+‖b‖)².

**3. A near row scans low.** A row within D of q is no longer than ‖q‖+D (``reach``). Put that in place of ‖b‖: it scans
at or below D² + E, with E = 2η‖q‖(‖q‖+D) + (4u+(d+4)w)(2‖q‖+D)².

**4. The conclusion.** Let D be the distance of the k-th nearest candidate, measured by subtraction (``kth`` is D², with
what measuring itself can lose added). Everything that was thrown away scanned at or above ``limit``. If ``limit`` is
above D² + E, then by 3 no row that was thrown away is within D of q: the k nearest are certain.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext.distances import squares_to

BF16, F32, F64 = 0, 1, 2  # precisions of a scan's products
TYPES = torch.bfloat16, torch.float32, torch.float64  # of what is multiplied
SUMS = torch.float32, torch.float32, torch.float64  # of what products are summed in
_FLOAT64 = 2.0**-53
_TINY = 1e-30  # above what products lose that underflow, where the longest row has length 1


def unit_roundoff(precision: int, device_type: str) -> float:
    """u: by how much, as a share, one addition may be wrong while products of a scan are summed.

    2⁻⁵³ for float64 and 2⁻²⁴ for fp32 sums that round to nearest; bf16 products too are summed in fp32. NVIDIA's tensor
    cores do not round those sums: they align a few products with the running sum and cut off what lies beyond its last
    bit (Fasi, Higham, Mikaitis & Pranesh, 2021, "Numerical behavior of NVIDIA tensor cores"). If p ≥ 4 products join
    the sum at a time, then of these p+1 numbers, and of their sum, each loses less than 2⁻²³ of the largest: over d/p
    such steps at most (d/p)(p+2)·2⁻²³ ≤ 1.5·d·2⁻²³, which is less than d·2⁻²². So u = 2⁻²² covers them.
    """
    if precision == F64:
        return _FLOAT64
    return 2.0**-22 if precision == BF16 and device_type == "cuda" else 2.0**-24


def product_error(columns: int, lost: Tensor, unit: float) -> Tensor:
    """η of step 1: by how much a product may be wrong, as a share of both lengths."""
    terms = (columns + 2) * unit
    gamma = terms / (1 - terms) if terms < 0.5 else math.inf  # of so many terms nothing is known
    return gamma * (1 + lost).square() + 2 * lost + lost.square()


def prove(
    queries: Tensor,
    reference: Tensor,
    values: Tensor,
    indices: Tensor,
    limits: Tensor,
    norms: Tensor,
    lost: Tensor,
    scale: float,
    k: int,
    precision: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest candidates by subtraction, and whether they are certain: steps 3 and 4.

    Args:
        queries, reference: the rows as they were given, neither centred nor scaled.
        values: (n, w) what the candidates scanned at, ascending. The CUDA kernel spares those that can't be near
            (step 3); here all are measured.
        indices: (n, w) candidates of each query, as rows of the reference; −1: none.
        limits: (n,) nothing that was thrown away scanned below; inf if nothing was.
        norms: (n,) squared lengths of the queries, centred and scaled.
        lost: ρ.
        scale: that rows were multiplied by.
        k: how many are wanted.
        precision: of the products.

    Returns:
        (n, k) distances and indices, ascending, ties to the lower index; (n,) whether they are certain.
    """
    d, room = queries.shape[1], indices.shape[1]
    squares = squares_to(queries, reference, indices)
    by_index = indices.sort(dim=1)
    order = squares.gather(1, by_index.indices).sort(dim=1, stable=True)
    indices = by_index.values.gather(1, order.indices)[:, :k]
    distances = order.values[:, :k].sqrt()
    limit = limits.double()
    kth = torch.zeros_like(limit)
    if k and k <= room:
        measuring = 1 + 1e-12 + d * 2.0**-52  # a sum of d squares of exact differences, a root, a square, the scale
        kth = distances[:, -1].square() * scale**2 * measuring
    unit = unit_roundoff(precision, queries.device.type)
    eta = product_error(d, lost, unit)
    length = norms.sqrt()
    reach = length + kth.sqrt()
    ends = 4 * unit + (d + 4) * _FLOAT64
    certain = limit > kth + 2 * eta * length * reach + ends * (length + reach).square() + _TINY
    certain |= limit.isinf() | torch.full_like(certain, k == 0)
    missing = k - distances.shape[1]
    distances = torch.nn.functional.pad(distances, (0, missing), value=torch.inf)
    indices = torch.nn.functional.pad(indices, (0, missing), value=-1).masked_fill(distances.isinf(), -1)
    return distances, indices, certain
