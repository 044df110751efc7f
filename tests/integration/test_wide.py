"""The usual small network, whose maps are flattened into its head: watched without an argument, and cheaply."""

import lightning as L
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor


class SmallConvNet(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(9216, 10)

    def step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return cross_entropy(self.fc(self.body(batch[0]).flatten(1)), batch[1])

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return self.step(batch)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        self.step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_maps_that_are_flattened_into_the_head() -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 1, 28, 28), torch.arange(64) % 10)
    monitor = FeatureGeometryMonitor()
    L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[monitor],
    ).fit(SmallConvNet(), DataLoader(data, 32), DataLoader(data, 32))  # fmt: skip
    record = monitor.history.records[-1]
    assert record.facts["dim"] == 9216
    assert record.facts["spectrum_rows"] == 1024
    assert not record.gaps
    assert 1 < record.values["effective_rank"] <= record.ceilings["effective_rank"] == 63
    held = monitor.history.run["memory_bytes"]
    assert held < 80 * 2**20  # a scatter with classes would be 1.3 GiB
    assert "spectra" in monitor.history.run["described"]
