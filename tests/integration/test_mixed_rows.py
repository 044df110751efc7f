"""Mixup in training, wherever it is done: its rows are compared with the head, apart from rows of one class."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from tests.unit.metrics.functional.test_mixtures import SIGNALS, by_hand

C = 5


def data() -> TensorDataset:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(C, (160,), generator=g)
    return TensorDataset(torch.randn(160, 12, generator=g) + 2 * one_hot(y, 12), y)


def mix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    other, share = torch.randperm(len(x)), 0.02 + 0.96 * torch.rand(len(x), 1)
    t = one_hot(y, C).float()
    return share * x + (1 - share) * x[other], share * t + (1 - share) * t[other]


class Mixes(L.LightningModule):
    """``where``: what is mixed: a "batch" of its loader, "inputs" in the step, or "features" in the network."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.mixed, self.told = where, None, []
        self.body, self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU()), nn.Linear(16, C)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, t = batch
        if self.where == "inputs":
            x, t = mix(x, t)
        h = self.body(x)
        if self.where == "features":
            h, t = mix(h, t)
        self.mixed = t
        self.told.append((h.detach(), t))
        return cross_entropy(self.head(h), t)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(self.body(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def collate(items: list[Any]) -> tuple[Tensor, Tensor]:
    return mix(torch.stack([x for x, _ in items]), torch.stack([y for _, y in items]))


@pytest.mark.parametrize("where", ["batch", "inputs", "features"])
def test_mixtures_are_read_wherever_they_are_made(where: str) -> None:
    torch.manual_seed(0)
    model = Mixes(where)

    def labels(batch: Any) -> Tensor:
        return model.mixed if model.training and model.mixed is not None else batch[1]

    monitor = FeatureGeometryMonitor(
        signals=["feature_std", "mixed"], stages=("train", "val"), num_classes=C,
        labels=1 if where == "batch" else labels,
    )  # fmt: skip
    loader = DataLoader(data(), 32, shuffle=True, collate_fn=collate if where == "batch" else None)
    trainer = L.Trainer(
        max_epochs=1, callbacks=[monitor], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, loader, DataLoader(data(), 32))
    train = next(r for r in monitor.history.records if r.stage == "train")
    val = next(r for r in monitor.history.records if r.stage == "val")
    x, weights = (torch.cat(part) for part in zip(*model.told, strict=True))
    two, which = weights.topk(2)
    same = two[:, 1] == 0
    first, second = which.amin(1), which.amax(1)
    share = torch.where(which[:, 0] == first, two[:, 0], two[:, 1])
    parts = (torch.where(same, which[:, 0], first), torch.where(same, which[:, 0], second), share)
    truth = by_hand(x, *parts, model.head.weight)
    assert {n: train.values[n] for n in SIGNALS} == pytest.approx(truth, rel=1e-5)
    assert val.values["feature_std"] > 0
    assert not set(SIGNALS) & set(val.values)


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # no mixtures yet
@pytest.mark.parametrize("signals", [["feature_std"], ["feature_std", "mixed"]])
@pytest.mark.parametrize("mixes", ["from the second epoch on", "every second batch"])
@pytest.mark.parametrize("where", ["batch", "inputs"])
def test_mixup_that_begins_late_or_comes_now_and_then(where: str, mixes: str, signals: list[str]) -> None:
    """Labels are indices in some batches and weights in others."""
    torch.manual_seed(0)
    model = Mixes(where)
    batches = [0]

    def mixes_now() -> bool:
        batches[0] += 1
        return batches[0] > 5 if mixes == "from the second epoch on" else batches[0] % 2 == 0

    def collated(items: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = (torch.stack(part) for part in zip(*items, strict=True))
        return mix(x, y) if mixes_now() else (x, y)

    def step(batch: Any, batch_idx: int) -> Tensor:
        x, t = batch
        if where == "inputs":
            x, t = mix(x, t) if mixes_now() else (x, t)
        model.mixed = t
        h = model.body(x)
        model.told.append((h.detach(), t if t.ndim == 2 else one_hot(t, C).float(), t.ndim == 2))
        return cross_entropy(model.head(h), t)

    def labels(batch: Any) -> Tensor:
        return model.mixed if model.training and model.mixed is not None else batch[1]

    model.training_step = step  # type: ignore[method-assign]  # another one for this test
    monitor = FeatureGeometryMonitor(
        signals=signals, stages=("train", "val"), num_classes=C, labels=1 if where == "batch" else labels
    )
    loader = DataLoader(data(), 32, shuffle=True, collate_fn=collated if where == "batch" else None)
    trainer = L.Trainer(
        max_epochs=2, callbacks=[monitor], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, loader, DataLoader(data(), 32))
    train = [r for r in monitor.history.records if r.stage == "train"][-1]
    of_epoch = [one for one in model.told[5:] if one[2]]
    assert train.values["n_samples"] == 160
    told = [one for one in model.told[5:] if where == "batch" or not one[2]]  # what the step mixes has no class
    single = [int((t.amax(dim=1) > 1 - 1e-3).sum()) for _, t, _ in told]
    assert train.counts["labelled"] == sum(single)
    if "mixed" in signals:
        two, which = torch.cat([t for _, t, _ in of_epoch]).topk(2)
        same, first = two[:, 1] == 0, which.amin(1)
        parts = (
            torch.where(same, which[:, 0], first), torch.where(same, which[:, 0], which.amax(1)),
            torch.where(which[:, 0] == first, two[:, 0], two[:, 1]),
        )  # fmt: skip
        truth = by_hand(torch.cat([h for h, _, _ in of_epoch]), *parts, model.head.weight)
        assert {n: train.values[n] for n in SIGNALS} == pytest.approx(truth, rel=1e-5)
