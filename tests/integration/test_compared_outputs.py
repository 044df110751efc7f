"""Outputs that are compared with something, and are no embeddings: predictions, classes, reconstructions, memories."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from tests._helpers.embeddings import Plain, TwoViews, X, fitted, off_diagonal
from tests._helpers.models import trainer


class Regression(TwoViews):
    """Losses of one's own that compare an output with numbers of the batch, not with itself."""

    def loss(self, batch: Any) -> Tensor:
        z = self(batch[0])
        return (z - batch[0][:, :16]).norm(dim=1).mean() + (z - batch[0][:, 4:]).square().mean()


class Proxies(TwoViews):
    """Cosines to weights of the loss itself: classes, though nothing says so."""

    def __init__(self) -> None:
        super().__init__("")
        self.proxies = nn.Parameter(torch.randn(4, 16))

    def loss(self, batch: Any) -> Tensor:
        z, p = functional.normalize(self(batch[0]), dim=1), functional.normalize(self.proxies, dim=1)
        return functional.cross_entropy(10 * z @ p.T, batch[1])


@pytest.mark.parametrize("model", [Regression(""), Proxies()])
def test_what_is_compared_with_something_else_is_no_embedding(model: pl.LightningModule) -> None:
    with pytest.raises(ConfigurationError, match="can't tell which module"):
        fitted(model)


@pytest.mark.parametrize(
    "what",
    [
        "a direction",
        "Pearson",
        "LogitNorm",
        "one-hot",
        "a penalty on its norm",
        "a covariance",
        "a gate",
        "a temperature",
    ],
)
def test_a_prediction_that_is_normalised_is_no_embedding(what: str) -> None:
    monitor = fitted(Plain(what), signals=["effective_rank"], epochs=1)
    assert monitor.history.run["layers"][0].startswith("the input of 'head'")


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_compared_with_itself_and_with_a_target_is_refused(by_hand: bool) -> None:
    """A regression whose outputs are decorrelated: its predictions were taken for an embedding."""

    class Decorrelated(Plain):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            z = self.head(self.body(x))
            away = z - x[:, :4]
            target = away.square().mean() if by_hand else functional.mse_loss(z, x[:, :4])
            return target + 0.1 * off_diagonal(z.T @ z)

    with pytest.raises(ConfigurationError, match="with each other, and with something else"):
        fitted(Decorrelated(""))


@pytest.mark.parametrize("what", ["layer", "num_classes", "regression", "matrix"])
def test_weights_that_nobody_trains_are_not_looked_through(what: str) -> None:
    """A frozen classifier was taken for a reshape, and a layer too early for the head."""

    class Frozen(Plain):
        def __init__(self) -> None:
            super().__init__("")
            self.head.requires_grad_(False)
            self.body = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 32))
            if what == "num_classes":
                self.num_classes = 4

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            h = self.body(x)
            z = h @ torch.eye(32)[:, :4] if what == "matrix" else self.head(h)
            return (z - x[:, :4]).square().mean() if what == "regression" else functional.cross_entropy(z, y)

    with pytest.raises(ConfigurationError, match="reads it through weights that are not") as error:
        fitted(Frozen())
    lines = ["layer='body.2'", "head='body.2'"] if what == "matrix" else ["head='head'"]
    assert all(f"FeatureGeometryMonitor({line})" in str(error.value) for line in lines)


def test_the_next_step_of_a_series_is_no_reconstruction() -> None:
    class Forecast(Plain):
        def __init__(self) -> None:
            super().__init__("")
            self.head = nn.Linear(32, 20)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.head(self.body(x)) - y).square().mean().sqrt()

    loader = DataLoader(TensorDataset(X, X.roll(1, 0)), 32)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    trainer(monitor, max_epochs=1).fit(Forecast(), loader, loader)
    assert monitor.history.run["layers"][0].startswith("the input of 'head'")


def test_a_memory_that_nobody_knows_is_refused() -> None:
    class Memory(TwoViews):
        def loss(self, batch: Any) -> Tensor:
            z = functional.normalize(self(batch[0]), dim=1)
            return (1 - z @ functional.normalize(torch.ones(16, 64), dim=0)).mean()

    with pytest.raises(ConfigurationError, match=r"a matrix of its own \(a queue"):
        fitted(Memory(""))
