"""Which code, prototype or expert rows choose: counted, and where that says nothing."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric
from tests._helpers.data import digits

NAMES = ["code_perplexity", "unused_codes", "largest_code_share", "routing_entropy"]


def of(rows: Tensor) -> dict[str, float]:
    metric = GeometryMetric(NAMES)
    for part in rows.split(7):
        metric.update(part)
    return metric.window().values


def test_even_use_and_one_code_for_all() -> None:
    even = of(one_hot(torch.arange(80) % 8, 8).float())
    assert [even[name] for name in NAMES[:3]] == pytest.approx([8.0, 0.0, 1 / 8])
    collapsed = of(one_hot(torch.zeros(80, dtype=torch.int64), 8).float())
    assert [collapsed[name] for name in NAMES[:3]] == pytest.approx([1.0, 7 / 8, 1.0])
    undecided = of(torch.zeros(40, 8).index_fill_(1, torch.tensor([3]), 1e-6))
    assert undecided["routing_entropy"] == pytest.approx(math.log(8), rel=1e-6)
    certain = of(1000.0 * one_hot(torch.arange(40) % 8, 8))
    assert certain["routing_entropy"] == 0


def test_of_several_largest_entries_the_first_is_chosen_and_of_equal_ones_none() -> None:
    rows = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [5.0, 0.0, 5.0], [0.0, 0.0, -torch.inf], [0.0, 1.0, 0.0]])
    metric = GeometryMetric(NAMES)
    metric.update(rows)
    assert metric._statistics().code_counts.tolist() == [2, 2, 0]  # −∞ bars an entry
    equal = GeometryMetric(NAMES)
    equal.update(torch.ones(5, 3))
    result = equal.window()
    assert set(result.gaps) == set(NAMES)
    assert "no row has a largest entry" in str(result.gaps["code_perplexity"])


class Quantizer(nn.Module):
    """The nearest of some codes, as a one-hot row; its codes don't move."""

    def __init__(self, codes: int, dim: int, spread: float) -> None:
        super().__init__()
        self.register_buffer("codes", spread * torch.randn(codes, dim, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return one_hot(torch.cdist(x, self.codes).argmin(1), len(self.codes)).to(x.dtype)


class Autoencoder(pl.LightningModule):
    def __init__(self, spread: float) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = nn.Linear(64, 8), Quantizer(32, 8, spread), nn.Linear(8, 64)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.encoder(batch[0])
        quantized = self.quantizer(z) @ self.quantizer.codes
        return mse_loss(self.decoder(z + (quantized - z).detach()), batch[0]) + mse_loss(z, quantized)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 3e-3)


@pytest.mark.parametrize(("spread", "collapsed"), [(0.05, False), (30.0, True)])
def test_a_codebook_that_collapses_shows(spread: float, collapsed: bool) -> None:
    """Codes far from every row: all rows choose the one that is nearest to the origin."""
    x = digits()[0][:500] / 16
    loader = DataLoader(TensorDataset(x), 100)
    monitor = FeatureGeometryMonitor(layer="quantizer", signals=NAMES[:3], on_error="raise")
    torch.manual_seed(0)
    run = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[monitor],
    )  # fmt: skip
    run.fit(Autoencoder(spread), loader, loader)
    values = monitor.history.records[-1].values
    assert (values["code_perplexity"] < 2) is collapsed
    assert (values["largest_code_share"] > 0.9) is collapsed


class Experts(nn.Module):
    """Each token goes to one expert; what its router says in evaluation is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(16, 4), nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.said: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        if not self.training:
            self.said.append(logits.flatten(0, 1))
        weight, chosen = logits.softmax(-1).max(-1)
        out = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return x + weight[..., None] * out.gather(-1, chosen[..., None, None].expand(*x.shape, 1))[..., 0]


class LanguageModel(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)
        self.blocks = nn.ModuleList([Experts(), Experts()])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = self.embed(batch[0])
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(x)[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def test_the_load_of_each_layers_experts() -> None:
    torch.manual_seed(0)
    loader, model = DataLoader(TensorDataset(torch.randint(30, (100, 12))), 25), LanguageModel()
    monitor = FeatureGeometryMonitor(layer="blocks.*.router", pool="tokens", signals="codes", on_error="raise")
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[monitor],
    ).fit(model, loader, loader)  # fmt: skip
    for block, record in zip(model.blocks, monitor.history, strict=True):
        said = torch.cat(block.said).double()
        load = torch.bincount(said.argmax(1), minlength=4) / len(said)
        assert record.values["n_samples"] == len(said) == 1200
        assert record.values["largest_code_share"] == pytest.approx(float(load.max()))
        assert record.values["code_perplexity"] == pytest.approx(float(torch.special.entr(load.double()).sum().exp()))
        entropy = torch.special.entr(said.softmax(1)).sum(1).mean()
        assert record.values["routing_entropy"] == pytest.approx(float(entropy), rel=1e-6)


def test_entries_that_are_barred_by_minus_infinity_are_not_chosen() -> None:
    """As routers bar experts: the row counts, and what is computed is of the entries that are left."""
    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    barred = rows.masked_fill(torch.rand(200, 8) < 0.4, -torch.inf)
    barred[:5] = torch.tensor([-torch.inf] * 7 + [1.0])  # one entry is left
    barred[5] = torch.nan
    usable = barred[(barred.amax(1).isfinite())].double()
    load = torch.bincount(usable.argmax(1), minlength=8).double() / len(usable)
    for names in (NAMES, [*NAMES, "feature_std"]):
        metric = GeometryMetric(names)
        for part in barred.split(33):
            metric.update(part)
        values = metric.window().values
        assert values["code_perplexity"] == pytest.approx(float(torch.special.entr(load).sum().exp()))
        entropy = torch.special.entr(usable.softmax(1)).sum(1).mean()
        assert values["routing_entropy"] == pytest.approx(float(entropy), rel=1e-6)
    assert of(barred)["n_samples"] == len(usable)
