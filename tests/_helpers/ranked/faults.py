"""Ranks that fail, die or are told to end. Run on each rank."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_featgeo import FeatureGeometryMonitor, Windows
from lightning_featgeo.cuda_ext import ops, scan_ops
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.watch import background, watched_layer
from tests._helpers.models import trainer
from tests._helpers.ranked import several
from tests._helpers.still import digit_loaders, still, told


def failing(size: int, where: str) -> dict[str, Any]:
    """Rank 1 fails once, in our code, in the second of three epochs."""
    rank = int(os.environ["RANK"])
    monitor = FeatureGeometryMonitor(signals=["feature_std", "id_two_nn", "effective_rank"])
    run = several(size, monitor, max_epochs=3)

    class Bomb(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if rank == 1 and trainer.current_epoch == 1 and not trainer.sanity_checking:
                arm(where)

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            disarm()

    run.callbacks.append(Bomb())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(still(), *digit_loaders())
    return {
        "records": told(monitor),
        "epochs": run.current_epoch,
        "said": [str(w.message) for w in caught if "featgeo" in str(w.message)],
    }


def beside_training(on_error: str) -> list[tuple[dict[str, float], str]]:
    """On rank 0, the second window that is computed beside training fails."""
    compute, calls = background._compute, [0]

    def fails_once(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise MemoryError("none left")
        return compute(*args)

    background._compute = fails_once
    monitor = FeatureGeometryMonitor(signals=["effective_rank"], windows=Windows(close="background"), on_error=on_error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        several(2, monitor, max_epochs=3).fit(still(), *digit_loaders())
    return [(record.values, str(record.gaps.get("effective_rank", ""))) for record in monitor.history]


_ORIGINAL: list[tuple[Any, str, Any]] = []


BOMBS: dict[str, tuple[Any, str]] = {
    "streaming": (ops, "scatter_"),
    "merging": (MomentsAccumulator, "_weighted_shift"),
    "searching": (scan_ops, "candidates"),
    "recording": (watched_layer, "thin_spectrum"),
}


def arm(where: str) -> None:
    """The next call of one of our own parts runs out of memory."""

    def boom(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("no room for this")

    holder, name = BOMBS[where]
    _ORIGINAL.append((holder, name, getattr(holder, name)))
    setattr(holder, name, boom)


def disarm() -> None:
    while _ORIGINAL:
        setattr(*_ORIGINAL.pop())


def killed(size: int) -> None:
    """The last rank dies inside validation, before our window closes."""
    rank = int(os.environ["RANK"])

    class Death(pl.Callback):
        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if rank == size - 1 and trainer.current_epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    run = several(size, FeatureGeometryMonitor(signals=["feature_std", "id_two_nn"]), max_epochs=3)
    run.callbacks.insert(0, Death())
    run.fit(still(), *digit_loaders())


def terminated(folder: str) -> None:
    """A checkpoint after every step, and SIGTERM in the middle of an epoch."""
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torchdata.stateful_dataloader import StatefulDataLoader

    class Term(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 13:
                os.kill(os.getpid(), signal.SIGTERM)

    monitor = FeatureGeometryMonitor(signals=["feature_std", "effective_rank"], stages=("train", "val"))
    store = ModelCheckpoint(folder, filename="last", every_n_train_steps=1, enable_version_counter=False)
    train, val = digit_loaders()
    run = trainer(monitor, store, Term(), max_epochs=3, enable_checkpointing=True)
    run.fit(still(), StatefulDataLoader(train.dataset, 32), val)
