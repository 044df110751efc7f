"""Which output of an autoencoder with a latent distribution is watched, and what only looks like one."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from tests._helpers.embeddings import X, Y, fitted
from tests._helpers.models import trainer


class VAE(pl.LightningModule):
    def __init__(self, mean: str, spread: str, gaussian: bool = False) -> None:
        super().__init__()
        self.names, self.gaussian = (mean, spread), gaussian
        self.encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU())
        for name in (mean, spread):
            setattr(self, name, nn.Linear(32, 6))
        self.decoder = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 20))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        h = self.encoder(batch[0])
        mean, log = (getattr(self, name)(h) for name in self.names)
        if self.gaussian:
            return functional.gaussian_nll_loss(mean, batch[0][:, :6], log.exp())
        z = mean + torch.randn_like(mean) * (log / 2).exp()
        return functional.mse_loss(self.decoder(z), batch[0]) - (1 + log - mean**2 - log.exp()).mean() / 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("names", [("mu", "logvar"), ("fc_mu", "fc_var"), ("mean_encoder", "std_encoder")])
def test_of_a_vae_the_latent_mean_is_watched(names: tuple[str, str]) -> None:
    monitor = fitted(VAE(*names), signals=["effective_rank"], on_error="raise")
    assert monitor.history.run["layers"][0].startswith(f"the output of {names[0]!r} (the mean of a latent")


def test_where_names_tell_nothing_both_are_offered() -> None:
    with pytest.raises(ConfigurationError, match=r"layer='fc22'.*\n.*layer='fc21'"):
        fitted(VAE("fc21", "fc22"))


def test_a_mean_and_a_variance_without_a_decoder_are_no_latent_distribution() -> None:
    with pytest.raises(ConfigurationError, match="may act after or beside it"):
        fitted(VAE("mean", "var", gaussian=True))


@pytest.mark.parametrize("white", [False, True])
def test_a_vae_of_black_and_white_pictures_is_no_classifier(white: bool) -> None:
    class Bernoulli(VAE):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = torch.sigmoid(batch[0])
            h = self.encoder(x)
            mean, log = (getattr(self, name)(h) for name in self.names)
            drawn = self.decoder(mean + torch.randn_like(mean) * (log / 2).exp())
            target = (x > 0.5).float() if white else x
            loss = functional.binary_cross_entropy_with_logits(drawn, target)
            return loss - (1 + log - mean**2 - log.exp()).mean() / 2

    shades = DataLoader(TensorDataset(torch.sigmoid(X), Y), 32)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    model = Bernoulli("fc_mu", "fc_logvar")
    model.training_step = lambda batch, batch_idx: Bernoulli.training_step(model, [torch.logit(batch[0]), batch[1]], 0)
    trainer(monitor, max_epochs=1).fit(model, shades, shades)
    assert monitor.history.run["layers"][0].startswith("the output of 'fc_mu'")
