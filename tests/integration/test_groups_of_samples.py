"""Several rows a sample: what has a label of its own is a sample, what has not is a view or a token."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, GeometryMetric
from tests._helpers.embeddings import Plain, TwoViews, X, Y, fitted
from tests._helpers.models import OfLoss, trainer


class Growing(pl.LightningModule):
    """Decodes step by step in validation, each time over all there is."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].reshape(-1, 4, 5)
        return functional.mse_loss(self.head(self.body(x)), torch.zeros(len(x), 4, 3))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0].reshape(-1, 4, 5)
        for length in (1, 2, 3, 4):
            self.head(self.body(x[:, :length]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_of_decoding_calls_that_grow_the_last_one_counts() -> None:
    model = Growing()
    monitor = fitted(model, signals=["effective_rank"], head="head", on_error="raise", epochs=1)
    assert monitor.history.records[0].counts["seen"] == 128
    x = model.body(X.reshape(-1, 4, 5)).mean(1).detach().double().numpy()
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = s[s > 1e-9] / s.sum()
    ours = monitor.history.records[0].values["effective_rank"]
    assert ours == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-4)


@pytest.mark.filterwarnings("ignore:featgeo")  # words that occur twice are near-duplicates
def test_classes_of_tokens_have_class_curves_and_a_vocabulary_has_none() -> None:
    class Tokens(pl.LightningModule):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 16), nn.Linear(16, classes)
            self.classes = classes

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.head(self.embed(batch["input_ids"]))
            return functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    def preset(classes: int) -> str:
        ids = torch.randint(0, 30, (64, 12), generator=torch.Generator().manual_seed(2))
        rows = [{"input_ids": one, "labels": (one + 1) % classes} for one in ids]
        monitor = FeatureGeometryMonitor()
        trainer(monitor, max_epochs=1).fit(Tokens(classes), DataLoader(rows, 16), DataLoader(rows, 16))
        assert monitor.history.records[0].values["n_samples"] == 64 * 12
        return str(monitor.history.run["described"]).partition("preset:")[2].strip()

    assert preset(5).startswith("classifier")
    assert preset(30).startswith("tokens")


@pytest.mark.parametrize("settings", [{}, {"labels": 1}, {"views": "b v"}])
def test_whole_numbers_without_a_name_are_asked_for(settings: dict[str, Any]) -> None:
    """Of groups without a classifier: labels of samples, or cameras of views? Each line that is offered works."""

    class Groups(TwoViews):
        def loss(self, batch: Any) -> Tensor:
            z = functional.normalize(self(batch[0].flatten(0, 1)), dim=1)
            return functional.cross_entropy(z @ z.T / 0.2, torch.arange(len(z)).roll(1))

    loader = DataLoader(TensorDataset(X.reshape(32, 4, 20), torch.arange(4).repeat(32, 1)), 8)
    monitor = FeatureGeometryMonitor(layer="projector", signals=["effective_rank"], **settings)
    fit = trainer(monitor, max_epochs=1).fit
    if not settings:
        with pytest.raises(ConfigurationError, match="labels of 4 samples, or something of 4 views"):
            fit(Groups(""), loader, loader)
        return
    fit(Groups(""), loader, loader)
    assert monitor.history.records[0].values["n_samples"] == (128 if "labels" in settings else 32)


@pytest.mark.parametrize("groups", [1, 4])
def test_groups_of_samples_with_labels_of_their_own_are_samples(groups: int) -> None:
    class Episodes(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = (part.flatten(0, 1) for part in batch)
            return functional.cross_entropy(self.head(self.body(x)), y)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    shards = TensorDataset(X.reshape(-1, 8, 20), Y.reshape(-1, 8))
    monitor = FeatureGeometryMonitor(signals=["effective_rank"], on_error="raise")
    model = Episodes("")
    trainer(monitor, max_epochs=1).fit(model, DataLoader(shards, groups), DataLoader(shards, groups))
    x = model.body(X).detach()
    own = GeometryMetric(["effective_rank"])
    own.update(x, Y)
    found = monitor.history.records[0]
    assert found.counts["seen"] == 128
    for name, value in own.compute().items():
        assert found.values[name] == pytest.approx(float(value), rel=1e-5)


def test_numbers_of_views_are_no_labels_of_samples() -> None:
    """Cameras of views look like labels of groups: what has another name is none."""

    class Seen(OfLoss):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(20, 16), nn.ReLU()), nn.Linear(16, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.head(self.body(batch["image"].flatten(0, 1))).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    cameras = torch.arange(4).repeat(32, 1)
    views = X.reshape(32, 4, 20)
    rows: Any = [{"image": x, "camera": c} for x, c in zip(views, cameras, strict=True)]
    loader = DataLoader(rows, 8)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    trainer(monitor, max_epochs=1).fit(Seen(), loader, loader)
    assert not any("groups of samples" in str(note) for record in monitor.history for note in record.notes)


@pytest.mark.parametrize("scored", [True, False])
def test_only_what_the_loss_scores_is_a_label_of_each_view(scored: bool) -> None:
    """Which camera a view is of, to be told by the network: or only given beside it, and one label for all views."""

    class Cameras(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, camera, y = batch["image"], batch["camera"], batch["of"]
            z = self.head(self.body(x.flatten(0, 1)))
            if scored:
                return functional.cross_entropy(z, camera.flatten())
            return functional.cross_entropy(z.unflatten(0, x.shape[:2]).mean(1), y[:, 0])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    given = {"image": X.reshape(32, 4, 20), "camera": torch.arange(4).repeat(32, 1), "of": Y[:32, None]}
    rows: Any = [{name: part[i] for name, part in given.items()} for i in range(32)]
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    trainer(monitor, max_epochs=1).fit(Cameras(""), DataLoader(rows, 8), DataLoader(rows, 8))
    assert monitor.history.records[0].values["n_samples"] == (128 if scored else 32)
