"""How often alarms on geometry are right, how late they are, and what a stop saves.

python benchmarks/validity.py train --runs runs.jsonl.gz   # real training; resumes where it was
python benchmarks/validity.py judge --runs runs.jsonl.gz --out benchmarks/results/validity
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from validity_runs import EPOCHS, FULL, LONG, METHODS, one_run

SEEDS, LONG_SEEDS = 60, 40  # even ones to fix limits on, odd ones to report


def _job(name: str, seed: int) -> tuple[dict[str, Any], float]:
    torch.set_num_threads(1)
    start = time.perf_counter()
    run = one_run(name, seed, FULL if name in LONG else EPOCHS)
    return run, time.perf_counter() - start


def train(path: Path, jobs: int, names: list[str], seeds: range) -> None:
    """Run what is not in the file yet."""
    done = {(run["method"], run["seed"]) for run in stored(path)} if path.exists() else set()
    wanted = [(n, s) for s in seeds for n in names if (n, s) not in done and (n not in LONG or s < LONG_SEEDS)]
    start = time.perf_counter()
    with (
        gzip.open(path, "at", encoding="utf-8") as file,
        ProcessPoolExecutor(jobs, get_context("forkserver")) as pool,
    ):
        for count, future in enumerate(as_completed([pool.submit(_job, *each) for each in wanted]), 1):
            run, seconds = future.result()
            file.write(json.dumps({**run, "seconds": round(seconds, 2)}) + "\n")
            if count % 20 == 0:
                file.flush()
                left = (time.perf_counter() - start) / count * (len(wanted) - count)
                print(
                    f"\r{count} of {len(wanted)} runs, {left / 60:.0f} min left ", end="", file=sys.stderr, flush=True
                )
    print(f"\n{len(wanted)} runs in {(time.perf_counter() - start) / 60:.1f} min", file=sys.stderr)


def stored(path: Path) -> Iterator[dict[str, Any]]:
    """Runs of a file; the last one may be cut short."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        try:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)
        except EOFError:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "judge"])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", help="names of methods, with commas between")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    names = args.only.split(",") if args.only else [*METHODS, *LONG]
    if args.what == "train":
        train(args.runs, args.jobs, names, range(args.seeds))


if __name__ == "__main__":
    main()
