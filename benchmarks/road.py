"""The road from hook to curve: which files one validation batch and its close run through, and how often they change.

    python benchmarks/road.py [--files]

Counts, with ``sys.setprofile``, the package's files that are entered, and the moves from one file to another (a call or
a return that crosses), for one batch of one validation window with a single signal, and for the close of that window.
The first window is not counted: it makes the accumulators. The second has rows enough for its dimension, and no note.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning_featgeo
from lightning_featgeo import FeatureGeometryMonitor

ROOT = Path(lightning_featgeo.__file__).parent
HOOKS = ("on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end")


class Road:
    """Files entered and moves between them, while it is switched on."""

    def __init__(self) -> None:
        self.entries: Counter[str] = Counter()
        self.moves = 0
        self._stack: list[str | None] = []
        self._here: str | None = None

    def _watch(self, frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            path = frame.f_code.co_filename
            name = str(Path(path).relative_to(ROOT)) if path.startswith(str(ROOT)) else None
            self._stack.append(name)
            if name is not None:
                self._arrive(name)
        elif event == "return" and self._stack:
            self._stack.pop()
            back = next((name for name in reversed(self._stack) if name is not None), None)
            if back is not None:
                self._arrive(back, entered=False)

    def _arrive(self, name: str, entered: bool = True) -> None:
        if name != self._here:
            self.moves += self._here is not None
            self.entries[name] += entered
            self._here = name
        elif entered and not self.entries[name]:
            self.entries[name] = 1

    def along(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with the profile on."""

        def walked(*args: Any, **kwargs: Any) -> Any:
            sys.setprofile(self._watch)
            try:
                return call(*args, **kwargs)
            finally:
                sys.setprofile(None)
                self._stack.clear()
                self._here = None

        return walked


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU())
        self.head = torch.nn.Linear(16, 3)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.head(self.body(batch[0])), batch[1])

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.head(self.body(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def measure(folder: str) -> dict[str, Road]:
    """The road of the second window's first batch, and of its close."""
    roads = {"batch": Road(), "close": Road()}
    monitor = FeatureGeometryMonitor(signals=["effective_rank"], on_error="raise")
    before = {name: getattr(monitor, name) for name in HOOKS}
    windows = [0]

    def once(name: str, road: Road) -> Callable[..., Any]:
        def hook(*args: Any, **kwargs: Any) -> Any:
            if name == HOOKS[2]:
                windows[0] += 1
            second = windows[0] == (2 if name == HOOKS[2] else 1)
            return (road.along(before[name]) if second else before[name])(*args, **kwargs)

        return hook

    for name, part in zip(HOOKS, ("batch", "batch", "close"), strict=True):
        setattr(monitor, name, once(name, roads[part]))
    data = DataLoader(TensorDataset(torch.randn(96, 8), torch.randint(3, (96,))), batch_size=96)
    trainer = L.Trainer(
        max_epochs=2, callbacks=[monitor], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Classifier(), data, data)
    return roads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list them")
    args = parser.parse_args()
    import tempfile

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        roads = measure(folder)
    both = roads["batch"].entries + roads["close"].entries
    for part, road in roads.items():
        print(f"{part}: {len(road.entries)} files, {road.moves} moves between files")
    print(f"together: {len(both)} files, {sum(road.moves for road in roads.values())} moves")
    if args.files:
        for name, entered in both.most_common():
            print(
                f"  {entered:4d} {name}  (batch {roads['batch'].entries[name]}, close {roads['close'].entries[name]})"
            )


if __name__ == "__main__":
    main()
