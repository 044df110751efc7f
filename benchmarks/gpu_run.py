"""Whole Lightning runs on a GPU: are the curves those of the CPU, whatever way the model is executed?

    python benchmarks/gpu_run.py [--out benchmarks/results/gpu_run.md]

One model that never moves, on scikit-learn's digits, all signals, training and validation windows; every row is a way
to run it, compared with the eager run on the CPU. A way that raises, loses rows or gives other numbers shows as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import publish, table

sys.path.insert(0, str(Path(__file__).parents[1]))
from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.cuda_ext import backend_info
from tests._helpers.models import trainer
from tests._helpers.still import SIGNALS, Still, digit_loaders
from tests._helpers.ways import Checkpointed, net, wrapped

Records = dict[str, Any]


def run(model: Any, **kwargs: Any) -> Records:
    """The last record of each stage; our errors are errors."""
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages=("train", "val"), on_error="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(monitor, **{"max_epochs": 2, "accelerator": "gpu", "devices": 1, **kwargs}).fit(model, *digit_loaders())
    return {record.stage: record for record in monitor.history}


WAYS: dict[str, Callable[[], Records]] = {
    "eager": lambda: run(Still(net())),
    "eager, deterministic=True": lambda: run(Still(net()), deterministic=True),
    "bf16-mixed": lambda: run(Still(net()), precision="bf16-mixed"),
    "activation checkpointing": lambda: run(Checkpointed(net())),
    "torch.compile": lambda: run(wrapped()),
    "torch.compile, fullgraph": lambda: run(wrapped(fullgraph=True)),
    "torch.compile, reduce-overhead": lambda: run(wrapped(mode="reduce-overhead")),
    "one process of NCCL": lambda: run(Still(net()), strategy="ddp"),
}


def compared(ours: Records, theirs: Records) -> list[object]:
    worst, where, gaps, rows = 0.0, "", [], []
    for stage, record in theirs.items():
        mine = ours.get(stage)
        if mine is None:
            return [f"no {stage} window", "", "", ""]
        gaps += [f"{stage}/{name}: {gap}" for name, gap in mine.gaps.items() if name not in record.gaps]
        rows.append(f"{mine.counts.get('seen')} of {record.counts['seen']}")
        for name, value in record.values.items():
            if name in mine.values:
                apart = abs(mine.values[name] - value) / max(abs(value), 1e-9)
                worst, where = max((worst, where), (apart, f"{stage}/{name}"))
    return [f"{worst:.1e}", where, ", ".join(rows), "; ".join(gaps)[:300] or "none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further way after so many")
    args = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic=True asks for
    begin, lines = time.perf_counter(), []
    truth = run(Still(net()), accelerator="cpu")
    for name, way in WAYS.items():
        if time.perf_counter() - begin > args.seconds:
            lines.append([name, "not run: out of time", "", "", ""])
            continue
        start = time.perf_counter()
        try:
            told = compared(way(), truth)
        except Exception as error:
            told = [f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " "), "", "", ""]
        lines.append([name, *told, f"{time.perf_counter() - start:.1f}"])
        print(lines[-1], flush=True)
        torch.use_deterministic_algorithms(False)
        torch._dynamo.reset()  # each way compiles anew
    heads = ["way", "largest relative difference", "of", "rows, train and val", "gaps that the CPU has not", "s"]
    info = backend_info()
    body = f"{len(SIGNALS)} signals. CUDA kernels: {info['cuda']}.\n\n" + table(heads, lines)
    publish("Lightning runs on a GPU", {"Against the eager run on the CPU": body}, lines, args.out, "cuda")


if __name__ == "__main__":
    main()
