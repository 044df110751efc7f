"""What a window's end sends between processes, and how long it takes, against their number.

    python benchmarks/ranks.py [--out benchmarks/results/ranks.md]

Measured with gloo on 1 to 8 processes of this machine, whose cores they share: the seconds say how work is divided, not
what a cluster would take. Bytes are counted at the collectives, and extrapolated by the kind of each: what every rank
receives of an all-reduce does not depend on their number (2 × its size in a ring), of an all-gather it grows with it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import publish, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.distributed.ranks import Ranks
from tests._helpers.processes import on_ranks

SIZES = (1, 2, 4, 8)
EXTRAPOLATED = (64, 1024)
CASES = (  # rows in all, dimensions, classes, rows of the bank
    (16_384, 512, 100, 4096),
    (32_768, 512, 100, 16_384),
    (16_384, 2048, 1000, 4096),
)
KINDS = {"all_reduce": "reduced", "all_gather": "gathered", "gather": "collected", "broadcast": "broadcast"}


class Counting(Ranks):
    """Counts the bytes of each kind of collective, as one rank gives them in."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}
        self.calls = 0

    def _call(self, collective: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        name = KINDS.get(collective.__name__, "small objects")
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if tensors:
            self.bytes[name] = self.bytes.get(name, 0) + tensors[-1].numel() * tensors[-1].element_size()
        super()._call(collective, *args, **kwargs)


def close(n: int, d: int, classes: int, bank: int) -> dict[str, Any]:
    """Run on each rank: its part of the rows, and the window's end."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size > 1:
        torch.distributed.init_process_group("gloo")
    ranks = Counting()
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(classes, d, generator=generator)
    metric = GeometryMetric("classifier", classes, torch.nn.Linear(d, classes), Neighbors(bank_size=bank))
    for start in range(0, n, 1024):
        rows = torch.randn(1024, d, generator=generator)
        index = torch.arange(start, start + 1024)
        mine = slice(rank * 1024 // size, (rank + 1) * 1024 // size)
        labels = index % classes
        metric.update((rows + means[labels])[mine], labels[mine], index[mine])
    metric.catch_up()
    metric.window(ranks=ranks)  # warm
    ranks.bytes, ranks.calls = {}, 0
    if size > 1:
        torch.distributed.barrier()
    begin = time.perf_counter()
    metric.window(ranks=ranks)
    return {"seconds": time.perf_counter() - begin, "bytes": ranks.bytes, "calls": ranks.calls}


def received(of: dict[str, int], size: int) -> float:
    """Bytes that a rank receives at most (rank 0), by ring all-reduces and all-gathers."""
    reduced = 2 * (size - 1) / size * of.get("reduced", 0)
    others = (size - 1) * (of.get("gathered", 0) + of.get("collected", 0))
    return reduced + others + of.get("broadcast", 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    raw, lines = [], []
    for n, d, classes, bank in CASES:
        cells: list[object] = [f"{n:,} × {d:,}, {classes:,} classes, bank of {bank:,}"]
        last: dict[str, Any] = {}
        for size in SIZES:
            every = on_ranks(size, close, n, d, classes, bank, limit=600.0)
            last = {
                "size": size,
                "seconds": max(one["seconds"] for one in every),
                **{k: every[0][k] for k in ("bytes", "calls")},
            }
            raw.append({"n": n, "d": d, "classes": classes, "bank": bank, **last})
            cells.append(f"{last['seconds']:.2f} s, {received(last['bytes'], size) / 2**20:.0f} MiB")
            print(cells, file=sys.stderr, flush=True)
        # a share of a table is what one of eight gives: of more ranks each gives less, and all together as much
        shared = {**last["bytes"], "collected": last["bytes"].get("collected", 0) * SIZES[-1]}
        for size in EXTRAPOLATED:
            of = {**shared, "collected": shared["collected"] // size}
            cells.append(f"{received(of, size) / 2**20:.0f} MiB")
        lines.append([*cells, last["calls"]])
    heads = [
        "window",
        *(f"{size} process{'es' * (size > 1)}" for size in SIZES),
        *(f"{s:,}, by model" for s in EXTRAPOLATED),
        "collectives",
    ]
    note = "Seconds of the slowest process, and what rank 0 receives.\n\n"
    publish("A window's end on several processes", {"By their number": note + table(heads, lines)}, raw, given.out)


if __name__ == "__main__":
    main()
