"""Typed entry points of the ops that a certified search is made of: scan, its two halves, selection, kernel sums.

They are for :mod:`~lightning_featgeo.cuda_ext.certified`; whoever wants neighbours calls ``ops.knn`` or
``ops.self_neighbors``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext.schemas import NAMESPACE
from lightning_featgeo.types import Bool, Float, Int32, Int64

_ops = getattr(torch.ops, NAMESPACE)


def scan(
    queries: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"] | None,
    query_ids: Int32[Tensor, " n"],
    reference_ids: Int32[Tensor, " m"] | None,
    centre: Float[Tensor, " d"],
    scale: float,
    k: int,
    measure: bool,
    precision: int,
    kernel_scale: float,
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"], Bool[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """One pass over tiles of products: neighbours, and for each row whether they are proven to be the nearest.

    Args:
        queries: rows to search for, fp32 or float64.
        reference: rows to search among, of the same type; None: the queries, and each tile serves both its sides.
        query_ids: rows of equal ids are no neighbours of each other.
        reference_ids: of the reference, where there is one.
        centre: float64, subtracted before products; any point near the rows.
        scale: multiplied after; (x − centre)·scale must be no longer than 1 for any row.
        k: neighbours; 0: none are searched.
        measure: whether distances are measured in float64; else only where it decides who is a neighbour, and the
            others are as precise as the products.
        precision: of the products: 0 bf16, 1 fp32, 2 float64; sums are fp32, fp32, float64.
        kernel_scale: t of k = exp(−t‖q−b‖²); 0: not computed.

    Returns:
        Distances, indices, certain, Σk and Σk². Rows that are not certain hold the best that was found. The proof is
        in :mod:`~lightning_featgeo.cuda_ext.proof`.
    """
    distances, indices, certain, sums, squares = _ops.scan(
        queries, reference, query_ids, reference_ids, centre, scale, k, measure, precision, kernel_scale
    )
    return distances, indices, certain, sums, squares


def candidates(
    rows: Float[Tensor, "n d"],
    ids: Int32[Tensor, " n"],
    centre: Float[Tensor, " d"],
    scale: float,
    width: int,
    precision: int,
    kernel_scale: float,
    part: int,
    parts: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The first half of a :func:`scan` of rows among each other, over one share of the pairs.

    The shares of all ``parts`` are all pairs, none twice: processes take one each, and put candidates together.

    Args: those of :func:`scan`; ``width``: how many candidates are kept.

    Returns:
        (n, w) scanned values of the best candidates of each row (in no order, inf where there is none), (n, w) which
        rows they are (−1), (n,) a value below which none is missing, (n,) Σk and (n,) Σk² over the share, and (n + 1,)
        the rows' lengths after centring and scaling, with what rounding took of one behind them.
    """
    found: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = _ops.candidates(
        rows, ids, centre, scale, width, precision, kernel_scale, part, parts
    )
    return found


def settle(
    rows: Float[Tensor, "m d"],
    first: int,
    values: Float[Tensor, "n w"],
    indices: Int32[Tensor, "n w"],
    limits: Float[Tensor, " n"],
    lengths: Float[Tensor, " l"],
    centre: Float[Tensor, " d"],
    scale: float,
    k: int,
    measure: bool,
    precision: int,
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"], Bool[Tensor, " n"]]:
    """The second half: neighbours of n rows, the one of number ``first`` and those behind it, and if they are certain.

    Args: those of :func:`scan`; candidates side by side from all shares, the smallest of their limits, and the lengths.
    """
    distances, found, certain = _ops.settle(
        rows, first, values, indices, limits, lengths, centre, scale, k, measure, precision
    )
    return distances, found, certain


def select_(
    products: Float[Tensor, "n m"],
    query_norms: Float[Tensor, " n"],
    reference_norms: Float[Tensor, " m"],
    query_ids: Int32[Tensor, " n"],
    reference_ids: Int32[Tensor, " m"],
    first: int,
    values: Float[Tensor, "n w"],
    indices: Int64[Tensor, "n w"],
) -> None:
    """Merge a tile of products into the best w of each row so far, in place.

    ``values``: squared distances ‖q‖²+‖b‖²−2q·b, ascending, inf where there is none; ``indices``: their columns, the
    tile's first one being number ``first``. Rows of equal ids are no neighbours of each other.
    """
    _ops.select_(products, query_norms, reference_norms, query_ids, reference_ids, first, values, indices)


def kernel_sums_(
    products: Float[Tensor, "n m"],
    query_norms: Float[Tensor, " n"],
    reference_norms: Float[Tensor, " m"],
    query_ids: Int32[Tensor, " n"],
    reference_ids: Int32[Tensor, " m"],
    factor: float,
    sums: Float[Tensor, " n"],
    squares: Float[Tensor, " n"],
) -> None:
    """Add a tile's kernel terms exp(factor·(‖q‖²+‖b‖²−2q·b)), and their squares, to each row's sums, in place."""
    _ops.kernel_sums_(products, query_norms, reference_norms, query_ids, reference_ids, factor, sums, squares)
