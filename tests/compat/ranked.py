"""One rank of a distributed run, as a launcher starts it: a classifier, the monitor, a keeper that saves its rows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_featgeo import FeatureGeometryMonitor, History
from tests.compat.keeper import Keeper
from tests.compat.kit import Module, images, loaders, trainer, without_factories


def loss(net: Any, batch: Any) -> Any:
    return cross_entropy(net(batch[0]), batch[1])


def train(
    folder: str, prepare: Any = None, fail_in: int | None = None, before: tuple[Any, ...] = (), width: int = 24,
    **arguments: Any,
) -> None:  # fmt: skip
    """Trains three epochs; with ``fail_in`` the first attempt dies in that epoch, and a later one resumes.

    ``before``: callbacks listed before the monitor. ``width``: of the features.
    """
    without_factories()
    path = Path(folder)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, width), nn.ReLU(), nn.Linear(width, 4))
    keeper = Keeper(lambda module: module.net[3], labels=lambda batch: batch[1])
    monitor = FeatureGeometryMonitor()
    callbacks: list[Any] = [*before, monitor, keeper]
    resume = None
    if fail_in is not None:
        from lightning.pytorch.callbacks import Callback, ModelCheckpoint

        class Dies(Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
                if first and trainer.current_epoch == fail_in and batch_idx == 1 and trainer.global_rank == 1:
                    os._exit(3)

        callbacks += [ModelCheckpoint(path / "checkpoints", save_last=True), Dies()]
        arguments["enable_checkpointing"] = True
        last = path / "checkpoints" / "last.ckpt"
        resume = last if last.exists() else None
    logger = CSVLogger(path, "logs", version="run")  # a restarted attempt goes on in the same folder
    made = trainer(callbacks, max_epochs=3, logger=logger, log_every_n_steps=1, **arguments)
    if prepare is not None:
        made = prepare(made)
    train_loader, val_loader = loaders(*images(160, 8), batch_size=16)
    made.fit(Module(net, loss, lr=0.1), train_loader, val_loader, ckpt_path=resume)
    torch.save(keeper.kept, path / f"rank_{made.global_rank}.pt")


def gathered(folder: Path) -> tuple[Keeper, History]:
    """The rows of all ranks, and the history that the first one has written."""
    keeper = Keeper(lambda module: module, labels=lambda batch: batch)
    for file in sorted(folder.glob("rank_*.pt")):
        keeper.kept += torch.load(file)
    (file,) = (folder / "logs").rglob("*.jsonl")
    return keeper, History.load(file)


if __name__ == "__main__":
    train(
        sys.argv[1], fail_in=int(sys.argv[2]) if len(sys.argv) > 2 else None, strategy="ddp",
        devices=int(os.environ["WORLD_SIZE"]), use_distributed_sampler=True,
    )  # fmt: skip
