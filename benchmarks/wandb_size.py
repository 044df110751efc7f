"""What a run sends to Weights & Biases: rows, panels, media, versions of tables, bytes, for five configurations.

    python benchmarks/wandb_size.py                    # a table in Markdown

All of it is read from the files of offline runs. Panels are what is not hidden, as W&B makes one of every such name.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")

import lightning.pytorch as pl
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from lightning_featgeo import Display, FeatureGeometryMonitor, Windows
from tests._helpers.wandb_file import read

EPOCHS = 8
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "training and validation": {"stages": ("train", "val")},
    "12 layers, two stages": {"layer": "blocks.*", "stages": ("train", "val")},
    "500 raw rows": {"display": Display(embedding_rows=500)},
    "windows of 10 steps": {"stages": "train", "windows": Windows(every_n_train_steps=10)},
}


class Net(pl.LightningModule):
    """Twelve blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(16, 64)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(12)))
        self.head = nn.Linear(64, 4)

    def loss(self, batch: Any) -> torch.Tensor:
        return cross_entropy(self.head(self.blocks(self.stem(batch[0]))), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.logger.experiment.log({"mine": float(loss)}, step=self.global_step)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 3e-3)


def loader(n: int) -> DataLoader:
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(n))
    return DataLoader(TensorDataset(x, 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()), 64)


def measure(monitor: FeatureGeometryMonitor | None) -> dict[str, int]:
    """Counts of one run of eight epochs; None: without a monitor."""
    with tempfile.TemporaryDirectory() as folder:
        logger = WandbLogger(project="size", save_dir=folder)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = pl.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", logger=logger, callbacks=[monitor] if monitor else [],
            default_root_dir=folder, **quiet,
        )  # fmt: skip
        trainer.fit(Net(), loader(1280), loader(500))
        run = Path(logger.experiment.dir).parent
        wandb.finish()
        metrics, rows, _ = read(Path(folder))
        names = {name.split(".")[0] for row in rows for name in row if "featgeo" in name}
        typed = [
            (name[: -len("._type")], value) for row in rows for name, value in row.items() if name.endswith("._type")
        ]
        files = [file for file in run.rglob("*") if file.is_file()]
        media = {name for name, _ in typed if "featgeo" in name}
        return {
            "rows": len(rows),
            "of the user's": sum("mine" in row for row in rows),
            "panels": sum(not metrics.get(name, {}).get("hidden") for name in names | media),
            "media keys": len(media),
            "tables sent": sum("table" in str(value) for _, value in typed),
            "KiB": sum(f.stat().st_size for f in files if not f.is_symlink()) // 1024,
            "history and report, KiB": sum(f.stat().st_size for f in files if f.is_symlink()) // 1024,
        }


def main() -> None:
    found = {"without us": measure(None)}
    for name, settings in CONFIGURATIONS.items():
        found[name] = measure(FeatureGeometryMonitor(**settings))
    columns = list(found["without us"])
    print(f"| {EPOCHS} epochs of 20 steps | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, counts in found.items():
        print(f"| {name} | " + " | ".join(f"{counts[column]:,}" for column in columns) + " |")
    print(json.dumps({"torch": torch.__version__, "wandb": wandb.__version__}))


if __name__ == "__main__":
    main()
