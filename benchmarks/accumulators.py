"""What each kind of state costs: time of an update, bytes, and time of a merge.

    python benchmarks/accumulators.py [--out benchmarks/results/accumulators.md]

Times are medians of interleaved repetitions in one process, on one thread, beside the product xᵀx of the same batch in
float32, which is what a covariance takes at least.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_featgeo.cuda_ext import backend_info
from lightning_featgeo.metrics.accumulators.bank import BankAccumulator, ViewBankAccumulator
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.metrics.accumulators.codes import CodeAccumulator
from lightning_featgeo.metrics.accumulators.directions import DirectionAccumulator
from lightning_featgeo.metrics.accumulators.histograms import HistogramAccumulator
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.metrics.accumulators.positions import PositionAccumulator
from lightning_featgeo.metrics.accumulators.units import UnitAccumulator
from lightning_featgeo.rows.rows import build_rows

SHAPES = ((256, 64), (512, 512), (128, 2048), (64, 4096))
KINDS: dict[str, Callable[[int], Accumulator]] = {
    "moments, 10 classes, scatter": lambda d: MomentsAccumulator(d, 10),
    "moments, no scatter": lambda d: MomentsAccumulator(d, 10, keep_scatter=False),
    "directions": DirectionAccumulator,
    "units": UnitAccumulator,
    "units, extremes": lambda d: UnitAccumulator(d, extremes=True),
    "histograms": HistogramAccumulator,
    "positions": PositionAccumulator,
    "codes": CodeAccumulator,
    "bank, 4,096 rows": lambda d: BankAccumulator(d, 4096),
    "views, 4,096 rows": lambda d: ViewBankAccumulator(d, 4096),
}


def measure(n: int, d: int, repetitions: int) -> dict[str, tuple[float, int]]:
    """Median seconds of an update, and bytes, by kind."""
    torch.manual_seed(0)
    x = torch.relu(torch.randn(n, d))
    kinds = {name: make(d) for name, make in KINDS.items()}
    times: dict[str, list[float]] = {name: [] for name in (*kinds, "xᵀx")}
    for step in range(repetitions + 3):
        order = torch.arange(n) + step * n
        rows = build_rows(x, torch.arange(n) % 10, order // 16, 0, order % 16)
        for name in times:
            start = time.perf_counter()
            if name == "xᵀx":
                x.T @ x
            else:
                kinds[name].update(rows)
            if step >= 3:
                times[name].append(time.perf_counter() - start)
    return {
        name: (statistics.median(t), kinds[name].memory_bytes if name in kinds else 4 * d * d)
        for name, t in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=41)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {shape: measure(*shape, args.repetitions) for shape in SHAPES}
    lines = [
        "# What each accumulator costs",
        "",
        f"An update with a batch of n rows of d dimensions: milliseconds, over xᵀx in float32, and MiB of state. torch "
        f"{torch.__version__}, 1 thread, {platform.machine()} CPU ({backend_info()['backend']} ops). Command: `python "
        "benchmarks/accumulators.py`",
        "",
        "| kind | " + " | ".join(f"{n} × {d}: ms | over xᵀx | MiB" for n, d in SHAPES) + " |",
        "|---|" + "---|" * (3 * len(SHAPES)),
    ]
    for name in found[SHAPES[0]]:
        cells = []
        for shape in SHAPES:
            seconds, size = found[shape][name]
            cells += [f"{1e3 * seconds:.3f}", f"{seconds / found[shape]['xᵀx'][0]:.2f}", f"{size / 2**20:.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
