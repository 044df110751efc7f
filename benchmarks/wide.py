"""Wide features: what a window costs, and what spectra of few rows miss beside a sketch of all of them.

    python benchmarks/wide.py [--out benchmarks/results/wide.md]

Costs: each case in a process of its own, so that its peak is its own. The sketch is Nyström's, Σ(x−s)(x−s)ᵀΩ of r
columns (Tropp et al., 2017), which takes as many bytes as the kept rows it is compared with; the oracle is the
covariance of all rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from measuring import publish, table

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics.catalog import PRESETS

COSTS = (  # rows, dimensions, classes, signals
    (64, 9216, 10, "classifier"),
    (10_000, 9216, 10, "classifier"),
    (100_000, 32_768, 0, "spectra and neighbours"),
    (10_000, 4096, 10, "classifier"),
)
DECAYS = (0.0, 0.5, 1.0, 1.5, 2.0)
NEIGHBOURS = ["effective_rank", "rankme", "stable_rank", "alpha_req", "feature_std", "id_two_nn", "knn_log_density"]


def resident(name: str) -> float:
    """MiB of this process: "VmRSS" now, "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def cost(n: int, d: int, classes: int, signals: str) -> dict[str, float]:
    """Seconds and MiB of one window in this process; a batch that is made anew is not counted."""
    names = list(PRESETS["classifier"]) if signals == "classifier" else NEIGHBOURS
    generator, size = torch.Generator().manual_seed(0), min(n, 256)
    base = torch.randn(size, d, generator=generator) * torch.arange(1, d + 1).pow(-0.5)
    warm = GeometryMetric(names, num_classes=classes or None)
    warm.update(base[:64, :32], torch.arange(64) % classes if classes else None)
    warm.window()
    before, streaming = resident("VmRSS"), 0.0
    metric = GeometryMetric(names, num_classes=classes or None)
    for start in range(0, n, size):
        rows = base[torch.randperm(size, generator=generator)] * (1 + 0.3 * torch.randn(size, 1, generator=generator))
        rows = rows[: n - start]
        begin = time.perf_counter()
        metric.update(rows, torch.arange(start, start + len(rows)) % classes if classes else None)
        streaming += time.perf_counter() - begin
        del rows
    held = resident("VmHWM") - before
    begin = time.perf_counter()
    metric.window()
    return {
        "streaming": streaming,
        "close": time.perf_counter() - begin,
        "held": held,
        "peak": resident("VmHWM") - before,
        "announced": (metric.memory_bytes + metric.closing_bytes) / 2**20,
    }


def costs(raw: dict) -> str:
    lines = []
    for case in COSTS:
        told = subprocess.run(
            [sys.executable, __file__, "--one", json.dumps(case)], capture_output=True, text=True, check=True
        )
        found = raw[str(case)] = json.loads(told.stdout.splitlines()[-1])
        n, d, classes, signals = case
        lines.append(
            [f"{n:,} × {d:,}, {classes} classes, {signals}", f"{found['streaming']:.2f}", f"{found['close']:.2f}",
             f"{found['held']:,.0f}", f"{found['peak']:,.0f}", f"{found['announced']:,.0f}"]
        )  # fmt: skip
    return table(
        ["window", "streaming, s", "closing, s", "at most while streaming, MiB", "at most, MiB", "announced, MiB"],
        lines,
    )


def sketches(raw: dict) -> str:
    """Top eigenvalues of 20,000 rows in 2,048 dimensions from 512 rows, and from a sketch of as many bytes."""
    n, d, m, r, top = 20_000, 2048, 512, 256, 50
    generator, lines = torch.Generator().manual_seed(0), []
    for decay in DECAYS:
        x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.arange(1, d + 1).pow(-decay / 2)
        x -= x.mean(dim=0)
        truth = torch.linalg.eigvalsh(x.T @ x / n).flip(0)
        some = x[torch.randperm(n, generator=generator)[:m]]
        some = some - some.mean(dim=0)
        by_rows = torch.linalg.eigvalsh(some @ some.T / m).flip(0)
        omega = torch.randn(d, r, generator=generator, dtype=torch.float64)
        y = x.T @ (x @ omega) / n
        root = torch.linalg.cholesky(omega.T @ y + 1e-12 * torch.eye(r) * truth[0])
        by_sketch = torch.linalg.svdvals(torch.linalg.solve_triangular(root, y.T, upper=False)).square()

        def errors(found: torch.Tensor, truth: torch.Tensor = truth) -> list[str]:
            off = (found[:top] / truth[:top] - 1).abs()
            return [f"{off[0]:.1%}", f"{off[9]:.1%}", f"{off[top - 1]:.1%}"]

        def rank(values: torch.Tensor) -> float:
            p = values.clamp(min=0).sqrt()
            p = p / p.sum()
            return float(torch.exp(-torch.special.xlogy(p, p).sum()))

        ranks = [rank(v) for v in (truth, by_rows[: m - 1], by_sketch)]
        raw[f"decay {decay}"] = {"ranks": ranks, "rows": errors(by_rows), "sketch": errors(by_sketch)}
        lines.append([decay, *errors(by_rows), *errors(by_sketch), *(f"{one:.0f}" for one in ranks)])
    heads = ["λ_i ∝ i^−α, α"] + [f"{what}: λ{i}" for what in ("512 rows", "sketch of 256") for i in (1, 10, 50)]
    return sketches.__doc__ + "\n\n" + table([*heads, "effective rank", "of the rows", "of the sketch"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(cost(*args.one)))
        return
    raw: dict = {}
    sections = {"What a window costs": costs(raw), "Rows or a sketch": sketches(raw)}
    publish("Wide features", sections, raw, args.out)


if __name__ == "__main__":
    main()
