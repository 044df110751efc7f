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
import validity_figures
from measuring import publish
from validity_judge import (
    TUNING,
    collapse_rules,
    envelopes,
    held_out,
    intact_table,
    planted_table,
    savings_table,
    texts,
)
from validity_runs import EPOCHS, FULL, LONG, METHODS, one_run

from lightning_featgeo.alarms import KINDS

VISIBLE = (
    "A failure is *visible* from the first check on, from which to the run's end at least one of the recorded signals "
    "lies outside all that the intact twin's tuning runs (the same training without the fault) showed at the same "
    "check; delays are counted from there. Intervals are exact (Clopper–Pearson), 95 %."
)
SEEDS = 100


def _job(name: str, seed: int) -> tuple[dict[str, Any], float]:
    torch.set_num_threads(1)
    start = time.perf_counter()
    run = one_run(name, seed, FULL if name in LONG else EPOCHS)
    return run, time.perf_counter() - start


def _runs(wanted: list[tuple[str, int]], jobs: int) -> Iterator[tuple[dict[str, Any], float]]:
    """The runs as they end, in so many processes; one job runs in this one."""
    if jobs == 1:
        yield from (_job(*each) for each in wanted)
        return
    with ProcessPoolExecutor(jobs, get_context("forkserver")) as pool:
        for future in as_completed([pool.submit(_job, *each) for each in wanted]):
            yield future.result()


def train(path: Path, jobs: int, names: list[str], seeds: range) -> None:
    """Run what is not in the file yet."""
    done = {(run["method"], run["seed"]) for run in stored(path)} if path.exists() else set()
    wanted = [(n, s) for s in seeds for n in names if (n, s) not in done and (n not in LONG or not 40 <= s < TUNING)]
    start = time.perf_counter()
    with gzip.open(path, "at", encoding="utf-8") as file:
        for count, (run, seconds) in enumerate(_runs(wanted, jobs), 1):
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
    parser.add_argument("what", choices=["train", "judge", "draw"])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", help="names of methods, with commas between")
    parser.add_argument("--tuning", action="store_true", help="judge the seeds that limits may be fixed on")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, help="file of the tables without its suffix; a folder for pictures")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else [*METHODS, *LONG]
    if args.what == "train":
        train(args.runs, args.jobs, names, range(args.seeds))
        return
    if args.what == "draw":
        validity_figures.draw(list(stored(args.runs)), args.out)
        return
    judge(list(stored(args.runs)), args.out, args.tuning)


def compact(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Rule -> method -> "seed: visible > alarms" of each run, for the file beside the tables."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        told = f"{row['seed']}: {row['visible']} > " if row.get("visible") else f"{row['seed']}: "
        fired = " ".join(map(str, row["alarms"])) or "-"
        found.setdefault(row["rule"], {}).setdefault(row["method"], []).append(told + fired)
    return {rule: {m: ", ".join(dict.fromkeys(runs)) for m, runs in methods.items()} for rule, methods in found.items()}


def judge(runs: list[dict[str, Any]], out: Path | None, tuning: bool = False) -> None:
    """The tables, from the held-out seeds; with ``tuning``, from those that limits may be fixed on."""
    ranges, count, seconds = envelopes(runs), len(runs), sum(run["seconds"] for run in runs)
    runs = [run for run in runs if held_out(run) != tuning]
    rules = collapse_rules()
    main = dict(list(rules.items())[:2])
    others = {f'"{name}"': KINDS[name] for name in ("memorising", "tail_merging")}
    collapse, raw_collapse = planted_table(runs, ranges, main, "collapse")
    singles, raw_singles = planted_table(runs, ranges, rules, "collapse")
    intact, raw_intact = intact_table(runs, {**main, **others})
    single_intact, raw_single_intact = intact_table(runs, dict(list(rules.items())[2:]))
    rest = [planted_table(runs, ranges, {f'"{kind}"': KINDS[kind]}, kind) for kind in ("memorising", "tail_merging")]
    saved, raw_saved = savings_table(runs)
    pooled = [line for line in singles.splitlines() if "| **" in line or line.startswith(("| rule", "| ---"))]
    held = sum(run["method"] in METHODS for run in runs)
    publish(
        "How often alarms on geometry are right",
        {
            "What was run": (
                f"{count} training runs on scikit-learn's digits, {seconds / 3600:.1f} hours of one core together "
                f"(`python benchmarks/validity.py train --runs runs.jsonl.gz` trains them). Limits and defaults were "
                f"fixed on the seeds below {TUNING}; every figure below is of the others, {held} runs of {EPOCHS} "
                "checks and those of the last table. A seed also draws the network (fully connected or convolutional), "
                "its width, the learning rate (a factor of four) and the batch size. " + VISIBLE
            ),
            "Collapse: planted failures": collapse,
            "Collapse: other rules, all planted failures pooled": "\n".join(pooled),
            "Intact runs: false alarms of the ready-made kinds": intact,
            "Intact runs: false alarms of other rules": single_intact,
            "Memorised labels": rest[0][0],
            "Merging tail classes": rest[1][0],
            f"What a stop saves, of {FULL} epochs": saved,
            "One alarm of each title, in full": texts(runs),
        },
        {
            "collapse": compact(raw_collapse + raw_singles),
            "intact": compact(raw_intact + raw_single_intact),
            "others": compact([row for _, raw in rest for row in raw]),
            "saved": raw_saved,
        },
        out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
