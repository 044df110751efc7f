"""Each way of execution against one process, eager, fp32: the largest relative difference over all signals.

    python benchmarks/executions.py --out benchmarks/results/executions.md

Needs the test dependencies. The data sets have 307 and 457 samples, which neither 2, 3 nor 4 divides. Also how long a
sharded neighbour search takes on one and on two processes of one thread each.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import publish, table

sys.path.insert(0, str(Path(__file__).parents[1]))
from lightning_featgeo import Windows
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.statistics import shared_search
from tests._helpers.interrupted import interrupted, shown, uninterrupted
from tests._helpers.processes import on_ranks
from tests._helpers.ranked import parallelism, windows
from tests._helpers.ways import AVERAGED, COMPILED, EXACT, PRECISIONS, Rows, Still, furthest, net, run


def between(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> tuple[float, str]:
    """As ``furthest``, for what comes back from processes."""
    found = [(0.0, "")]
    for a, b in zip(ours, theirs, strict=True):
        assert a["gaps"] == b["gaps"]
        assert a["counts"]["seen"] == b["counts"]["seen"]
        assert a["values"].keys() == b["values"].keys()
        found += [(abs(a["values"][n] - v) / max(abs(v), 1e-9), n) for n, v in b["values"].items()]
    return max(found)


def lightning() -> list[list[object]]:
    plain = run(Still(net()))
    ways: dict[str, Callable[[], Rows]] = {
        **{name: (lambda make=make: run(make())) for name, make in COMPILED.items()},
        **EXACT, **AVERAGED, **PRECISIONS,
    }  # fmt: skip
    rows: list[list[object]] = []
    for name, way in ways.items():
        torch._dynamo.reset()
        worst, signal = furthest(way(), plain)
        rows.append([name, f"{worst:.1e}", signal or "–"])
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def processes() -> list[list[object]]:
    rows: list[list[object]] = []
    alone = on_ranks(1, windows.curves, 1, {"bank_size": 200})[0]["records"]
    for size in (2, 3, 4):
        every = on_ranks(size, windows.curves, size, {"bank_size": 200})
        assert all(rank["records"] == every[0]["records"] for rank in every)
        padded = [record["counts"].get("padded", 0) for record in every[0]["records"][:2]]
        rows.append([f"DDP, {size} processes", *_shown(between(every[0]["records"], alone)), f"{padded} dropped"])
    whole = on_ranks(1, windows.curves, 1, {"stages": ("val",)})[0]["records"][:1]
    for data, tensor in ((2, 1), (1, 2), (2, 2)):
        every = on_ranks(data * tensor, parallelism.sharded, data, tensor)
        name = f"FSDP2 over {data}, tensor parallel over {tensor}"
        rows.append([name, *_shown(between(every[0]["records"], whole)), "–"])
    return rows


def _shown(found: tuple[float, str]) -> tuple[str, str]:
    return f"{found[0]:.1e}", found[1] or "–"


def _search(n: int, d: int) -> tuple[float, list[torch.Tensor]]:
    """The fastest of five searches of the same made-up bank, and the tables."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    ranks, generator = Ranks(), torch.Generator().manual_seed(0)
    rows = torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator) / d**0.5
    best, tables = float("inf"), []
    for _ in range(5):
        torch.distributed.barrier()
        start = time.perf_counter()
        tables = list(
            shared_search.self_neighbors(ranks, rows, 20, torch.arange(n), torch.ones(n, dtype=torch.bool), 200, 2.0)
        )
        best = min(best, time.perf_counter() - start)
    return best, tables if ranks.rank == 0 else []


def search() -> list[list[object]]:
    rows: list[list[object]] = []
    for n, d in ((4096, 512), (4096, 2048), (16384, 512), (16384, 2048), (32768, 512)):
        (one, tables), *_ = on_ranks(1, _search, n, d)
        two = on_ranks(2, _search, n, d)
        same = all(torch.equal(a, b) for a, b in zip(tables, two[0][1], strict=True))
        slowest = max(seconds for seconds, _ in two)
        rows.append([f"{n} × {d}", f"{one:.3f}", f"{slowest:.3f}", f"{one / slowest:.2f}", "yes" if same else "no"])
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def resumes() -> list[list[object]]:
    """A run in one piece against the same run in two, window by window."""
    rows: list[list[object]] = []
    for name, stateful, step, every, error, kwargs in (
        ("an exception, stateful loader, mid-epoch", True, 7, 1, RuntimeError, {}),
        ("Ctrl-C, stateful loader, mid-epoch", True, 7, 1, KeyboardInterrupt, {}),
        ("an exception, stock loader, from the last epoch's end", False, 6, None, RuntimeError, {}),
        ("an exception, stock loader, from mid-epoch", False, 7, 1, RuntimeError, {}),
        ("an exception, stateful, val_check_interval=0.5", True, 4, 1, RuntimeError, {"val_check_interval": 0.5}),
        (
            "an exception, stateful loader, windows of 3 steps", True, 6, 1, RuntimeError,
            {"settings": {"stages": ("train",), "windows": Windows(every_n_train_steps=3)}},
        ),
    ):  # fmt: skip
        whole = shown(uninterrupted(stateful, **copy.deepcopy(kwargs)))
        with tempfile.TemporaryDirectory() as folder:
            parts = shown(interrupted(Path(folder), stateful, step, error, every, **copy.deepcopy(kwargs)))
        same = sum(a == b for a, b in zip(whole, parts, strict=True))
        gaps = [f"{r[1]} window {r[0]}: {next(iter(r[5].values()))}" for r in parts if len(r[5]) > 2]
        rows.append([name, f"{same} of {len(whole)}", gaps[0] if gaps else "–"])
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways, ranks, resumed, searched = lightning(), processes(), resumes(), search()
    sections = {
        "Ways to run one process": table(["way", "largest relative difference", "of"], ways),
        "Several processes": table(["way", "largest relative difference", "of", "repeats [train, val]"], ranks),
        "Resumed against uninterrupted (training and validation windows, every value, count and gap)": table(
            ["stopped by", "windows that are equal, bit by bit", "gap"], resumed
        ),
        "Neighbour search (k = 20 by distance, 200 by angle, kernel sums), one thread a process": table(
            ["bank", "1 process, s", "2 processes, s", "faster", "same tables, bit by bit"], searched
        ),
    }
    publish(
        "The same number everywhere",
        sections,
        {"ways": ways, "ranks": ranks, "resumed": resumed, "search": searched},
        args.out,
    )


if __name__ == "__main__":
    main()
