"""How often alarms on geometry are right, how late they are, and what a stop saves, on families no limit has seen.

pip install scikit-image sktime                                     # data that they ship
python benchmarks/validity.py train --runs runs.jsonl.gz            # real training; resumes where it was
python benchmarks/validity.py judge --runs runs.jsonl.gz --out benchmarks/results/validity.md
python benchmarks/validity.py draw --runs runs.jsonl.gz --out docs/images
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
from validity_families import variants
from validity_runs import one_run

INTACT_SEEDS, PLANTED_SEEDS = 22, 8


def _job(name: str, seed: int) -> tuple[dict[str, Any], float]:
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        return one_run(name, seed), time.perf_counter() - start
    except Exception as error:  # one run must not cost the others
        return {"error": f"{name}, seed {seed}: {error!r}"[:400]}, 0.0


def _runs(wanted: list[tuple[str, int]], jobs: int) -> Iterator[tuple[dict[str, Any], float]]:
    """The runs as they end, in so many processes; one job runs in this one."""
    if jobs == 1:
        yield from (_job(*each) for each in wanted)
        return
    with ProcessPoolExecutor(jobs, get_context("forkserver")) as pool:
        for future in as_completed([pool.submit(_job, *each) for each in wanted]):
            yield future.result()


def train(path: Path, jobs: int, names: list[str], seeds: int | None) -> None:
    """Run what is not in the file yet: all families once, then with the next seed."""
    done = {(run["run"], run["seed"]) for run in stored(path)} if path.exists() else set()
    most = {name: seeds or (PLANTED_SEEDS if variants()[name][1] else INTACT_SEEDS) for name in names}
    wanted = [(n, s) for s in range(max(most.values())) for n in names if s < most[n] and (n, s) not in done]
    start = time.perf_counter()
    with gzip.open(path, "at", encoding="utf-8") as file:
        for count, (run, seconds) in enumerate(_runs(wanted, jobs), 1):
            if "error" in run:
                print(f"\n{run['error']}", file=sys.stderr)
                continue
            file.write(json.dumps({**run, "seconds": round(seconds, 2)}) + "\n")
            if count % 20 == 0:
                file.flush()  # what is in a file that is cut short can be read
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
    parser.add_argument("what", choices=["train", "judge", "draw"])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", help="names of runs, such as digits_mlp/intact, with commas between")
    parser.add_argument("--seeds", type=int, help=f"{INTACT_SEEDS} of intact runs and {PLANTED_SEEDS} of planted ones")
    parser.add_argument("--out", type=Path, help="file of the tables; a folder for pictures")
    args = parser.parse_args()
    if args.what == "train":
        train(args.runs, args.jobs, args.only.split(",") if args.only else list(variants()), args.seeds)
    elif args.what == "judge":
        import validity_judge

        validity_judge.judge(list(stored(args.runs)), args.out)
    else:
        import validity_figures

        validity_figures.draw(list(stored(args.runs)), args.out)


if __name__ == "__main__":
    main()
