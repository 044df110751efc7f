"""Raw ops with arguments that nobody would give: a result or a Python error, never a crash, never a stray write.

``make asan`` runs this with the address and undefined-behaviour sanitizers in the library, and many more examples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_featgeo.cuda_ext import ops  # noqa: F401 # registers them
from lightning_featgeo.cuda_ext.schemas import SCHEMAS

EXAMPLES = int(os.environ.get("FEATGEO_EXAMPLES", "40"))
SIZES = (0, 1, 2, 3, 16, 33, 130)
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
NUMBERS = (0, 1, -1, 2, 7, 2**40, -(2**31), 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, 1.0, -1.0, 1e-300, 1e300, float("inf"), float("nan"))


def valid(name: str, n: int, d: int, k: int, kind: torch.dtype) -> list[Any]:
    """Arguments of an op that it was made for."""
    rows, ids = torch.randn(n, d).to(kind), torch.full((n,), -1, dtype=torch.int32)
    groups, keep = torch.randint(-1, 3, (n,)), torch.rand(n) < 0.9

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64)

    if name == "hash_priority":
        return [torch.randint(0, 2**40, (n,)), 3]
    if name == "reservoir_slots":
        return [torch.randint(0, 2**62, (n + k,)), torch.randint(0, 2**62, (n,))]
    if name in ("scatter_", "group_sums_"):
        return [rows, groups, torch.zeros(4, d), zeros(4), zeros(4, d), zeros(4), zeros(1, d, d), 3]
    if name == "direction_sums_":
        return [rows, keep, zeros(2), zeros(d), zeros(d)]
    if name == "unit_stats_":
        return [rows, keep, zeros(d), zeros(d), zeros(d)]
    if name == "knn":
        return [rows, torch.randn(n + 1, d).to(kind), k, groups, torch.randint(-1, 3, (n + 1,)), False, 1.0]
    if name == "self_neighbors":
        return [rows, k, groups, keep, k, 1.0]
    if name == "scan":
        return [rows, None, ids, None, zeros(d), 1.0, k, True, 1, 1.0]
    if name == "candidates":
        return [rows, ids, zeros(d), 1.0, max(k, 1), 1, 0.0, 0, 1]
    if name == "settle":
        found = torch.ops.lightning_featgeo.candidates(*valid("candidates", n, d, k, kind))
        return [rows, 0, *found[:3], found[5], zeros(d), 1.0, k, True, 1]
    if name == "place_":
        slots = torch.randperm(n + k)[:n]
        return [torch.zeros(n + k, d), rows, slots, torch.randperm(n), keep]
    if name == "frame":
        return [rows, None, 512]
    if name == "prepare":
        return [rows, zeros(d), 1.0, 1]
    if name == "best":
        return [rows, None, ids, None, zeros(d), 1.0, max(k, 1), 1, 1.0, True]
    if name == "prove":
        found = torch.randint(-1, max(n, 1), (n, k))
        return [rows, rows, torch.rand(n, k), found, torch.rand(n), torch.rand(n).double(), zeros(1), 1.0, k, 1]
    ids = torch.arange(n, dtype=torch.int32)
    products = torch.randn(n, n + 2)
    theirs = torch.arange(n + 2, dtype=torch.int32)
    tile = [products, torch.rand(n), torch.rand(n + 2), ids, theirs]
    if name == "kernel_sums_":
        return [*tile, -1.0, zeros(n), zeros(n)]
    assert name == "select_"
    return [*tile, 0, torch.rand(n, k), torch.zeros(n, k).int()]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor | None:
    """Any tensor: of any type and shape, of no or strange strides, on a device that holds nothing, with any numbers."""
    shape = draw(st.lists(st.sampled_from(SIZES), max_size=3))
    made = draw(st.sampled_from((torch.randn, torch.zeros, torch.ones)))(shape)
    made = made * draw(st.sampled_from((1.0, 1e30, float("nan"), float("inf"), -7.0)))
    found = (
        made.nan_to_num().to(kind) if not (kind := draw(st.sampled_from(TYPES))).is_floating_point else made.to(kind)
    )
    form = draw(st.sampled_from(("plain", "meta", "transposed", "expanded", "every second")))
    if form == "meta":
        return found.to("meta")
    if form == "expanded":
        return found[:1].expand(33, *found.shape[1:]) if found.ndim and len(found) else found
    return (
        found.mT if form == "transposed" and found.ndim > 1 else found[::2] if form[0] == "e" and found.ndim else found
    )


@st.composite
def calls(draw: st.DrawFn, names: Sequence[str] = tuple(sorted(SCHEMAS))) -> tuple[str, list[Any]]:
    """One of these ops, and its arguments with up to two replaced."""
    name = draw(st.sampled_from(names))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    kind = draw(st.sampled_from(TYPES[:4]))
    arguments = valid(name, *(draw(st.sampled_from(SIZES)) for _ in range(3)), kind)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(arguments) - 1))
        other = {
            bool: st.booleans(),
            int: st.sampled_from(NUMBERS),
            float: st.sampled_from(FLOATS),
        }.get(type(arguments[at]), tensors() if draw(st.booleans()) else st.none())  # fmt: skip
        given = arguments[at]
        if isinstance(given, torch.Tensor) and not given.is_meta and draw(st.booleans()):  # wrong in its numbers only
            wild = st.sampled_from(FLOATS if given.is_floating_point() else NUMBERS)
            chosen = torch.rand(given.shape) < draw(st.sampled_from((0.1, 1.0)))
            arguments[at] = torch.where(chosen, torch.tensor(draw(wild)).to(given.dtype), given)
        else:
            arguments[at] = draw(other)
    return name, arguments


@pytest.mark.slow
@given(calls())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_an_op_gives_a_result_or_a_python_error(call: tuple[str, list[Any]]) -> None:
    name, arguments = call
    op = getattr(torch.ops.lightning_featgeo, name)
    try:
        found = op(*arguments)
    except Exception:  # it was refused
        return
    for tensor in found if isinstance(found, tuple | list) else [found] if isinstance(found, torch.Tensor) else []:
        assert tensor.device.type == "meta" or tensor.sum() is not None  # reads every byte of it


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_no_rows_and_many_neighbours(name: str) -> None:
    getattr(torch.ops.lightning_featgeo, name)(*valid(name, 0, 33, 130, torch.float32))


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_what_is_replaced_was_valid(name: str) -> None:
    getattr(torch.ops.lightning_featgeo, name)(*valid(name, 33, 16, 7, torch.float32))
