"""Typed entry points of the ops: they check their input, see to it that kernels are loaded, and say what they return.

The ops that a certified search is made of are in :mod:`~lightning_featgeo.cuda_ext.scan_ops`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import library
from lightning_featgeo.cuda_ext.distances import finite_range
from lightning_featgeo.cuda_ext.schemas import NAMESPACE
from lightning_featgeo.cuda_ext.self_search import SelfNeighbors
from lightning_featgeo.types import Bool, Float, Int64

_ops = getattr(torch.ops, NAMESPACE)


def _call(op: str, first: Tensor, *others: Any) -> Any:
    if first.is_cuda:
        library.load_for(first)
    for other in others:
        if isinstance(other, Tensor) and other.device != first.device:
            raise ValueError(f"{op}: the tensors are on {first.device} and {other.device}; move them to one device")
    return getattr(_ops, op)(first, *others)


def hash_priority(index: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """Uniform priorities in [0, 2**62) from a counter-based hash: no generator, the same on every device."""
    result: Tensor = _call("hash_priority", index, (seed + 2**63) % 2**64 - 2**63)  # any int, wrapped to 64 bits
    return result


def reservoir_slots(
    priorities: Int64[Tensor, " capacity"], new_priorities: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """Where new rows go in a bottom-k reservoir; see :func:`reference.reservoir_slots`."""
    slots, sources, accepted = _call("reservoir_slots", priorities, new_priorities)
    return slots, sources, accepted


def place_(
    state: Tensor,
    fresh: Tensor,
    slots: Int64[Tensor, " n"],
    sources: Int64[Tensor, " n"],
    accepted: Bool[Tensor, " n"],
) -> None:
    """Put new rows into one column of a reservoir, in place: ``state[slots] = fresh[sources]`` where accepted."""
    _call("place_", state, fresh, slots, sources, accepted)


def scatter_(
    rows: Float[Tensor, "n d"],
    groups: Int64[Tensor, " n"],
    shift: Float[Tensor, "g d"],
    counts: Float[Tensor, " g"],
    sums: Float[Tensor, "g d"],
    squares: Float[Tensor, " g"],
    scatter: Float[Tensor, "buckets d d"] | None,
    labelled_groups: int,
) -> None:
    """Stream rows into shifted moments, in place.

    For each group g: ``shift`` (fp32, the first-seen mean), ``counts``, ``sums`` Σ(x−s) and ``squares``
    Σ‖x−s‖². ``scatter`` Σ(x−s)(x−s)ᵀ is pooled: bucket 0 over the first ``labelled_groups`` groups, bucket 1
    over the others (one bucket: over all). Rows whose group is negative count nowhere. Products are in float64.
    """
    _call("scatter_", rows, groups, shift, counts, sums, squares, scatter, labelled_groups)


def direction_sums_(
    rows: Float[Tensor, "n d"],
    keep: Bool[Tensor, " n"],
    count: Float[Tensor, " 2"],
    sums: Float[Tensor, " d"],
    squares: Float[Tensor, " d"],
) -> None:
    """Stream L2-normalised rows into per-dimension sums, in place; ``count``: rows, and rows that are not zero."""
    _call("direction_sums_", rows, keep, count, sums, squares)


def unit_stats_(
    rows: Float[Tensor, "n d"],
    keep: Bool[Tensor, " n"],
    active: Float[Tensor, " d"],
    minimum: Float[Tensor, " d"] | None = None,
    maximum: Float[Tensor, " d"] | None = None,
) -> None:
    """Stream rows into per-unit activity counts (x > 0) and, if given, per-unit minima and maxima, in place.

    Raises:
        ValueError: if only one of ``minimum`` and ``maximum`` is given.
    """
    if (minimum is None) != (maximum is None):
        raise ValueError("unit_stats_: give both minimum and maximum, or neither")
    _call("unit_stats_", rows, keep, active, minimum, maximum)


def knn(
    queries: Float[Tensor, "n d"],
    reference: Float[Tensor, "m e"],
    k: int,
    exclude_self: bool = False,
    *,
    query_groups: Int64[Tensor, " n"] | None = None,
    reference_groups: Int64[Tensor, " m"] | None = None,
    metric: str = "euclidean",
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Exact k nearest neighbours.

    Args:
        queries: rows to search for.
        reference: rows to search among.
        k: how many, at least 1.
        exclude_self: row i of the queries is row i of the reference, and is not its own neighbour.
        query_groups: group of each query (sample, sequence); with ``reference_groups``, rows of the same
            non-negative group are never neighbours.
        reference_groups: group of each reference row.
        metric: Euclidean distance in the features' units, or cosine distance 1 − cos, in [0, 2]. Rows of length zero
            have no direction: under cosine they have no neighbours and are nobody's.

    Returns:
        Distances, ascending (float64), and indices into ``reference``. Ties go to the lower index. Where fewer than k
        rows are allowed, the rest is filled with inf and -1.

    Raises:
        ValueError: if k < 1, the dimensions differ, only one of the two group tensors is given, the metric is
            unknown, rows are not floating-point matrices, or one holds NaN or infinity.

    Example:
        >>> import torch
        >>> distances, indices = knn(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 4.0], [0.0, 3.0]]), k=2)
        >>> distances.tolist(), indices.tolist()
        ([[2.0, 4.242640687119285]], [[1, 0]])
    """
    _check_rows("queries", queries, query_groups)
    _check_rows("reference", reference, reference_groups)
    if metric == "cosine":
        return _cosine_knn(queries, reference, k, exclude_self, query_groups, reference_groups)
    if metric != "euclidean":
        raise ValueError(f"knn: metric must be 'euclidean' or 'cosine', got {metric!r}")
    distances, indices, _, _ = knn_with_kernel(
        queries, reference, k, exclude_self, query_groups=query_groups, reference_groups=reference_groups
    )
    return distances, indices


def _cosine_knn(
    queries: Tensor,
    reference: Tensor,
    k: int,
    exclude_self: bool,
    query_groups: Tensor | None,
    reference_groups: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """By the chords of unit rows: their squares are twice the cosine distances.

    Rows of length zero are moved along a dimension of their own, farther away than any unit row can be.
    """
    q, b = _directions(queries, 0.0), _directions(reference, 10.0)
    chords, found = knn(q, b, k, exclude_self, query_groups=query_groups, reference_groups=reference_groups)
    none = (queries == 0).all(dim=1, keepdim=True) | (found < 0) | (chords > 5.0)
    return (chords.square() / 2).masked_fill(none, torch.inf), found.masked_fill(none, -1)


def _directions(rows: Tensor, away: float) -> Tensor:
    """(n, d+1) L2-normalised rows, whatever their scale; for rows of zeros, ``away`` in the last column."""
    finite_range(rows, most=math.inf)
    largest = rows.detach().abs().amax(dim=1, keepdim=True).double() if rows.shape[1] else rows.new_zeros(len(rows), 1)
    scaled = torch.where(largest > 0, rows.detach().double() / largest, 0.0)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return torch.cat([torch.where(length > 0, scaled / length, 0.0), torch.where(length > 0, 0.0, away)], dim=1)


def knn_with_kernel(
    queries: Float[Tensor, "n d"],
    reference: Float[Tensor, "m e"],
    k: int,
    exclude_self: bool = False,
    *,
    query_groups: Int64[Tensor, " n"] | None = None,
    reference_groups: Int64[Tensor, " m"] | None = None,
    kernel_scale: float = 0.0,
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"], Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """:func:`knn`, and in the same pass Σ_j exp(−kernel_scale·‖q−b_j‖²) and the number of terms, per query."""
    if k < 1:
        raise ValueError(f"knn: k must be at least 1, got {k}")
    if queries.shape[1] != reference.shape[1]:
        raise ValueError(f"knn: queries have {queries.shape[1]} dimensions, reference {reference.shape[1]}")
    if (query_groups is None) != (reference_groups is None):
        raise ValueError("knn: give both query_groups and reference_groups, or neither")
    _check_rows("queries", queries, query_groups)
    _check_rows("reference", reference, reference_groups)
    q = queries.detach()  # no gradient flows through a search
    b = q if reference is queries else reference.detach()
    distances, indices, sums, counts = _call(
        "knn", q, b, k, query_groups, reference_groups, exclude_self, float(kernel_scale)
    )
    return distances, indices, sums, counts


def _check_rows(name: str, rows: Tensor, groups: Tensor | None) -> None:
    if rows.ndim != 2 or not rows.is_floating_point():
        given = f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise ValueError(f"knn: {name} must be floating-point rows of shape (n, d), got {given}; convert them first")
    if groups is not None and groups.shape != (len(rows),):
        raise ValueError(
            f"knn: {len(rows)} {name}, but groups of shape {tuple(groups.shape)}: one for each row is needed"
        )


def self_neighbors(
    rows: Float[Tensor, "n d"],
    k: int,
    groups: Int64[Tensor, " n"],
    voters: Bool[Tensor, " n"],
    vote_k: int = 0,
    kernel_scale: float = 0.0,
) -> SelfNeighbors:
    """All rows' exact neighbours among each other by distance and by angle, in one pass over tiles of products.

    Args:
        rows: to search for and among; none is its own neighbour.
        k: neighbours by Euclidean distance; 0: none are searched.
        groups: rows of one non-negative group (sample, sequence) are never neighbours.
        voters: rows that are searched for and among by angle; rows of length zero never are.
        vote_k: neighbours by angle; 0: none are searched.
        kernel_scale: t of Σ_j exp(−t·‖x_i/‖x_i‖ − x_j/‖x_j‖‖²) over rows that are not zero, and of the sum of the
            terms' squares; 0: not computed.

    Returns:
        As :func:`knn`, twice; a chord is √(2−2cos). Ties go to the lower index; where there are fewer, inf and −1.
        Which rows are neighbours is exact in both tables, and so are the distances. Compiled kernels take chords and
        kernel sums from fp32 products of unit rows: then the chords' squares, and kernel sums in relation (up to a
        scale of 4; beyond, products are float64), are right to about 1e-6, and rows are listed in the order of those
        chords.

    Raises:
        ValueError: if k or vote_k is negative, or kernel_scale is; or if a row holds NaN or infinity.
    """
    if k < 0 or vote_k < 0 or kernel_scale < 0:
        raise ValueError(f"k, vote_k and kernel_scale must not be negative, got {k}, {vote_k}, {kernel_scale}")
    _check_rows("rows", rows, groups)
    return SelfNeighbors(*_call("self_neighbors", rows.detach(), k, groups, voters, vote_k, float(kernel_scale)))
