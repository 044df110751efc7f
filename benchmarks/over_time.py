"""What signals that pair windows, retrieval and probes add to a window's close, beside a neighbour search.

    python benchmarks/over_time.py [--n 4096] [--d 512] [--out benchmarks/results/over_time.md]

Medians of 7 interleaved closes in one process, without the streaming of batches. The reference is half as large again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from lightning_featgeo import GeometryMetric
from lightning_featgeo.cuda_ext import backend_info
from lightning_featgeo.metrics.catalog import CATALOG, PRESETS, resolve

BASE = ["id_two_nn", "knn_accuracy", "nc1", "effective_rank"]  # a search with votes, an eigendecomposition
CLASSES = 10
ASKED = {
    "the base alone": [],
    "the eight against the window before": [name for name in resolve("over_time") if f"{name}_first" in CATALOG],
    'preset "drift"': list(PRESETS["drift"]),
    "all of group over_time, and neighbor_churn": [*resolve("over_time"), "neighbor_churn"],
    "retrieval by class": ["recall_at_1", "recall_at_5", "recall_at_10", "map_at_k", "verification_auroc"],
    "linear_probe_accuracy": ["linear_probe_accuracy"],
}


def features(n: int, d: int, seed: int, moved: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    x = torch.randn(CLASSES, d, generator=g)[y] + torch.randn(n, d, generator=g)
    return x + moved * torch.randn(n, d, generator=g), y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    n, d = args.n, args.d
    metrics, references, taken = {}, {}, {name: [] for name in ASKED}
    for name, more in ASKED.items():
        metrics[name] = GeometryMetric([*BASE, *more], num_classes=CLASSES, has_reference=True)
        references[name] = GeometryMetric(["effective_rank"], num_classes=CLASSES, serve=[*BASE, *more])
        references[name].update(*features(3 * n // 2, d, 1))
    for repetition in range(args.repetitions + 1):
        for name, metric in metrics.items():
            metric.reset()
            metric.update(*features(n, d, 0, 0.1 * repetition))
            metric.catch_up()
            start = time.perf_counter()
            metric.window(reference=references[name])
            if repetition:  # in the first there is nothing to compare with
                taken[name].append(time.perf_counter() - start)
    base = statistics.median(taken["the base alone"])
    lines = [
        "# The same samples over time, retrieval, probes",
        "",
        f"n = {n:,}, d = {d}, {CLASSES} classes, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{backend_info()['reason']}. Command: `python benchmarks/over_time.py`",
        "",
        f"Base: {', '.join(f'`{one}`' for one in BASE)} with a reference of {3 * n // 2:,} rows.",
        "",
        "| asked for beside the base | close | added | added, over the base | kept between windows |",
        "|---|---|---|---|---|",
    ]
    for name, times in taken.items():
        close = statistics.median(times)
        kept = sum(one.rows.numel() * one.rows.element_size() for one in metrics[name].earlier.rows.values())
        lines.append(
            f"| {name} | {close:.2f} s | {close - base:.2f} s | {(close - base) / base:.2f} | {kept / 2**20:.0f} MiB |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
