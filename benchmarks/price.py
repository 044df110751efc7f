"""What a window costs, by a network's width, its rows and the signals: for README's and the docs' table.

    python benchmarks/price.py [--out benchmarks/results/price.md]

Each case in a process of its own, so that its peak is its own; rows come in batches of 128 and are made beforehand. The
price of a step that is not arithmetic (hooks, evidence, bookkeeping) is measured by ``overhead.py``.
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
from wide import resident

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics.catalog import CATALOG, PRESETS

BATCH = 128
WIDTHS = (  # what it is the width of, dimensions, rows of a window, classes
    ("a small network", 128, 10_000, 10),
    ("ResNet-18", 512, 10_000, 100),
    ("ViT-B", 768, 50_000, 1000),
    ("ResNet-50", 2048, 50_000, 1000),
    ("tokens of a language model of 7B", 4096, 50_000, 0),
    ("flattened maps of a small CNN", 9216, 10_000, 10),
)
OTHERS = {"views", "targets", "groups", "places", "reference", "head"}
CHOICES = {
    "two": ("feature_std", "effective_rank"),
    "preset": (),
    "all": tuple(n for n, row in CATALOG.items() if not row.requires & OTHERS),
}


def cost(d: int, n: int, classes: int, choice: str) -> dict[str, float]:
    """Of one window in this process."""
    names = list(CHOICES[choice] or PRESETS["classifier" if classes else "tokens"])
    if not classes:
        names = [name for name in names if not CATALOG[name].requires & {"labels", "classes"}]
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(max(classes, 1), d, generator=generator)
    spread = torch.arange(1, d + 1).pow(-0.5)
    labels = torch.arange(16 * BATCH) % max(classes, 1)
    rows = centres[labels] + 3 * torch.randn(16 * BATCH, d, generator=generator) * spread
    warm = GeometryMetric(names, num_classes=classes or None)
    warm.update(rows[:64, :32], labels[:64] if classes else None)
    warm.window()
    before = resident("VmRSS")
    metric, streaming = GeometryMetric(names, num_classes=classes or None), 0.0
    for number in range(-(-n // BATCH)):
        at = slice(number % 16 * BATCH, number % 16 * BATCH + BATCH)
        batch = rows[at] * (1 + 1e-3 * number)
        begin = time.perf_counter()
        metric.update(batch, labels[at] if classes else None)
        streaming += time.perf_counter() - begin
    metric.catch_up()
    held = resident("VmHWM") - before
    begin = time.perf_counter()
    metric.window()
    return {
        "batch": 1e3 * streaming / -(-n // BATCH),
        "close": time.perf_counter() - begin,
        "held": held,
        "peak": resident("VmHWM") - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case")
    given = parser.parse_args()
    if given.case:
        d, n, classes, choice = json.loads(given.case)
        print(json.dumps(cost(d, n, classes, choice)))
        return
    raw, rows = [], []
    for name, d, n, classes in WIDTHS:
        for choice in CHOICES:
            told = subprocess.run(
                [sys.executable, __file__, "--case", json.dumps([d, n, classes, choice])],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found = json.loads(told.stdout.splitlines()[-1])
            raw.append({"of": name, "d": d, "n": n, "classes": classes, "signals": choice, **found})
            rows.append(
                [name, f"{d:,}", f"{n:,}", f"{classes:,}" if classes else "–", choice, f"{found['batch']:.2f} ms",
                 f"{found['close']:.2f} s", f"{found['held']:.0f} MiB", f"{found['peak']:.0f} MiB"]
            )  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    heads = ["width of", "d", "rows", "classes", "signals", "a batch of 128", "a window's end", "memory", "at its end"]
    note = (
        f'"two": {", ".join(CHOICES["two"])}. "preset": what "auto" takes. "all": {len(CHOICES["all"])} signals '
        "(without labels fewer), those that need no views, targets, groups, reference or head. Memory: what the "
        "process grew by, rows that wait and allocator's slack included.\n\n"
    )
    publish("What a window costs", {"By width, rows and signals": note + table(heads, rows)}, raw, given.out)


if __name__ == "__main__":
    main()
