"""Largest relative difference of every signal to an independent float64 formula or library.

    python benchmarks/accuracy.py [--out benchmarks/results/accuracy.md]

The oracles are those of the tests (tests/oracles.py): two-pass formulas in NumPy, SciPy and scikit-learn.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import data
import oracles

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics import CATALOG

DATA = {
    "digits features": data.digits_features,
    "mean 1000, std 1": data.far_from_origin,
    "rank 5, d = 2048": data.rank_five,
    "NC1 1e-8": data.nearly_collapsed,
    "NC1 1e-8, mean 1000": lambda: data.nearly_collapsed(1000.0),
}


def differences(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    classes = int(y.max()) + 1
    head = data.head(classes, x.shape[1])
    metric = GeometryMetric("all", num_classes=classes, head=head)
    for start in range(0, len(x), 128):
        metric.update(x[start : start + 128], y[start : start + 128])
    ours = metric.window().values
    weight, bias = (p.detach().double().numpy() for p in (head.weight, head.bias))
    truth = oracles.every_signal(x.double().numpy(), y.numpy(), weight, bias)
    return {name: abs(ours[name] - v) / abs(v) if v else abs(ours[name]) for name, v in truth.items() if v is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    columns = {name: differences(*make()) for name, make in DATA.items()}
    lines = [
        f"Relative difference to float64 oracles; torch {torch.__version__}, {platform.machine()} CPU. "
        "Command: `python benchmarks/accuracy.py`",
        "",
        "| signal | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
        *(
            f"| `{s}` | " + " | ".join(f"{column[s]:.1e}" if s in column else "–" for column in columns.values()) + " |"
            for s in CATALOG
        ),
        "| **largest** | " + " | ".join(f"**{max(column.values()):.1e}**" for column in columns.values()) + " |",
    ]
    lines += [
        "",
        "`hubness`: where float32 rows lie on a lattice (mean 1000), neighbours tie exactly and the order of the rows "
        "decides; the oracle's order is the data's, ours the bank's. `–`: undefined there (singular covariance, "
        "too few eigenvalues). `id_gride_*`: the oracle's scalar minimiser stops at 1e-8.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
