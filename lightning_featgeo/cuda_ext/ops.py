"""The ops by their final names: schemas (written once, here), fake kernels, and typed entry points.

A compiled library only adds kernels for the CPU and CUDA dispatch keys; the plain-torch reference is
registered beneath them for every device, so a missing kernel is slower and never wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import reference
from lightning_featgeo.types import Bool, Float, Int64

NAMESPACE = "lightning_featgeo"
SCHEMAS = {
    "hash_priority": "(Tensor index, int seed) -> Tensor",
    "reservoir_slots": "(Tensor priorities, Tensor new_priorities) -> (Tensor, Tensor, Tensor)",
    "scatter_": "(Tensor rows, Tensor groups, Tensor(a!) shift, Tensor(b!) counts, Tensor(c!) sums, "
    "Tensor(d!) squares, Tensor(e!)? scatter, int labelled_groups, bool exact) -> ()",
    "direction_sums_": "(Tensor rows, Tensor keep, Tensor(a!) count, Tensor(b!) sums, Tensor(c!) squares) -> ()",
    "unit_stats_": "(Tensor rows, Tensor keep, Tensor(a!) active, Tensor(b!) minimum, Tensor(c!) maximum) -> ()",
    "knn": "(Tensor queries, Tensor reference, int k, Tensor? query_groups, Tensor? reference_groups, "
    "bool exclude_self, float kernel_scale) -> (Tensor, Tensor, Tensor, Tensor)",
}
_library = torch.library.Library(NAMESPACE, "DEF")


def _fake_knn(
    queries: Tensor,
    reference: Tensor,
    k: int,
    query_groups: Tensor | None,
    reference_groups: Tensor | None,
    exclude_self: bool,
    kernel_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = queries.shape[0]
    return (
        queries.new_empty((n, k), dtype=torch.float64),
        queries.new_empty((n, k), dtype=torch.int64),
        queries.new_empty((n,), dtype=torch.float64),
        queries.new_empty((n,), dtype=torch.int64),
    )


def _fake_slots(priorities: Tensor, new_priorities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.empty_like(new_priorities)
    return like, torch.empty_like(like), torch.empty_like(like, dtype=torch.bool)


def _fake_nothing(*args: object) -> None:
    """Fake kernel of an op that only writes into its arguments."""


_FAKES: dict[str, Callable[..., object]] = {
    "hash_priority": lambda index, seed: torch.empty_like(index, dtype=torch.int64),
    "reservoir_slots": _fake_slots,
    "scatter_": _fake_nothing,
    "direction_sums_": _fake_nothing,
    "unit_stats_": _fake_nothing,
    "knn": _fake_knn,
}
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _FAKES[_name], lib=_library)

_ops = getattr(torch.ops, NAMESPACE)


def hash_priority(index: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """Uniform priorities in [0, 2**62) from a counter-based hash: no generator, the same on every device."""
    result: Tensor = _ops.hash_priority(index, (seed + 2**63) % 2**64 - 2**63)  # any int, wrapped to 64 bits
    return result


def reservoir_slots(
    priorities: Int64[Tensor, " capacity"], new_priorities: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """Where new rows go in a bottom-k reservoir; see :func:`reference.reservoir_slots`."""
    slots, sources, accepted = _ops.reservoir_slots(priorities, new_priorities)
    return slots, sources, accepted


def scatter_(
    rows: Float[Tensor, "n d"],
    groups: Int64[Tensor, " n"],
    shift: Float[Tensor, "g d"],
    counts: Float[Tensor, " g"],
    sums: Float[Tensor, "g d"],
    squares: Float[Tensor, " g"],
    scatter: Float[Tensor, "buckets d d"] | None,
    labelled_groups: int,
    exact: bool,
) -> None:
    """Stream rows into shifted moments, in place.

    For each group g: ``shift`` (fp32, the first-seen mean), ``counts``, ``sums`` Σ(x−s) and ``squares``
    Σ‖x−s‖². ``scatter`` Σ(x−s)(x−s)ᵀ is pooled: bucket 0 over the first ``labelled_groups`` groups, bucket 1
    over the others (one bucket: over all). Rows whose group is negative count nowhere.
    ``exact``: products in float64, needed where an entropy of the spectrum is asked for.
    """
    _ops.scatter_(rows, groups, shift, counts, sums, squares, scatter, labelled_groups, exact)


def direction_sums_(
    rows: Float[Tensor, "n d"],
    keep: Bool[Tensor, " n"],
    count: Float[Tensor, " 2"],
    sums: Float[Tensor, " d"],
    squares: Float[Tensor, " d"],
) -> None:
    """Stream L2-normalised rows into per-dimension sums, in place; ``count``: rows, and rows that are not zero."""
    _ops.direction_sums_(rows, keep, count, sums, squares)


def unit_stats_(
    rows: Float[Tensor, "n d"],
    keep: Bool[Tensor, " n"],
    active: Float[Tensor, " d"],
    minimum: Float[Tensor, " d"],
    maximum: Float[Tensor, " d"],
) -> None:
    """Stream rows into per-unit activity counts (x > 0) and ranges, in place."""
    _ops.unit_stats_(rows, keep, active, minimum, maximum)


def knn(
    queries: Float[Tensor, "n d"],
    reference: Float[Tensor, "m e"],
    k: int,
    exclude_self: bool = False,
    *,
    query_groups: Int64[Tensor, " n"] | None = None,
    reference_groups: Int64[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Exact k nearest neighbours, Euclidean.

    Args:
        queries: rows to search for.
        reference: rows to search among.
        k: how many, at least 1.
        exclude_self: row i of the queries is row i of the reference, and is not its own neighbour.
        query_groups: group of each query (sample, sequence); with ``reference_groups``, rows of the same
            non-negative group are never neighbours.
        reference_groups: group of each reference row.

    Returns:
        Distances, ascending, in the features' units (float64), and indices into ``reference``. Ties go to the
        lower index. Where fewer than k rows are allowed, the rest is filled with inf and -1.

    Raises:
        ValueError: if k < 1, the dimensions differ, or only one of the two group tensors is given.
    """
    distances, indices, _, _ = knn_with_kernel(
        queries, reference, k, exclude_self, query_groups=query_groups, reference_groups=reference_groups
    )
    return distances, indices


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
    distances, indices, sums, counts = _ops.knn(
        queries, reference, k, query_groups, reference_groups, exclude_self, float(kernel_scale)
    )
    return distances, indices, sums, counts
