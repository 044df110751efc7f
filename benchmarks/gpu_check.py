"""Everything that only a GPU can show, in one go: each CUDA kernel against float64, the sanitizer, then the benchmarks.

    make gpu-check        (or, with the package importable:
    LIGHTNING_FEATGEO_CUDA=1 python benchmarks/gpu_check.py [--cases 60] [--no-bench] [--sanitize 0])

Needs torch built for CUDA 13 and the package's own dependencies, and downloads nothing. Shapes are drawn at random: odd
sizes, k from 1 to 256, d from 1 to 4096, rows of every type that are not contiguous. The references are the plain-torch
ops on the CPU. Exits with 1 if anything is wrong. Figures of the benchmarks go to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_featgeo.cuda_ext import backend_info, certified, library, ops, reference, scan_ops, search
from lightning_featgeo.cuda_ext.self_search import SelfNeighbors

HERE = Path(__file__).parent
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
    n, d = draw.randint(0, 900), draw.randint(1, 200 if small else draw.choice([64, 600, 4096]))
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
        reference.scatter_(x.cpu(), ids.cpu(), *theirs, labelled)
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        close(a, b, 1e-9, 1e-7)
    if buckets:
        scale = float(theirs[4].abs().max()) + 1e-30
        close(ours[4] / scale, theirs[4] / scale, 0.0, 1e-11)
        assert torch.equal(ours[4], ours[4].transpose(1, 2)), "the scatter is not symmetric"
    return f"n={n} d={d} groups={groups} buckets={buckets} {dtype}"


def check_select(draw: Draw, small: bool) -> str:
    n, m, width = draw.randint(1, 200), draw.randint(1, 5000), draw.randint(1, 300)
    dtype = draw.choice([torch.float32, torch.float64])
    values = [torch.full((n, width), torch.inf, dtype=dtype) for _ in "ab"]
    indices = [torch.full((n, width), -1) for _ in "ab"]
    own, found = values[0].cuda(), indices[0].cuda()
    first = 0
    for _ in range(3):
        products, norms, other = torch.randn(n, m, dtype=dtype), torch.rand(n, dtype=dtype), torch.rand(m, dtype=dtype)
        ids, other_ids = torch.randint(0, 30, (n,), dtype=torch.int32), torch.randint(0, 30, (m,), dtype=torch.int32)
        scan_ops.select_(products.cuda(), norms.cuda(), other.cuda(), ids.cuda(), other_ids.cuda(), first, own, found)
        reference.select_(products, norms, other, ids, other_ids, first, values[1], indices[1])
        first += m
    close(own, values[1], 1e-6, 1e-6)
    assert float((found.cpu() == indices[1]).double().mean()) > 0.999, "indices differ"
    return f"n={n} m={m} width={width} {dtype}"


def check_neighbours(draw: Draw, small: bool) -> str:
    n, m = draw.randint(1, 400), draw.randint(1, 700 if small else 6000)
    d, k = draw.randint(1, 64 if small else draw.choice([3, 128, 512, 4096])), draw.choice([draw.randint(1, 256), 2000])
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
    n, d = draw.randint(1, 900), draw.randint(1, 64 if small else 700)
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
    "select_": check_select,
    "knn": check_neighbours,
    "self_neighbors": check_self,
}


def compare(cases: int, small: bool) -> int:
    wrong = 0
    for name, check in CHECKS.items():
        failures = []
        for seed in range(cases):
            torch.manual_seed(seed)
            try:
                check(Draw(seed), small)
            except Exception as error:  # every failing case is reported, with the seed that draws it again
                failures.append(f"    seed {seed}: {type(error).__name__}: {str(error)[:300]}")
        torch.cuda.synchronize()
        print(f"{name}: {cases - len(failures)} of {cases} right", *failures[:5], sep="\n", flush=True)
        wrong += len(failures)
    return wrong


def sanitized(tool: str, seconds: int) -> int:
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        print(f"compute-sanitizer was not found: {tool} was not run")
        return 0
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--cases", "3", "--small"]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"compute-sanitizer {tool}: not finished after {seconds} s, so it proves nothing", flush=True)
        return 0
    print(
        f"compute-sanitizer {tool} ({time.perf_counter() - begin:.0f} s): "
        + ("clean" if done.returncode == 0 else done.stdout[-3000:] + done.stderr[-1000:]),
        flush=True,
    )
    return int(done.returncode != 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--small", action="store_true", help="small shapes, the comparisons only: for the sanitizer")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--sanitize", type=int, default=600, help="seconds that each sanitizer tool gets; 0: none runs")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device is visible to torch: run this on a machine with a GPU")
        return 1
    library.load_for(torch.zeros(1).cuda())
    if "cuda" not in library.libraries:
        print(f"the CUDA kernels are not loaded: {library.reasons['cuda']}")
        return 1
    print(torch.cuda.get_device_name(), backend_info(), sep="\n", flush=True)
    wrong = compare(args.cases, args.small)
    if args.small:
        return int(wrong > 0)
    if not args.no_bench:
        name = torch.cuda.get_device_name().lower().replace(" ", "_")
        for bench in ("covariance", "neighbors"):
            out = HERE / "results" / f"{bench}_{name}.md"
            command = [sys.executable, str(HERE / f"{bench}.py"), "--device", "cuda", "--out", str(out)]
            wrong += subprocess.run(command, env=os.environ, check=False).returncode != 0
    for tool in ("memcheck", "racecheck", "synccheck") if args.sanitize else ():
        wrong += sanitized(tool, args.sanitize)
    print("all right" if not wrong else f"{wrong} things are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
