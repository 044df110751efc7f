"""What a window costs: the default signals and "all", against one neighbour search and one eigendecomposition.

    python benchmarks/catalog_cost.py [--n 10000] [--out benchmarks/results/catalog_cost.md]

Features are streamed in batches of 500 with 10 classes; the bank keeps every row, or as many as it does by default.
Times are medians of 5 interleaved repetitions in one process.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.cuda_ext import backend_info, ops

CLASSES = 10


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(n: int, d: int, bank: int | Literal["auto"], repetitions: int) -> dict[str, float]:
    torch.manual_seed(0)
    x, y = torch.relu(torch.randn(n, d)), torch.arange(n) % CLASSES
    kept = x if bank == n else x[:4096]
    groups, everyone = torch.arange(len(kept)), torch.ones(len(kept), dtype=torch.bool)
    covariance = torch.cov(x.double().T)
    head = nn.Linear(d, CLASSES)
    times: dict[str, list[float]] = {}

    def stream(signals: str) -> None:
        metric = GeometryMetric(signals, num_classes=CLASSES, head=head, neighbors=Neighbors(bank_size=bank))
        update = seconds(lambda: [metric.update(x[i : i + 500], y[i : i + 500]) for i in range(0, n, 500)])
        times.setdefault(f"{signals}: streaming", []).append(update)
        times.setdefault(f"{signals}: window", []).append(seconds(metric.window))

    for _ in range(repetitions):
        for name, call in {
            "search, k = 20": lambda: ops.knn(kept, kept, 20, exclude_self=True),
            "search with votes and kernel": lambda: ops.self_neighbors(kept, 20, groups, everyone, 200, 2.0),
            "eigenvalues": lambda: torch.linalg.eigvalsh(covariance),
        }.items():
            times.setdefault(name, []).append(seconds(call))
        stream("classifier")
        stream("all")
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    banks: tuple[Literal["auto"], int] = ("auto", args.n)
    found = {(d, b): measure(args.n, d, b, args.repetitions) for d in (128, 512, 2048) for b in banks}
    columns = list(next(iter(found.values())))
    lines = [
        "# Cost of a window",
        "",
        f"n = {args.n:,} rows, {CLASSES} classes; seconds. torch {torch.__version__}, {torch.get_num_threads()} "
        f"threads, {platform.machine()} CPU, ops: {backend_info()['backend']}. Command: "
        "`python benchmarks/catalog_cost.py`",
        "",
        "| d | bank | " + " | ".join(columns) + ' | "all" over search + eigenvalues '
        "| over search with votes + eigenvalues |",
        "|---|---|" + "---|" * (len(columns) + 2),
    ]
    for (d, bank), t in found.items():
        whole = t["all: streaming"] + t["all: window"]
        ratios = [whole / (t[s] + t["eigenvalues"]) for s in ("search, k = 20", "search with votes and kernel")]
        cells = [f"{v:.3f}" for v in t.values()] + [f"{r:.2f}" for r in ratios]
        lines.append(f"| {d} | {bank if bank == 'auto' else f'{bank:,}'} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
        rows = [{"d": d, "bank": bank, **t} for (d, bank), t in found.items()]
        facts = {"n": args.n, "torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
        args.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
