"""Kinds of runs and what they bring: views of many sizes, two networks side by side, odd sequences, odd targets."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, Tokens
from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.metrics.catalog import PRESETS
from tests._helpers.data import digits
from tests._helpers.models import Classifier, loaders, trainer


class TwoViews(pl.LightningModule):
    """Encoder, projector and predictor; ``calls``: how a batch's views reach the encoder."""

    def __init__(self, calls: str = "two") -> None:
        super().__init__()
        self.calls = calls
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.projector = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
        self.predictor = nn.Linear(16, 16)
        self.teacher = nn.Sequential(nn.Linear(64, 32), nn.ReLU()).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(self.projector(self.encoder(x)))

    def loss(self, x: Tensor) -> Tensor:
        shifted = x + 0.1 * torch.sin(torch.arange(64.0))
        if self.calls == "two":
            made = [self(x), self(shifted)]
        elif self.calls == "crops":  # two global crops in one call, four local ones in another
            made = [*self(torch.cat([x, shifted])).chunk(2), self(torch.cat([shifted] * 4))[: len(x)]]
        elif self.calls == "uneven":
            made = [self(x), self(shifted[: len(x) // 2 + 3])]
        else:
            with torch.no_grad():
                self.teacher(shifted)
            made = [self(x)]
        return made[0].square().mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch[0])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.loss(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def watch(model: pl.LightningModule, *data: DataLoader, **settings: Any) -> FeatureGeometryMonitor:
    monitor = FeatureGeometryMonitor(on_error="raise", **settings)
    torch.manual_seed(0)
    trainer(monitor, max_epochs=1).fit(model, *(data or loaders()))
    return monitor


def model(calls: str) -> TwoViews:
    torch.manual_seed(1)
    return TwoViews(calls)


def test_without_a_layer_the_candidates_and_the_line_to_paste_are_given() -> None:
    with pytest.raises(ConfigurationError) as error:
        watch(TwoViews())
    assert "  projector.2: 32 → 16" in str(error.value)
    line = "FeatureGeometryMonitor(layer=['projector', 'encoder'])"
    assert line in str(error.value)
    monitor = watch(TwoViews(), layer=["projector", "encoder"])
    assert {record.layer for record in monitor.history} == {None, "encoder"}


def test_two_views_take_the_preset_and_one_view_gives_the_same_single_view_numbers() -> None:
    two = watch(model("two"), layer="encoder", num_classes=10)
    assert "self_supervised: a sample has several views" in two.history.run["described"]
    values = two.history.records[-1].values
    assert set(values) == {*PRESETS["self_supervised"], "n_samples"}
    one = watch(model("one"), layer="encoder", num_classes=10, signals=PRESETS["self_supervised"][:4])
    for name in PRESETS["self_supervised"][:4]:
        assert one.history.records[-1].values[name] == pytest.approx(values[name], rel=1e-12)


def test_crops_of_other_sizes_are_further_views() -> None:
    monitor = watch(model("crops"), layer="encoder", num_classes=10)
    values, two = monitor.history.records[-1].values, watch(model("two"), layer="encoder", num_classes=10)
    assert values["n_samples"] == 200
    for name in ("feature_std", "effective_rank", "id_two_nn", "knn_accuracy"):  # of the first view
        assert values[name] == pytest.approx(two.history.records[-1].values[name])
    # six views, of which five are the same: the mean over pairs is 5/15 of the distance between the two kinds
    assert values["alignment"] == pytest.approx(two.history.records[-1].values["alignment"] / 3, rel=1e-5)


def test_views_of_unequal_size_are_gaps_that_say_so() -> None:
    needs = r"has no value: needs \d samples with at least 2 views"
    with (
        pytest.warns(FeatureGeometryWarning, match=f"alignment {needs}"),
        pytest.warns(FeatureGeometryWarning, match=f"lidar {needs}"),
    ):
        monitor = watch(model("uneven"), layer="encoder")
    record = monitor.history.records[-1]
    assert {"alignment", "lidar"} <= record.gaps.keys()
    assert record.values["n_samples"] == 200  # those of the first view
    assert "2 views of a sample" in monitor.history.run["described"]


def test_student_and_teacher_are_watched_together() -> None:
    monitor = watch(model("teacher"), layer=["encoder", "teacher"], signals=["feature_std", "effective_rank"])
    student, teacher = monitor.history.records
    assert (student.layer, teacher.layer) == (None, "teacher")
    assert student.values["n_samples"] == teacher.values["n_samples"] == 200
    assert student.values["feature_std"] != teacher.values["feature_std"]
    assert (student.facts["layer"], teacher.facts["layer"]) == ("encoder", "teacher")


class OneToken(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.head(self.embed(batch["input_ids"])).square().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.head(self.embed(batch["input_ids"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def sequences(length: int, masked: bool) -> DataLoader:
    ids = torch.randint(50, (60, length), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(ids) if masked else torch.ones_like(ids)
    return DataLoader([{"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)], 20)


@pytest.mark.parametrize("pool", ["tokens", "mean", "last"])
def test_a_mask_that_covers_everything_is_a_gap(pool: str) -> None:
    data = sequences(8, masked=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monitor = watch(OneToken(), data, data, pool=pool, signals=["feature_std", "id_two_nn"])
    record = monitor.history.records[-1]
    assert record.values == {"n_samples": 0.0}
    assert "every row was left out" in record.gaps["feature_std"]


@pytest.mark.parametrize("pool", ["tokens", "mean", "last", "cls"])
def test_sequences_of_one_token_are_samples(pool: str) -> None:
    data = sequences(1, masked=False)
    monitor = watch(OneToken(), data, data, pool=pool, signals=["feature_std", "effective_rank"])
    assert monitor.history.records[-1].values["n_samples"] == 60
    skipping = {"signals": ["feature_std"], "tokens": Tokens(skip=1), "pool": "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nothing = watch(OneToken(), data, data, **skipping).history.records[-1]
    assert nothing.values == {"n_samples": 0.0}


class OneTarget(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self(batch[0]).squeeze(1) - batch[1]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0])


def test_one_target_is_enough_or_a_gap() -> None:
    x, y = digits()
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    smooth = torch.sin(x[:300, 20]) + x[:300, 30] / 16  # all different
    data = DataLoader(TensorDataset(x[:300] / 16, smooth + torch.linspace(0, 0.1, 300)), 50)
    monitor = watch(OneTarget(net), data, data)
    assert "regressor: the labels are floating-point targets" in monitor.history.run["described"]
    assert 0.5 < monitor.history.records[-1].values["id_ratio"] < 20
    few = DataLoader(TensorDataset(x[:300] / 16, y[:300].float()), 50)  # ten values: neighbours are copies
    with pytest.warns(FeatureGeometryWarning, match="the targets' dimension is undefined"):
        assert "id_ratio" in watch(OneTarget(net), few, few).history.records[-1].gaps
