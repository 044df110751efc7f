"""Runs each example as a newcomer would: what it printed as chosen and why, its run time, its curves as a picture.

python benchmarks/examples.py -o benchmarks/results/examples.md --images docs/images
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl

from lightning_featgeo.history.history import History
from lightning_featgeo.metrics.plotting import plot_signals

EXAMPLES = Path(__file__).parents[1] / "examples"
RUNS = {
    "digits": [],
    "ssl_digits": [],
    "tokens": [],
    "embeddings": [],
    "regression": [],
    "longtail": [],
    "cifar10": ["--generated", "--epochs", "6", "--width", "16"],
}
STAGES = ("val", "train")


def picture(folder: Path, path: Path) -> int:
    """Curves of the first layer, a line a run; returns how many runs there were."""
    import matplotlib.pyplot as plt

    axes, runs = None, 0
    for file in sorted(folder.rglob("featgeo/*.jsonl")):
        history = History.load(file)
        stage = next((s for s in STAGES if any(r.stage == s for r in history)), None)
        records = [r for r in history if r.stage == stage and r.layer is None]
        if len(records) < 2:
            continue
        signals = [s for s in history.run["signals"] if any(s in r.values for r in records)]
        steps = [{s: r.values[s] for s in signals if s in r.values} for r in records]
        figure, axes = plot_signals(steps, axes, [r.epoch for r in records])
        runs += 1
    if runs:
        figure.savefig(path, dpi=80)
        plt.close(figure)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("names", nargs="*", default=list(RUNS))
    args = parser.parse_args()
    mpl.use("agg")
    lines = [
        f"# Examples\n\n`python benchmarks/examples.py` on {platform.machine()}, 2 cores, Python "
        f"{platform.python_version()}. Times include imports.\n"
    ]
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, str(EXAMPLES / f"{name}.py"), *RUNS[name]], cwd=folder, capture_output=True, text=True,
                env={**os.environ, "WANDB_MODE": "offline"}, check=True,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            told = re.findall(r"featgeo: watching .*", done.stdout + done.stderr)
            chosen = told[0].split("; accumulators")[0] if told else "(nothing printed)"
            lines.append(f"## `{' '.join([f'{name}.py', *RUNS[name]])}`: {seconds:.0f} s\n\n> {chosen}\n")
            if args.images is not None:
                runs = picture(Path(folder), args.images / f"example_{name}.png")
                legend = f" ({runs} runs, a line each)" if runs > 1 else ""
                lines.append(f"![{name}: its curves over epochs{legend}](../../docs/images/example_{name}.png)\n")
            print(lines[-2], flush=True)
    if args.output:
        args.output.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
