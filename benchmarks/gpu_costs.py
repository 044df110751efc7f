"""What the package costs on a GPU: launches, waits for the device and time, of searches, of a step and of a close.

    python benchmarks/gpu_costs.py [--out benchmarks/results/gpu_costs.md]

Three ways, each in a process of its own: with the CUDA kernels, over plain torch ops (``LIGHTNING_FEATGEO_CUDA=0``),
and all in float64 (``LIGHTNING_FEATGEO_BACKEND=reference``). Launches are kernels, copies and fills as the profiler
counts them; waits are synchronisations of the host.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from measuring import publish, table
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))
from lightning_featgeo import GeometryMetric
from lightning_featgeo.cuda_ext import backend_info, certified, ops
from lightning_featgeo.metrics.catalog import PRESETS

WAYS = {
    "CUDA kernels": {"LIGHTNING_FEATGEO_CUDA": "auto"},
    "plain torch ops": {"LIGHTNING_FEATGEO_CUDA": "0"},
    "float64": {"LIGHTNING_FEATGEO_BACKEND": "reference"},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def counted(call: Callable[[], object], of: str = "") -> tuple[int, int]:
    """Launches and waits of one call; where ``FEATGEO_KERNELS`` is set, what took the GPU longest goes to stderr."""
    if DEVICE == "cpu":
        return 0, 0
    synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        synchronize()
    if os.environ.get("FEATGEO_KERNELS"):
        spent = collections.Counter[str]()
        for event in seen.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                spent[event.name.replace("(anonymous namespace)::", "").split("(")[0][-60:]] += event.device_time_total
        told = ", ".join(f"{name} {us:.0f}" for name, us in spent.most_common(9))
        print(f"{of}: {sum(spent.values()):.0f} us on the GPU: {told}", file=sys.stderr)
    launches = waits = 0
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            launches += not event.name.startswith("Command Buffer")
        elif "Synchronize" in event.name:
            waits += 1
    return launches, max(0, waits - 1)  # the last one is ours


def timed(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        synchronize()
        begin = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def cases() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    q, b = torch.randn(1024, 512, device=DEVICE), torch.randn(50_000, 512, device=DEVICE)
    small, large = b[:4096].clone(), b[:20_000].clone()
    collapsed = torch.randn(100, 512, device=DEVICE)[torch.arange(20_000, device=DEVICE) % 100] + 0.01 * large

    def among(x: torch.Tensor, k: int, votes: int, scale: float) -> Callable[[], object]:
        nobody = torch.full((len(x),), -1, device=DEVICE)
        everybody = torch.ones(len(x), dtype=torch.bool, device=DEVICE)
        return lambda: ops.self_neighbors(x, k, nobody, everybody, votes, scale)

    return {
        "knn 1024 × 50,000 × 512, k = 10": lambda: ops.knn(q, b, 10),
        "self 4,096 × 512, k = 20": among(small, 20, 0, 0.0),
        "self 4,096 × 512, votes and kernel sums": among(small, 20, 20, 2.0),
        "self 20,000 × 512, k = 20": among(large, 20, 0, 0.0),
        "self 20,000 × 512, votes and kernel sums": among(large, 20, 20, 2.0),
        "self 20,000 × 512, 100 tight classes, k = 20": among(collapsed, 20, 0, 0.0),
    }


def steps() -> dict[str, tuple[GeometryMetric, Callable[[], object]]]:
    made = {}
    for preset, classes, d in (("classifier", 100, 512), ("classifier", 1000, 2048), ("self_supervised", 0, 512)):
        pool = itertools.cycle([*torch.randn(32, 256, d, device=DEVICE)])
        labels = torch.arange(256, device=DEVICE) % max(1, classes)
        metric = GeometryMetric([*PRESETS[preset]] if classes else "auto", num_classes=classes or None).to(DEVICE)

        def update(
            m: GeometryMetric = metric,
            x: Iterator[torch.Tensor] = pool,
            y: torch.Tensor | None = labels if classes else None,
        ) -> None:
            m.update(next(x)) if y is None else m.update(next(x), y)

        made[f"{preset}, 256 × {d}" + (f", {classes} classes" if classes else "")] = metric, update
    return made


def measured(quick: bool) -> dict[str, list[float]]:
    found = {}
    for name, call in cases().items():
        call()
        launches, waits = counted(call, name)
        found[name] = [launches, waits, timed(call, 2 if quick else 7)]
    for name, (metric, update) in steps().items():
        for _ in range(20):
            update()
        launches, waits = counted(lambda update=update: [update() for _ in range(32)], name)
        seconds = timed(lambda update=update: [update() for _ in range(32)], 3) / 32
        found[f"step: {name}"] = [launches / 32, waits / 32, seconds]
        metric.window()
        for _ in range(20):
            update()
        launches, waits = counted(metric.window)
        found[f"close: {name}, 5,120 rows"] = [launches, waits, timed(metric.window, 2)]
    found["settled"] = [str(dict(certified.settled)), backend_info()["cuda"], ""]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help="measure this process's way, and print figures")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.quick)))
        return
    raw = {}
    for way in args.ways:
        command = [sys.executable, __file__, "--one", *(["--quick"] if args.quick else [])]
        done = subprocess.run(command, env={**os.environ, **WAYS[way]}, capture_output=True, text=True, check=False)
        if done.returncode:
            print(way, done.stdout[-2000:], done.stderr[-3000:])
            continue
        print(done.stderr[-6000:], file=sys.stderr)
        raw[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, raw[way].pop("settled"), flush=True)
    rows: list[list[object]] = []
    for name in next(iter(raw.values())):
        rows.append([name])
        for way in raw:
            launches, waits, seconds = raw[way][name]
            rows[-1] += [f"{launches:.4g}", f"{waits:.3g}", f"{seconds * 1e3:.3g}"]
    heads = ["", *(f"{what}, {way}" for way in raw for what in ("launches", "waits", "ms"))]
    publish("What it costs on a GPU", {"Launches, waits and time": table(heads, rows)}, raw, args.out, DEVICE)


if __name__ == "__main__":
    main()
