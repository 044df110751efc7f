"""Losses that score no classes: which output is watched, and in which stage, against rows that a keeper kept itself."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_featgeo import FeatureGeometryMonitor, GeometryEarlyStopping
from lightning_featgeo.capture import heads
from lightning_featgeo.errors import FeatureGeometryWarning
from tests._helpers.embeddings import LOSSES, TwoViews, data, fitted
from tests._helpers.models import trainer
from tests._helpers.processes import on_ranks


class Kept(pl.Callback):
    """Keeps a module's output of the first view in each training epoch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epochs: list[list[Tensor]] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls: list[Tensor] = []
        module = pl_module.get_submodule(self.name)
        module.register_forward_hook(lambda _, __, out: self.calls.append(out.detach().double().clone()))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, *_: Any) -> None:
        self.calls.clear()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.epochs[-1].append(self.calls[0][: len(batch[0])])

    def effective_ranks(self) -> list[float]:
        found = []
        for rows in self.epochs:
            x = torch.cat(rows).numpy()
            s = np.linalg.svd(x - x.mean(0), compute_uv=False)
            p = s[s > 0] / s.sum()
            found.append(float(np.exp(-(p * np.log(p)).sum())))
        return found


@pytest.mark.parametrize("kind", [*LOSSES, "stacked", "byol"])
def test_what_the_loss_compares_is_watched_in_training_where_validation_runs_the_backbone(kind: str) -> None:
    kept, backbone = Kept("projector"), Kept("backbone")
    monitor = fitted(TwoViews(kind, "backbone"), kept, backbone, signals=["effective_rank"], on_error="raise")
    assert monitor.history.run["layers"][0].startswith("the output of 'projector' (what the loss compares)")
    for prefix, keeper in (("featgeo/train/", kept), ("featgeo/train/backbone/", backbone)):
        ours = [value for _, value in monitor.history.series(prefix + "effective_rank")]
        assert ours == pytest.approx(keeper.effective_ranks(), rel=1e-5)  # of every epoch, the first batch too
    assert {record.stage for record in monitor.history} == {"train"}


@pytest.mark.parametrize("kind", ["simclr", "byol"])
def test_validation_is_enough_where_it_runs_the_projector(kind: str) -> None:
    monitor = fitted(TwoViews(kind), signals=["effective_rank"], on_error="raise")
    assert {record.stage for record in monitor.history} == {"val"}
    assert [record.counts["seen"] for record in monitor.history if record.layer is None] == [128, 128]


def test_an_alarm_without_a_stage_follows_to_training() -> None:
    stop = GeometryEarlyStopping("collapse")
    fitted(TwoViews("byol", "backbone"), stop, epochs=3)
    assert [detector.stage for detector in stop.detectors] == ["train"] * len(stop.detectors)
    assert all(len(detector.checks) == 3 for detector in stop.detectors)


def test_who_watches_a_name_of_validation_is_told_why_it_has_no_value() -> None:
    early = pl.callbacks.EarlyStopping("featgeo/val/effective_rank", mode="max", strict=False)
    with pytest.warns(UserWarning, match="'projector' did not run in val"):
        monitor = fitted(TwoViews("simclr", "backbone"), early)
    assert {record.stage for record in monitor.history} == {"val", "train"}


def test_an_online_probe_on_detached_features_is_not_what_is_learned() -> None:
    class Probed(TwoViews):
        def __init__(self) -> None:
            super().__init__("simclr")
            self.probe = nn.Linear(24, 4)

        def loss(self, batch: Any) -> Tensor:
            probe = self.probe(self.backbone(batch[0]).detach())
            return super().loss(batch) + functional.cross_entropy(probe, batch[1])

    monitor = fitted(Probed(), signals=["effective_rank"])
    assert "'projector'" in monitor.history.run["layers"][0]


def test_a_resumed_fit_goes_on_with_the_same_layers(tmp_path: Any) -> None:
    def callbacks() -> list[pl.Callback]:
        return [FeatureGeometryMonitor(), pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)]

    first, second = callbacks(), callbacks()
    model = TwoViews("simclr", "backbone")
    trainer(*first, max_epochs=2, enable_checkpointing=True).fit(model, data(), data())
    trainer(*second, max_epochs=4, enable_checkpointing=True).fit(
        model, data(), data(), ckpt_path=str(tmp_path / "last.ckpt")
    )
    monitor = second[0]
    assert isinstance(monitor, FeatureGeometryMonitor)
    series = monitor.history.series("featgeo/train/effective_rank")
    assert [epoch for epoch, _ in series] == [1, 2, 3, 4]


def test_a_list_without_loaders_is_no_validation() -> None:
    monitor = FeatureGeometryMonitor(layer="projector")
    trainer(monitor, max_epochs=1).fit(TwoViews("simclr"), data(), [])
    assert {record.stage for record in monitor.history} == {"train"}


class Named(pl.LightningModule):
    """SimSiam, BYOL or MoCo whose modules have names that tell nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.f = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16))
        self.h = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))
        self.old = copy.deepcopy(self.f).requires_grad_(False)
        self.register_buffer("queue", functional.normalize(torch.randn(16, 64), dim=0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        a, b = (batch[0] + 0.1 * torch.randn_like(batch[0]) for _ in range(2))
        if self.kind == "simsiam":
            p, z = self.h(self.f(a)), self.f(b)
            return -functional.cosine_similarity(p, z.detach()).mean()
        with torch.no_grad():
            order = torch.randperm(len(b))
            k = functional.normalize(self.old(b[order])[order.argsort()], dim=1)
        if self.kind == "byol":
            return functional.mse_loss(functional.normalize(self.h(self.f(a)), dim=1), k)
        q = functional.normalize(self.f(a), dim=1)
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], q @ self.queue], dim=1)
        return functional.cross_entropy(logits / 0.2, torch.zeros(len(q), dtype=torch.long))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.f(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)


@pytest.mark.parametrize("kind", ["simsiam", "byol", "moco"])
def test_a_predictor_is_known_by_what_it_predicts(kind: str) -> None:
    monitor = fitted(Named(kind), signals=["effective_rank"], epochs=1)
    assert monitor.history.run["layers"][0].startswith("the output of 'f'")


class Triplets(TwoViews):
    """Squares by hand, over one call for anchors, positives and negatives."""

    def loss(self, batch: Any) -> Tensor:
        x = batch[0]
        a, p, n = self(torch.cat([x, x + 0.1 * torch.randn_like(x), x.roll(1, 0)])).chunk(3)
        return functional.relu((a - p).pow(2).sum(1) - (a - n).pow(2).sum(1) + 1).mean()


@pytest.mark.parametrize("compiles", [False, True])
def test_distances_by_hand_within_one_call(compiles: bool) -> None:
    (watched,) = on_ranks(1, watched_of_triplets, compiles)
    assert watched.startswith("the output of 'projector'")


def watched_of_triplets(compiles: bool) -> str:
    """In a process of its own: that something was compiled stays known."""
    if compiles:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    monitor = fitted(Triplets(""), signals=["effective_rank"], epochs=1)
    return monitor.history.run["layers"][0]


def test_what_a_training_step_could_not_tell_is_not_told_by_the_order_of_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error while the head is looked for is a gap, and stays one: later windows guessed."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("something is wrong with us")

    monkeypatch.setattr(heads, "find_embedding", broken)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    with pytest.warns(FeatureGeometryWarning, match="something is wrong with us"):
        trainer(monitor, max_epochs=2).fit(TwoViews("simclr"), data(), data())
    assert [record.values for record in monitor.history] == [{}, {}]
