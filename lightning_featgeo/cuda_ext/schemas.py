"""The ops' schemas, written once for every device, their fake kernels, and the registration of their references.

A compiled library (:mod:`~lightning_featgeo.cuda_ext.library`) only adds kernels for the CPU and CUDA dispatch keys;
the plain-torch reference is registered beneath them for every device, so a missing kernel is slower and never wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import proof, reference

NAMESPACE = "lightning_featgeo"
SCHEMAS = {
    "hash_priority": "(Tensor index, int seed) -> Tensor",
    "reservoir_slots": "(Tensor priorities, Tensor new_priorities) -> (Tensor, Tensor, Tensor)",
    "scatter_": "(Tensor rows, Tensor groups, Tensor(a!) shift, Tensor(b!) counts, Tensor(c!) sums, "
    "Tensor(d!) squares, Tensor(e!)? scatter, int labelled_groups) -> ()",
    "group_sums_": "(Tensor rows, Tensor groups, Tensor(a!) shift, Tensor(b!) counts, Tensor(c!) sums, "
    "Tensor(d!) squares, Tensor(e!)? scatter, int labelled_groups) -> Tensor",
    "place_": "(Tensor(a!) state, Tensor fresh, Tensor slots, Tensor sources, Tensor accepted) -> ()",
    "direction_sums_": "(Tensor rows, Tensor keep, Tensor(a!) count, Tensor(b!) sums, Tensor(c!) squares) -> ()",
    "unit_stats_": "(Tensor rows, Tensor keep, Tensor(a!) active, Tensor(b!)? minimum, Tensor(c!)? maximum) -> ()",
    "knn": "(Tensor queries, Tensor reference, int k, Tensor? query_groups, Tensor? reference_groups, "
    "bool exclude_self, float kernel_scale) -> (Tensor, Tensor, Tensor, Tensor)",
    "self_neighbors": "(Tensor rows, int k, Tensor groups, Tensor voters, int vote_k, float kernel_scale) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "scan": "(Tensor queries, Tensor? reference, Tensor query_ids, Tensor? reference_ids, Tensor centre, float scale, "
    "int k, bool measure, int precision, float kernel_scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "candidates": "(Tensor rows, Tensor ids, Tensor centre, float scale, int width, int precision, "
    "float kernel_scale, int part, int parts) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "settle": "(Tensor rows, int first, Tensor values, Tensor indices, Tensor limits, Tensor lengths, Tensor centre, "
    "float scale, int k, bool measure, int precision) -> (Tensor, Tensor, Tensor)",
    "frame": "(Tensor rows, Tensor? others, int most) -> (Tensor, Tensor)",
    "best": "(Tensor queries, Tensor? reference, Tensor query_ids, Tensor? reference_ids, Tensor centre, float scale, "
    "int room, int precision, float kernel_scale, bool full) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "prepare": "(Tensor rows, Tensor centre, float scale, int precision) -> (Tensor, Tensor, Tensor, Tensor)",
    "prove": "(Tensor queries, Tensor reference, Tensor values, Tensor indices, Tensor limits, Tensor norms, "
    "Tensor lost, float scale, int k, int precision) -> (Tensor, Tensor, Tensor)",
    "kernel_sums_": "(Tensor products, Tensor query_norms, Tensor reference_norms, Tensor query_ids, "
    "Tensor reference_ids, float factor, Tensor(a!) sums, Tensor(b!) squares) -> ()",
    "select_": "(Tensor products, Tensor query_norms, Tensor reference_norms, Tensor query_ids, Tensor reference_ids, "
    "int first, Tensor(a!) values, Tensor(b!) indices) -> ()",
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


def _fake_self_neighbors(
    rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float
) -> tuple[Tensor, ...]:
    n = rows.shape[0]
    tables = [rows.new_empty((n, width), dtype=t) for width in (k, vote_k) for t in (torch.float64, torch.int64)]
    columns = [rows.new_empty((n,), dtype=t) for t in (torch.float64, torch.float64, torch.int64)]
    return *tables, *columns


def _fake_scan(
    queries: Tensor,
    reference: Tensor | None,
    query_ids: Tensor,
    reference_ids: Tensor | None,
    centre: Tensor,
    scale: float,
    k: int,
    measure: bool,
    precision: int,
    kernel_scale: float,
) -> tuple[Tensor, ...]:
    n = queries.shape[0]
    shapes = ((n, k), torch.float64), ((n, k), torch.int64), ((n,), torch.bool), ((n,), torch.float64)
    return *(queries.new_empty(s, dtype=t) for s, t in shapes), queries.new_empty((n,), dtype=torch.float64)


def _fake_candidates(
    rows: Tensor,
    ids: Tensor,
    centre: Tensor,
    scale: float,
    width: int,
    precision: int,
    kernel_scale: float,
    part: int,
    parts: int,
) -> tuple[Tensor, ...]:
    n, kind = rows.shape[0], torch.float64 if precision == proof.F64 else torch.float32
    tables = rows.new_empty((n, width), dtype=kind), rows.new_empty((n, width), dtype=torch.int32)
    columns = [rows.new_empty((n,), dtype=t) for t in (kind, torch.float64, torch.float64)]
    return *tables, *columns, rows.new_empty((n + 1,), dtype=torch.float64)


def _fake_settle(
    rows: Tensor,
    first: int,
    values: Tensor,
    indices: Tensor,
    limits: Tensor,
    lengths: Tensor,
    centre: Tensor,
    scale: float,
    k: int,
    measure: bool,
    precision: int,
) -> tuple[Tensor, ...]:
    n = values.shape[0]
    shapes = ((n, k), torch.float64), ((n, k), torch.int64), ((n,), torch.bool)
    return tuple(rows.new_empty(s, dtype=t) for s, t in shapes)


def _fake_frame(rows: Tensor, others: Tensor | None, most: int) -> tuple[Tensor, ...]:
    return tuple(rows.new_empty((n,), dtype=torch.float64) for n in (rows.shape[1], 2))


def _fake_best(
    queries: Tensor,
    reference: Tensor | None,
    query_ids: Tensor,
    reference_ids: Tensor | None,
    centre: Tensor,
    scale: float,
    room: int,
    precision: int,
    kernel_scale: float,
    full: bool,
) -> tuple[Tensor, ...]:
    n, kind, wide = queries.shape[0], proof.SUMS[precision], torch.float64
    shapes = ((n, room), kind), ((n, room), torch.int64), ((n,), kind), ((n,), wide), ((n,), wide), ((n,), wide)
    return *(queries.new_empty(s, dtype=t) for s, t in shapes), queries.new_empty((), dtype=wide)


def _fake_prepare(rows: Tensor, centre: Tensor, scale: float, precision: int) -> tuple[Tensor, ...]:
    n, width = rows.shape[0], (rows.shape[1] + 7) // 8 * 8
    rounded = rows.new_empty((n, width), dtype=proof.TYPES[precision])
    norms = rows.new_empty((n,), dtype=torch.float64)
    return rounded, norms, norms.to(proof.SUMS[precision]), rows.new_empty((), dtype=torch.float64)


def _fake_prove(
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
) -> tuple[Tensor, ...]:
    n = values.shape[0]
    shapes = ((n, k), torch.float64), ((n, k), torch.int64), ((n,), torch.bool)
    return tuple(queries.new_empty(s, dtype=t) for s, t in shapes)


def _fake_group_sums(
    rows: Tensor,
    groups: Tensor,
    shift: Tensor,
    counts: Tensor,
    sums: Tensor,
    squares: Tensor,
    scatter: Tensor | None,
    labelled_groups: int,
) -> Tensor:
    return rows.new_empty((0 if scatter is None else rows.shape[0], rows.shape[1]), dtype=torch.float64)


def _fake_slots(priorities: Tensor, new_priorities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.empty_like(new_priorities)
    return like, torch.empty_like(like), torch.empty_like(like, dtype=torch.bool)


def _on_one_device(name: str, fake: Callable[..., object]) -> Callable[..., object]:
    """A fake kernel that refuses meta tensors beside others: it would hand out memory that nobody has written."""

    def checked(*args: object) -> object:
        devices = {str(arg.device) for arg in args if isinstance(arg, Tensor)}
        if len(devices) > 1:
            raise ValueError(f"{name}: the tensors are on {' and '.join(sorted(devices))}; move them to one device")
        return fake(*args)

    return checked


def _fake_nothing(*args: object) -> None:
    """Fake kernel of an op that only writes into its arguments."""


_FAKES: dict[str, Callable[..., object]] = {
    "hash_priority": lambda index, seed: torch.empty_like(index, dtype=torch.int64),
    "reservoir_slots": _fake_slots,
    "scatter_": _fake_nothing,
    "direction_sums_": _fake_nothing,
    "unit_stats_": _fake_nothing,
    "knn": _fake_knn,
    "self_neighbors": _fake_self_neighbors,
    "scan": _fake_scan,
    "candidates": _fake_candidates,
    "settle": _fake_settle,
    "group_sums_": _fake_group_sums,
    "place_": _fake_nothing,
    "frame": _fake_frame,
    "best": _fake_best,
    "prepare": _fake_prepare,
    "prove": _fake_prove,
    "kernel_sums_": _fake_nothing,
    "select_": _fake_nothing,
}
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _on_one_device(_name, _FAKES[_name]), lib=_library)


def define_kernel(name: str, function: Callable[..., object], key: str) -> None:
    """Let a Python function serve an op on the devices of a dispatch key; compiled kernels register themselves."""
    _library.impl(name, function, key)
