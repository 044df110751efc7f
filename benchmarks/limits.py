"""Where it ends: a million rows, 10,000 classes, 8192 dimensions, 100 layers; and what merging takes. Memory announced
and measured, each case in a process of its own.

    python benchmarks/limits.py --out benchmarks/results/limits.md

Memory is what the process's resident set grows by, sampled every 5 ms: while rows are streamed (beyond
what the same run takes without us), and while the window is closed (eigenvalues, neighbours, merging).
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing as mp
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from measuring import publish, table
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric
from lightning_featgeo.distributed.ranks import Ranks
from tests._helpers.processes import on_ranks

_WARM = 3000  # rows of a window that is not measured
CHEAP = ["feature_std", "mean_resultant", "dead_fraction"]


class Peak:
    """The largest resident set, from when it is asked for."""

    def __init__(self) -> None:
        self.page = os.sysconf("SC_PAGE_SIZE")
        self.highest, self.running = 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def now(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * self.page

    def _watch(self) -> None:
        while self.running:
            self.highest = max(self.highest, self.now())
            time.sleep(0.005)

    def restart(self) -> int:
        gc.collect()
        self.highest = self.now()
        return self.highest


class Rows(IterableDataset):
    """Batches of made-up features: a block of them, turned a little each time, so that no row comes twice."""

    def __init__(self, rows: int, dim: int, classes: int, batch: int) -> None:
        self.rows, self.classes, self.batch = rows, classes, batch
        generator = torch.Generator().manual_seed(0)
        self.block = torch.randn(batch, dim, generator=generator)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, self.rows, self.batch):
            n = min(self.batch, self.rows - start)
            index = torch.arange(start, start + n)
            yield self.block[:n].roll(start // self.batch, 1) + 1e-3 * index[:, None], index % self.classes

    def __len__(self) -> int:
        return -(-self.rows // self.batch)


class Passes(pl.LightningModule):
    """No network: the batch is the features, and each of the layers passes it on."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(layers))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0]
        for layer in self.layers:
            x = layer(x)

    test_step = validation_step


class Phases(pl.Callback):
    """What the resident set grows by while rows are streamed, and while the window is closed."""

    def __init__(self, peak: Peak) -> None:
        self.peak, self.start = peak, 0
        self.found: dict[str, float] = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start, self.clock = self.peak.restart(), time.perf_counter()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found["streaming"] = self.peak.highest - self.start
        self.found["streaming_s"] = time.perf_counter() - self.clock
        self.peak.restart()
        self.clock = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found["closing"] = self.peak.highest - self.start
        self.found["closing_s"] = time.perf_counter() - self.clock


def window(rows: int, dim: int, classes: int, layers: int = 1, batch: int = 1024, **settings: Any) -> dict[str, Any]:
    """One validation window of so many rows."""
    watched = settings.pop("watched", True)
    if rows > _WARM:  # libraries load their code, threads get their buffers
        window(_WARM, 32, min(classes, 10), layers, batch, watched=watched, **settings)
    peak = Peak()
    monitor = FeatureGeometryMonitor(**{"layer": "layers.*", "num_classes": classes, **settings})
    first, last = Phases(peak), Phases(peak)
    run = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[monitor, first] if watched else [first],
    )  # fmt: skip
    # Lightning runs callbacks in order: the phases end before the monitor closes, and begin before it opens
    run.callbacks.insert(0, last)
    model = Passes(layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.validate(model, DataLoader(Rows(rows, dim, classes, batch), batch_size=None), verbose=False)
    if not watched:
        return dict(last.found)
    record, described = monitor.history.records[0], str(monitor.history.run["described"])
    return {
        **last.found,
        "announced": monitor.history.run["memory_bytes"],
        "announced_closing": _bytes_told(described, "peak extra when a window closes: "),
        "own_s": record.seconds,
        "seen": record.values["n_samples"],
        "gaps": len(record.gaps),
        "windows": len(monitor.history),
    }


def _bytes_told(described: str, before: str) -> int:
    """The memory that a run's block tells behind these words."""
    number, unit = re.findall(re.escape(before) + r"([\d.,]+) (bytes|[KMG]iB)", described)[0]
    return int(float(number.replace(",", "")) * {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit])


def merging(dim: int, classes: int, rows: int, keep: bool) -> dict[str, float]:
    """On each rank: what merging takes beyond the accumulators, announced and measured."""
    torch.distributed.init_process_group("gloo")
    ranks = Ranks()
    metric = GeometryMetric(["effective_rank", "nc1", "knn_log_density"], num_classes=classes)
    generator = torch.Generator().manual_seed(ranks.rank)
    for start in range(0, rows, 2000):
        y = torch.arange(start, start + 2000) % classes
        metric.update(torch.randn(2000, dim, generator=generator), y)
    small = GeometryMetric(["effective_rank", "nc1", "knn_log_density"], num_classes=4)
    small.update(torch.randn(200, 16, generator=generator), torch.arange(200) % 4)
    small.across(ranks)  # the group is up, and code is loaded
    peak = Peak()
    start, clock = peak.restart(), time.perf_counter()
    metric.across(ranks, keep=keep)
    seconds = time.perf_counter() - clock
    return {
        "held": metric.memory_bytes,
        "announced": metric.sync_bytes(ranks.size, keep),
        "measured": peak.highest - start,
        "seconds": seconds,
    }


def _in_a_process(function: Callable[..., Any], kwargs: dict[str, Any], pipe: Any) -> None:
    pipe.send(function(**kwargs))


def alone(function: Callable[..., Any], **kwargs: Any) -> Any:
    """A fresh process: what one case leaves behind is not another's."""
    ours, theirs = mp.get_context("spawn").Pipe()
    worker = mp.get_context("spawn").Process(target=_in_a_process, args=(function, kwargs, theirs))
    worker.start()
    found = ours.recv()
    worker.join()
    return found


def mib(size: float) -> str:
    return f"{size / 2**20:,.0f}"


CASES: dict[str, dict[str, Any]] = {
    "100,000 × 2048, 10 classes, default signals": {"rows": 100_000, "dim": 2048, "classes": 10},
    "1,000,000 × 2048, 10 classes, default signals": {"rows": 1_000_000, "dim": 2048, "classes": 10},
    "200,000 × 512, 10,000 classes, default signals": {"rows": 200_000, "dim": 512, "classes": 10_000},
    "30,000 × 8192, 10 classes, default signals": {"rows": 30_000, "dim": 8192, "classes": 10},
    "20,000 × 256, 100 layers, cheap signals": {
        "rows": 20_000, "dim": 256, "classes": 10, "layers": 100, "batch": 1024, "signals": CHEAP,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", type=str, default="")
    args = parser.parse_args()
    raw: dict[str, Any] = {}
    rows: list[list[object]] = []
    for name, case in CASES.items():
        if args.only in name:
            raw[name] = r = alone(window, **case)
            bare = alone(window, **{**case, "rows": min(case["rows"], 50_000), "watched": False})
            r["streaming_without_us"] = bare["streaming"]
            print(name, json.dumps(r), file=sys.stderr, flush=True)
            ours = r["streaming"] - bare["streaming"]
            most = max(ours, r["closing"] - bare["streaming"])
            memory = (r["announced"], ours, r["announced"] + r["announced_closing"], most)
            rows.append([name, *map(mib, memory), *(f"{r[key]:.1f}" for key in ("streaming_s", "closing_s", "own_s"))])
    merged: list[list[object]] = []
    for name, dim, classes, n in (
        ("d = 4096, 10 classes", 4096, 10, 4000),
        ("d = 512, C = 10,000", 512, 10_000, 20_000),
    ):
        for keep in (False, True):
            if args.only in name:
                r = max(on_ranks(2, merging, dim, classes, n, keep), key=lambda r: r["measured"])
                raw[f"{name} {keep}"] = r
                kept = "goes on afterwards" if keep else "ends here"
                merged.append(
                    [name, kept, mib(r["held"]), mib(r["announced"]), mib(r["measured"]), f"{r['seconds']:.2f}"]
                )
    windows = table(
        [
            "window",
            "announced, MiB",
            "streaming, MiB",
            "announced with closing, MiB",
            "at most, MiB",
            "streaming, s",
            "closing, s",
            "of it ours, s",
        ],
        rows,
    )
    heads = ["2 processes", "window", "held, MiB", "announced more, MiB", "measured more, MiB", "seconds"]
    publish("Limits", {"Windows": windows, "Merging": table(heads, merged)}, raw, args.out)


if __name__ == "__main__":
    main()
