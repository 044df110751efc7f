"""Injected faults: what happened to the run, to the curves, and what was said.

    python benchmarks/faults.py --out benchmarks/results/faults.md

Needs the test dependencies. Three epochs each; the fault is in the second.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from measuring import publish, table

sys.path.insert(0, str(Path(__file__).parents[1]))
from lightning_featgeo import FeatureGeometryMonitor, History
from lightning_featgeo.callbacks import publishing
from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.metrics.statistics import sums as sum_statistics
from tests._helpers.models import Classifier, loaders, trainer
from tests._helpers.processes import Died, on_ranks
from tests._helpers.ranked import faults

SIGNALS = ["feature_std", "effective_rank", "id_two_nn"]


@contextmanager
def said() -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        messages: list[str] = []
        yield messages
    messages += [str(w.message) for w in caught if "featgeo" in str(w.message) and "fewer than" not in str(w.message)]


class Breaks(pl.Callback):
    """Replaces something of ours during the second epoch."""

    def __init__(self, holder: Any, name: str, error: BaseException) -> None:
        self.holder, self.name, self.error = holder, name, error
        self.whole = getattr(holder, name)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def boom(*args: Any, **kwargs: Any) -> None:
            raise self.error

        setattr(self.holder, self.name, boom if trainer.current_epoch == 1 else self.whole)


def lightning(*callbacks: pl.Callback, **kwargs: Any) -> tuple[str, str, str]:
    """How the run ended, what became of the curves, the first message."""
    monitor = FeatureGeometryMonitor(signals=SIGNALS)
    run = trainer(monitor, *callbacks, max_epochs=3, **kwargs)
    with said() as messages:
        try:
            run.fit(Classifier(), *loaders())
            ended = f"went on to its end ({run.current_epoch} epochs)"
        except BaseException as error:
            ended = f"ended with {type(error).__name__}, as without us"
        for callback in callbacks:
            if isinstance(callback, Breaks):
                setattr(callback.holder, callback.name, callback.whole)
    return ended, _curves([(r.values, r.gaps) for r in monitor.history]), messages[0] if messages else "–"


def _curves(records: list[tuple[Any, Any]]) -> str:
    gaps = [f"{len(gaps)} of {len(SIGNALS)} signals a gap" if gaps else "complete" for _, gaps in records]
    return f"{len(records)} windows: {', '.join(gaps)}"


def full_disk() -> tuple[str, str, str]:
    whole = publishing.history_path
    publishing.history_path = lambda trainer: Path("/dev/full")
    try:
        return lightning()
    finally:
        publishing.history_path = whole


def damaged_history() -> tuple[str, str, str]:
    file = Path("damaged.jsonl")
    history = History(file)
    monitor = FeatureGeometryMonitor(signals=SIGNALS)
    with said():
        trainer(monitor, max_epochs=3).fit(Classifier(), *loaders())
    for record in monitor.history:
        history.append(record)
    data = file.read_bytes()
    file.write_bytes(data[:300] + b"\x00\xff" * 20 + data[340:-50])
    with said() as messages:
        found = History.load(file)
    return "–", f"{len(found)} of 3 windows read", messages[0]


def damaged_checkpoint() -> tuple[str, str, str]:
    monitor = FeatureGeometryMonitor(signals=SIGNALS)
    run = trainer(monitor, max_epochs=1, enable_checkpointing=True)
    with said():
        run.fit(Classifier(), *loaders())
        run.save_checkpoint("one.ckpt")
    state = torch.load("one.ckpt", weights_only=True)
    key = next(key for key in state["callbacks"] if key.startswith("FeatureGeometryMonitor"))
    state["callbacks"][key] = {"windows": "many"}
    torch.save(state, "one.ckpt")
    again = FeatureGeometryMonitor(signals=SIGNALS)
    run = trainer(again, max_epochs=3)
    with said() as messages:
        run.fit(Classifier(), *loaders(), ckpt_path="one.ckpt")
    return (
        f"went on to its end ({run.current_epoch} epochs)",
        _curves([(r.values, r.gaps) for r in again.history]),
        messages[0],
    )


def on_a_rank(where: str) -> tuple[str, str, str]:
    every = on_ranks(2, faults.failing, 2, where)
    assert every[0]["records"] == every[1]["records"]
    records = [(r["values"], r["gaps"]) for r in every[0]["records"]]
    return f"went on to its end ({every[0]['epochs']} epochs)", f"both ranks: {_curves(records)}", every[0]["said"][0]


def killed() -> tuple[str, str, str]:
    try:
        on_ranks(2, faults.killed, 2)
    except Died as died:
        first = cast(str, died.outcomes[0]).strip().splitlines()[-1]
        return "the other rank ended too, at once", "on disk up to the last closed window", first
    return "went on", "–", "–"


FAULTS: dict[str, Callable[[], tuple[str, str, str]]] = {
    "out of memory while rows are streamed": lambda: lightning(
        Breaks(ops, "scatter_", torch.OutOfMemoryError("tried to allocate 2 GiB"))
    ),
    "out of memory in the eigenvalues of one signal": lambda: lightning(
        Breaks(sum_statistics, "null_small_eigenvalues", torch.OutOfMemoryError("tried to allocate 2 GiB"))
    ),
    "Ctrl-C inside our code": lambda: lightning(Breaks(ops, "scatter_", KeyboardInterrupt())),
    "disk full under the history": full_disk,
    "history file with a hole, and cut short": damaged_history,
    "checkpoint state that can't be read": damaged_checkpoint,
    "one of 2 ranks out of memory while rows are streamed": lambda: on_a_rank("streaming"),
    "one of 2 ranks out of memory while merging": lambda: on_a_rank("merging"),
    "one of 2 ranks out of memory in the shared search": lambda: on_a_rank("searching"),
    "one of 2 ranks killed (SIGKILL) before the window closes": killed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out.resolve() if args.out else None
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.chdir(tempfile.mkdtemp())
    rows: list[list[object]] = []
    for name, fault in FAULTS.items():
        rows.append([name, *(text.replace("|", "/").replace("\n", " ") for text in fault())])
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    publish("Injected faults", {"Faults": table(["fault", "the run", "the curves", "message"], rows)}, rows, out)


if __name__ == "__main__":
    main()
