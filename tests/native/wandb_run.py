"""A run with a ``WandbLogger``, for ``test_wandb_survives``: folder, epochs, and whether the disk fills on the way."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.models import Classifier, loaders, trainer
from tests.native.soak import fill


class Disk(pl.Callback):
    """Says when an epoch begins; with a filler, the disk is full for the middle third of the run."""

    def __init__(self, filler: Path | None) -> None:
        self.filler = filler

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        epoch, third = trainer.current_epoch, trainer.max_epochs // 3
        if self.filler is not None and epoch == third:
            fill(self.filler)
        if self.filler is not None and epoch == 2 * third:
            self.filler.unlink()
        print("epoch", epoch, flush=True)


if __name__ == "__main__":
    folder, epochs, disk = sys.argv[1:]
    logger = WandbLogger(save_dir=folder, project="digits", offline=True)
    filler = Path(folder) / "filler" if disk == "fills" else None
    monitor = FeatureGeometryMonitor(signals=["feature_std", "effective_rank", "id_two_nn", "nc1"])
    trainer(monitor, Disk(filler), max_epochs=int(epochs), logger=logger, default_root_dir=folder).fit(
        Classifier(), *loaders()
    )
    print("HISTORY", monitor.history.path)
