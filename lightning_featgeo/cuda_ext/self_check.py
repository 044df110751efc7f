"""Kernels prove themselves on the device they are to run on: each op on a few awkward inputs against its reference.

A kernel that was compiled by a compiler with a bug, or that this driver runs wrongly, then costs speed and no numbers.
The verdict of a device is kept in the user's cache, by the GPU, the driver, torch and the library. Meanwhile the device
is waited for: once a process and GPU at most, at its first tensor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import build, reference
from lightning_featgeo.cuda_ext.schemas import NAMESPACE

_ops = getattr(torch.ops, NAMESPACE)
Drawn = torch.Generator  # a generator of its own: the user's random numbers stay where they are
Calls = list[tuple[Any, ...]]
RAISED = "raised "  # how a reason begins that may be another one's fault (no memory left, say)


def faulty(device: torch.device, names: Sequence[str], set_aside: Callable[[str, str], object]) -> dict[str, str]:
    """Which of these ops don't agree with their references on a device, and in what.

    Each that does not is set aside at once: ``best`` is measured by a reference that calls the ops checked before it.
    """
    found = {}
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _usual_settings():
        for name in sorted(set(names) & set(_INPUTS), key=CHECKED.index):
            try:
                reason = _disagreement(name, device)
            except Exception as error:  # what a kernel may raise at its worst: it is not used
                reason = f"{RAISED}{type(error).__name__}: {str(error)[:200]}"
            if reason:
                found[name] = reason
                set_aside(name, reason)
    return found


@contextlib.contextmanager
def _usual_settings() -> Iterator[None]:
    """Without the user's default type, and deterministic algorithms: plain torch refuses some of its own."""
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kind = torch.get_default_dtype()
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(kind)
        torch.use_deterministic_algorithms(strict, warn_only=warns)


def _disagreement(name: str, device: torch.device) -> str | None:
    rtol, make = _INPUTS[name]
    with torch.device("cpu"):
        calls = make(torch.Generator().manual_seed(0))
        if name == "best" and device.type == "cuda":  # several tiles; in emulation they are small
            calls += _searched_wide(torch.Generator().manual_seed(1))
    for case, arguments in enumerate(calls):
        results = []
        for call in (getattr(_ops, name), getattr(reference, name)):
            own = [_moved(a, device) if isinstance(a, Tensor) else a for a in arguments]
            returned = call(*own)
            returned = (returned,) if isinstance(returned, Tensor) else tuple(returned or ())
            results.append([*returned, *(a for a in own if isinstance(a, Tensor))])
        if name == "reservoir_slots":  # free to choose among the places of equal priority
            results = [[_kept(arguments, *columns[:3])] for columns in results]
        if name == "best":  # of products that differ in their last bits, other rows may be the last candidates
            if _misnamed(arguments, *(column.cpu() for column in results[0][:2])):
                return f"case {case}: rows that are not those its values are of"
            results = [[*columns[:1], *columns[2:]] for columns in results]
        for ours, theirs in zip(*results, strict=True):
            if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                return f"case {case}: {ours.dtype} {tuple(ours.shape)} for {theirs.dtype} {tuple(theirs.shape)}"
            if not ours.is_floating_point() and not torch.equal(ours, theirs):
                return f"case {case}: {int((ours != theirs).sum())} other whole numbers"
            if not torch.allclose(ours.double(), theirs.double(), rtol=rtol, atol=rtol, equal_nan=True):
                return f"case {case}: off by {float((ours.double() - theirs.double()).abs().nan_to_num(0).max()):.3g}"
    return None


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """A copy on another device that is as contiguous as it was."""
    if x.is_contiguous():
        return x.to(device, copy=True)
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1], device=device)
    return wide[..., ::2].copy_(x)


def _misnamed(arguments: tuple[Any, ...], values: Tensor, indices: Tensor) -> bool:
    """Whether candidates are barred rows, or not where their values say."""
    queries, reference, query_ids, reference_ids, _, scale, _, precision, *_ = arguments
    rows, ids = (queries, query_ids) if reference is None else (reference, reference_ids)
    there = indices >= 0
    near = indices.clamp(min=0)
    apart = torch.stack(
        [(q.double() - rows[i].double()).square().sum(dim=1) for q, i in zip(queries, near, strict=True)]
    )
    close = torch.isclose(apart * scale**2, values.double(), rtol=0, atol=5e-3 if precision == 0 else 1e-5)
    return bool(((~close | (ids[near] == query_ids[:, None])) & there).any())


def _kept(arguments: tuple[Any, ...], slots: Tensor, sources: Tensor, accepted: Tensor) -> Tensor:
    bank, offered = arguments[0].clone(), arguments[1]
    taken = accepted.cpu()
    bank[slots.cpu()[taken]] = offered[sources.cpu()[taken]]
    return bank.sort().values


# --- inputs: sizes that fill no block, rows far from the origin, of every type and layout, ties, copies ---------------


def _rows(draw: Drawn, n: int, d: int, dtype: torch.dtype = torch.float32, far: float = 0.0) -> Tensor:
    return (torch.randn(n, 2 * d, generator=draw) + far).to(dtype)[:, ::2]


def _numbers(draw: Drawn, n: int, most: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(-1, most, (n,), generator=draw).to(dtype)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _hashed(draw: Drawn) -> Calls:
    return [(torch.randint(-(2**62), 2**62, (1003,), generator=draw), seed) for seed in (0, -(2**63))]


def _streamed(draw: Drawn, *states: Callable[[int], Tensor]) -> Calls:
    types = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    return [
        (_rows(draw, n, d, dtype, far), torch.rand(n, generator=draw) > 0.3, *(make(d) for make in states))
        for (n, d, far), dtype in zip(((1, 1, 0.0), (300, 65, 0.0), (77, 130, 50.0), (600, 3, 0.0)), types, strict=True)
    ]


def _grouped(draw: Drawn) -> Calls:
    calls: Calls = []
    for n, d, groups, buckets in ((1100, 9, 1, 1), (300, 130, 40, 2), (50, 300, 90, 2), (9, 3, 5, 0)):
        scatter = _zeros(buckets, d, d) if buckets else None
        shift, labelled = torch.randn(groups, d, generator=draw), groups - 1 if buckets == 2 else groups
        counts = (torch.rand(groups, generator=draw) > 0.5).double()
        for dtype in (torch.float32, torch.bfloat16):
            ids = _numbers(draw, n, groups)
            x = _rows(draw, n, d, dtype, 50.0)
            calls.append((x, ids, shift, counts, _zeros(groups, d), _zeros(groups), scatter, labelled))
    return calls


def _offered(draw: Drawn) -> Calls:
    calls: Calls = []
    for capacity, n, most in ((1100, 900, 2**62), (64, 64, 5), (2000, 3, 2**62), (5, 5, 2**62)):
        bank, new = (torch.randint(0, most, (many,), generator=draw) for many in (capacity, n))
        bank[::3], new[::4] = reference.EMPTY_PRIORITY, reference.EMPTY_PRIORITY
        calls.append((bank, new))
    return calls


def _placed(draw: Drawn) -> Calls:
    slots, sources = torch.randperm(50, generator=draw)[:40], torch.randperm(40, generator=draw)
    where = slots, sources, torch.rand(40, generator=draw) > 0.5
    return [
        (_rows(draw, 50, 33).contiguous(), _rows(draw, 40, 33, torch.bfloat16), *where),
        (_rows(draw, 50, 1).double().contiguous(), _rows(draw, 40, 1), *where),
        (_numbers(draw, 50, 9), _numbers(draw, 40, 9), *where),
    ]


def _prepared(draw: Drawn) -> Calls:
    return [
        (_rows(draw, n, d, dtype, far), torch.full((d,), far, dtype=torch.float64), 2.0**-4, precision)
        for n, d, far, dtype in ((130, 65, 0.0, torch.float32), (9, 300, 100.0, torch.float64))
        for precision in (0, 1, 2)
    ]


def _framed(draw: Drawn) -> Calls:
    x, y = _rows(draw, 1300, 37, far=5.0).contiguous(), _rows(draw, 5, 37, far=-90.0).contiguous()
    return [(x, y, 512), (x.double(), None, 512), (y, None, 512), (x.where(x < 8, torch.nan), y, 512)]


def _searched(draw: Drawn) -> Calls:
    calls: Calls = []
    x = _rows(draw, 150, 37, far=3.0).contiguous()
    ids, nobody = torch.arange(150, dtype=torch.int32) // 3, torch.full((20,), -1, dtype=torch.int32)
    for precision, scale in ((0, 0.0), (1, 0.0), (2, 2.0)):
        for part in ((x, None, ids, None), (x[:20] + 0.5, x, nobody, ids)):
            calls.append((*part, x.double().mean(dim=0), 2.0**-5, 40, precision, scale, True))
    return calls


def _searched_wide(draw: Drawn) -> Calls:
    """As many queries and rows as take several tiles of a GPU's size; few columns, so that they cost little."""
    b = _rows(draw, 12_000, 8, far=3.0).contiguous()
    ids = torch.arange(12_000, dtype=torch.int32) // 3
    return [(b[:2100].clone(), b, ids[:2100].clone(), ids, b.double().mean(dim=0), 2.0**-4, 40, 1, 0.02, True)]


def _tile(draw: Drawn, n: int, m: int, dtype: torch.dtype, whole: bool) -> tuple[Tensor, ...]:
    numbers = [torch.randn(n, m, generator=draw), *(torch.rand(many, generator=draw) * 4 for many in (n, m))]
    if whole:  # numbers with few digits: many columns are equally near
        numbers = [x.round() for x in numbers]
    ids = _numbers(draw, n, 9, torch.int32), _numbers(draw, m, 9, torch.int32)
    return (*(x.to(dtype) for x in numbers), *ids)


def _selected(draw: Drawn) -> Calls:
    calls: Calls = []
    for m, width in ((5000, 52), (700, 300), (3, 26)):  # no ties here: which of them stay is not the reference's to say
        values = (
            (torch.randperm(20 * width, generator=draw).double() / (4 * width)).reshape(20, width).sort(dim=1).values
        )
        indices = torch.arange(20 * width).reshape(20, width)
        calls += [
            (*_tile(draw, 20, m, dtype, False), 7, values.to(dtype), indices)
            for dtype in (torch.float32, torch.float64)
        ]
    return calls


def _summed(draw: Drawn) -> Calls:
    return [
        (*_tile(draw, 33, 1500, dtype, whole), -2.0, _zeros(33), _zeros(33))
        for dtype in (torch.float32, torch.float64)
        for whole in (False, True)
    ]


def _proved(draw: Drawn) -> Calls:
    calls: Calls = []
    for dtype, k, width in ((torch.float32, 5, 33), (torch.float64, 20, 26), (torch.float32, 0, 1)):
        b = _rows(draw, 200, 37, dtype, 3.0).contiguous()
        b[100:120] = b[:20]  # copies
        q = b[:50] + 0.5
        squares = (q.double()[:, None] - b.double()).square().sum(dim=2)
        squares *= 1 + 0.2 * torch.rand(squares.shape, generator=draw)  # as products of few digits give them
        near = squares.sort(dim=1, stable=True)
        indices = near.indices[:, :width].clone()
        indices[3, -1] = -1
        values, limits = near.values[:, :width].to(dtype), near.values[:, width].to(dtype)
        limits[::7] = torch.inf
        norms, lost = q.double().square().sum(dim=1), torch.tensor(1e-2, dtype=torch.float64)
        calls += [(q, b, values, indices, limits, norms, lost, 1.0, k, precision) for precision in (1, 2)]
    return calls


# how far an op may be from its reference, relatively and absolutely, and what it is asked
_INPUTS: dict[str, tuple[float, Callable[[Drawn], Calls]]] = {
    "hash_priority": (0.0, _hashed),
    "unit_stats_": (0.0, lambda draw: _streamed(draw, _zeros, lambda d: _zeros(d) + 1, lambda d: _zeros(d) - 1)),
    "direction_sums_": (1e-12, lambda draw: _streamed(draw, lambda d: _zeros(2), _zeros, _zeros)),
    "group_sums_": (1e-10, _grouped),
    "reservoir_slots": (0.0, _offered),
    "place_": (0.0, _placed),
    "frame": (1e-12, _framed),
    "prepare": (1e-6, _prepared),
    "select_": (0.0, _selected),
    "kernel_sums_": (2e-5, _summed),
    "prove": (1e-12, _proved),
    "best": (1e-5, _searched),
}
CHECKED = tuple(_INPUTS)


# --- verdicts of before -----------------------------------------------------------------------------------------------


def remembered(key: str) -> dict[str, str] | None:
    """The verdict on a device of this kind, if it was checked before."""
    try:
        found = json.loads(_file(key).read_text())
    except (OSError, ValueError, build.BuildError):
        return None
    return found if isinstance(found, dict) else None


def remember(key: str, verdict: dict[str, str]) -> None:
    """Keep a verdict; where nothing can be written, or the kernels may not be to blame, the next process checks."""
    if any(reason.startswith(RAISED) for reason in verdict.values()):
        return
    with contextlib.suppress(OSError, build.BuildError):
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = file.with_suffix(f".{os.getpid()}")  # several processes may write at once
        beside.write_text(json.dumps(verdict))
        beside.replace(file)


def _file(key: str) -> Path:
    return build.cache_folder() / f"checked-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
