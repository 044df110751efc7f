"""Random cases of every CUDA kernel, each compared with the plain-torch ops on the CPU: odd sizes, types, strides."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from lightning_featgeo.cuda_ext import certified, ops, reference, scan_ops, search
from lightning_featgeo.cuda_ext.self_search import SelfNeighbors

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Draw = random.Random


def rows(draw: Draw, n: int, d: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Random rows on the GPU: any type unless given, any strides, far from the origin now and then."""
    x = torch.randn(n, 2 * d) + draw.choice([0.0, 0.0, 50.0])
    x = x.to(dtype or draw.choice(DTYPES)).cuda()
    return draw.choice(
        [lambda: x[:, ::2], lambda: x[:, :d], lambda: x[:, :d].contiguous(), lambda: x[:, :d].T.contiguous().T]
    )()


def close(ours: torch.Tensor, theirs: torch.Tensor, rtol: float, atol: float) -> None:
    torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=rtol, atol=atol)


def check_hash(draw: Draw, small: bool) -> str:
    n = draw.randint(0, 5000)
    index, seed = torch.randint(-(2**62), 2**62, (n,)), draw.getrandbits(62)
    assert torch.equal(
        torch.ops.lightning_featgeo.hash_priority(index.cuda(), seed).cpu(), reference.hash_priority(index, seed)
    )
    return f"n={n}"


def check_units(draw: Draw, small: bool) -> str:
    n, d = draw.randint(0, 600), draw.randint(1, 300 if small else 4096)
    x, keep = rows(draw, n, d), (torch.rand(n) > draw.choice([0.0, 0.3, 1.0])).cuda()
    wide, columns = {"dtype": torch.float64}, draw.choice([1, 3])  # without or with the extremes
    states = [
        (torch.zeros(d, **wide), torch.full((d,), torch.inf, **wide), torch.full((d,), -torch.inf, **wide))[:columns]
        for _ in "ab"
    ]
    sums = [(torch.zeros(2, **wide), torch.zeros(d, **wide), torch.zeros(d, **wide)) for _ in "ab"]
    on_gpu, sums_on_gpu = [s.cuda() for s in states[0]], [s.cuda() for s in sums[0]]
    for _ in range(2):
        ops.unit_stats_(x, keep, *on_gpu)
        ops.direction_sums_(x, keep, *sums_on_gpu)
        reference.unit_stats_(x.cpu(), keep.cpu(), *states[1])
        reference.direction_sums_(x.cpu(), keep.cpu(), *sums[1])
    for a, b in zip((*on_gpu, *sums_on_gpu), (*states[1], *sums[1]), strict=True):
        close(a, b, 1e-11, 1e-11)
    return f"n={n} d={d} {x.dtype}"


def check_scatter(draw: Draw, small: bool) -> str:
    n, d = (
        draw.randint(0, draw.choice([150, 1300]) if small else 900),
        draw.randint(1, 70 if small else draw.choice([64, 600, 4096])),
    )
    groups, buckets = draw.choice([1, 2, 8, 9, 64, 65, 1000]), draw.choice([0, 1, 2])
    wide = {"dtype": torch.float64}
    labelled = groups - 1 if buckets == 2 else groups

    def state() -> list[torch.Tensor | None]:
        scatter = torch.zeros(buckets, d, d, **wide) if buckets else None
        return [torch.zeros(groups, d), *(torch.zeros(s, **wide) for s in ((groups,), (groups, d), (groups,))), scatter]

    ours, theirs = [s if s is None else s.cuda() for s in state()], state()
    dtype = draw.choice(DTYPES)
    for _ in range(3):
        x, ids = rows(draw, n, d, dtype), torch.randint(-1, groups, (n,)).cuda()
        ops.scatter_(x, ids, *ours, labelled)
        centred = reference.group_sums_(x.cpu(), ids.cpu(), *theirs, labelled)
        if buckets:
            theirs[4][0].addmm_(centred.T, centred)
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        close(a, b, 1e-9, 1e-7)
    if buckets:
        scale = float(theirs[4].abs().max()) + 1e-30
        close(ours[4] / scale, theirs[4] / scale, 0.0, 1e-11)
        close(ours[4] / scale, ours[4].transpose(1, 2) / scale, 0.0, 1e-14)
    return f"n={n} d={d} groups={groups} buckets={buckets} {dtype}"


def check_reservoir(draw: Draw, small: bool) -> str:
    capacity, d = draw.randint(1, 300 if small else 5000), draw.randint(1, 70)
    dtype, fresh_dtype, most = draw.choice([torch.float32, torch.float64]), draw.choice(DTYPES), draw.choice([9, 2**62])
    empty = reference.EMPTY_PRIORITY
    priorities, kept = torch.full((capacity,), empty).cuda(), torch.zeros(capacity, d, dtype=dtype).cuda()
    numbers = torch.full((capacity,), -1).cuda()
    offered, given = [], []
    for step in range(draw.randint(1, 6)):
        n = draw.randint(1, capacity)
        new = torch.randint(0, most, (n,))
        new[torch.rand(n) < draw.choice([0.0, 0.2, 1.0])] = empty
        x = rows(draw, n, d, fresh_dtype)
        number = torch.arange(n) + 10_000 * step
        slots, sources, accepted = ops.reservoir_slots(priorities, new.cuda())
        for state, fresh in ((kept, x), (numbers, number.cuda()), (priorities, new.cuda())):
            ops.place_(state, fresh, slots, sources, accepted)
        offered += zip(new.tolist(), number.tolist(), strict=True)
        given.append((number, x.to(dtype).cpu()))
    best = sorted(priority for priority, _ in offered if priority != empty)[:capacity]
    assert sorted(p for p in priorities.tolist() if p != empty) == best, f"capacity={capacity}: others are kept"
    held = {i: p for p, i in zip(priorities.tolist(), numbers.tolist(), strict=True) if i >= 0}
    assert len(held) == len(best), "a row is kept twice"
    assert held.items() <= {i: p for p, i in offered}.items(), "a row has the priority of another"
    where = {int(i): x[at] for number, x in given for at, i in enumerate(number)}
    for place, i in enumerate(numbers.tolist()):
        assert i < 0 or torch.equal(kept[place].cpu(), where[i]), f"row {i} is another one"
    return f"capacity={capacity} d={d} {dtype} {fresh_dtype}"


def check_prepare(draw: Draw, small: bool) -> str:
    n, d, precision = draw.randint(0, 300), draw.randint(1, 70 if small else 4096), draw.choice([0, 1, 2])
    x = rows(draw, n, d, draw.choice((torch.float32, torch.float64)))
    centre, scale = torch.randn(d, dtype=torch.float64), 2.0 ** draw.randint(-20, 3)
    if draw.random() < 0.2:
        x = torch.zeros_like(x)
        centre.zero_()
    ours = torch.ops.lightning_featgeo.prepare(x, centre.cuda(), scale, precision)
    theirs = reference.prepare(x.cpu(), centre, scale, precision)
    assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(ours[0].cpu(), theirs[0]), "rounded rows differ"
    close(ours[1], theirs[1], 1e-12, 0.0)
    close(ours[2], theirs[2], 1e-6, 0.0)
    close(ours[3], theirs[3], 1e-9, 0.0)
    return f"n={n} d={d} {x.dtype} precision={precision}"


def check_kernel_sums(draw: Draw, small: bool) -> str:
    n, m, dtype = draw.randint(1, 100), draw.randint(1, 3000), draw.choice([torch.float32, torch.float64])
    sums = [torch.rand(2, n, dtype=torch.float64) for _ in "a"] * 2
    on_gpu = sums[0].cuda().clone()
    for _ in range(2):
        products, norms, other = torch.randn(n, m, dtype=dtype), torch.rand(n, dtype=dtype), torch.rand(m, dtype=dtype)
        ids, other_ids = torch.randint(0, 30, (n,), dtype=torch.int32), torch.randint(0, 30, (m,), dtype=torch.int32)
        args, factor = (products, norms, other, ids, other_ids), -draw.choice([0.1, 2.0, 50.0])
        scan_ops.kernel_sums_(*(a.cuda() for a in args), factor, on_gpu[0], on_gpu[1])
        reference.kernel_sums_(*args, factor, sums[1][0], sums[1][1])
    close(on_gpu, sums[1], 2e-5 if dtype == torch.float32 else 1e-12, 1e-12)
    return f"n={n} m={m} {dtype}"


def check_select(draw: Draw, small: bool) -> str:
    n, m = draw.randint(1, 6 if small else 200), draw.randint(1, 5000)
    width, ties = draw.choice([draw.randint(1, 300), 1000, 1536]), draw.random() < 0.3
    dtype = draw.choice([torch.float32, torch.float64])
    values = [torch.full((n, width), torch.inf, dtype=dtype) for _ in "ab"]
    indices = [torch.full((n, width), -1) for _ in "ab"]
    own, found = values[0].cuda(), indices[0].cuda()
    first = 0
    for _ in range(3):
        products, norms, other = torch.randn(n, m, dtype=dtype), torch.rand(n, dtype=dtype), torch.rand(m, dtype=dtype)
        ids, other_ids = torch.randint(0, 30, (n,), dtype=torch.int32), torch.randint(0, 30, (m,), dtype=torch.int32)
        if ties:  # of which the lowest columns stay, so that only a stable sort can be compared with
            products, norms, other = products.round(), norms.round(), other.round()
        scan_ops.select_(products.cuda(), norms.cuda(), other.cuda(), ids.cuda(), other_ids.cuda(), first, own, found)
        squares = (norms[:, None] + other) - (products + products)
        squares.masked_fill_(ids[:, None] == other_ids, torch.inf)
        both = torch.cat([values[1], squares], dim=1).sort(dim=1, stable=True)
        columns = torch.cat([indices[1], torch.arange(first, first + m).expand(n, m)], dim=1)
        columns = columns.gather(1, both.indices).masked_fill(both.values.isinf(), -1)
        values[1], indices[1] = both.values[:, :width], columns[:, :width]
        first += m
    close(own, values[1], 0.0, 0.0)
    assert torch.equal(found.cpu(), indices[1]), "indices differ"
    return f"n={n} m={m} width={width} {dtype}"


def check_neighbours(draw: Draw, small: bool) -> str:
    n, m = draw.randint(1, 60 if small else 400), draw.randint(1, 400 if small else 6000)
    d, k = draw.randint(1, 40 if small else draw.choice([3, 128, 512, 4096])), draw.choice([draw.randint(1, 256), 2000])
    x = rows(draw, m, d, draw.choice((torch.float32, torch.float64)))
    shared = draw.random() < 0.5
    q = x if shared else rows(draw, n, d, x.dtype)
    certified._WORTH_A_SAMPLE = draw.choice([0, 2**40])  # begin with bf16, or with fp32
    distances, indices = ops.knn(q, x, k, exclude_self=shared)
    exact, where = search.knn(q.cpu(), x.cpu(), k, None, None, shared, 0.0)[:2]
    close(distances, exact, 1e-9, 1e-12)
    assert float((indices.cpu() == where).double().mean()) > 0.999, "neighbours differ"
    return f"n={len(q)} m={m} d={d} k={k} {x.dtype}"


def check_self(draw: Draw, small: bool) -> str:
    n, d = draw.randint(1, 200 if small else 900), draw.randint(1, 40 if small else 700)
    x = rows(draw, n, d, torch.float32)
    groups, voters = torch.randint(-1, n, (n,)), torch.rand(n) > 0.3
    found = ops.self_neighbors(x, 9, groups.cuda(), voters.cuda(), 50, 2.0)
    truth = SelfNeighbors(*search.self_neighbors(x.cpu(), 9, groups, voters, 50, 2.0))
    close(found.distances, truth.distances, 1e-9, 1e-12)
    close(found.chords.square(), truth.chords.square(), 0.0, 2e-6)
    close(found.kernel_sums, truth.kernel_sums, 1e-5, 1e-9)
    assert torch.equal(found.kernel_counts.cpu(), truth.kernel_counts)
    return f"n={n} d={d}"


CHECKS: dict[str, Callable[[Draw, bool], str]] = {
    "hash_priority": check_hash,
    "unit_stats_, direction_sums_": check_units,
    "scatter_": check_scatter,
    "reservoir_slots, place_": check_reservoir,
    "prepare": check_prepare,
    "select_": check_select,
    "kernel_sums_": check_kernel_sums,
    "knn": check_neighbours,
    "self_neighbors": check_self,
}
