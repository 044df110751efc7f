"""LightningCLI: monitor, stopper and alarm from a YAML file (examples/cli.yaml).

pip install "jsonargparse[signatures]"
python examples/cli.py fit --config examples/cli.yaml
"""

from __future__ import annotations

import lightning.pytorch as pl
from digits import DigitsNet, digits_loaders
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader


class Digits(pl.LightningDataModule):
    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return digits_loaders(self.batch_size)[0]

    def val_dataloader(self) -> DataLoader:
        return digits_loaders(self.batch_size)[1]


if __name__ == "__main__":
    LightningCLI(DigitsNet, Digits, seed_everything_default=0, save_config_kwargs={"overwrite": True})
