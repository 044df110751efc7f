"""``probe_sets=``: loaders that no step reads, with curves of their own, and a run that they don't touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric, Neighbors, ProbeSet
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning
from tests._helpers.data import digits
from tests._helpers.models import WHOLE, Classifier, loaders, strict, trainer

SIGNALS = ["feature_std", "effective_rank", "knn_accuracy"]


class Normed(Classifier):
    """With what evaluation must not touch: running statistics, dropout, and a part that its owner has frozen."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))
        )


def clean(n: int = 256) -> DataLoader:
    x, y = digits()
    return DataLoader(TensorDataset(x[:n] / 16, y[:n]), 64)


def other(n: int = 150) -> DataLoader:
    """Digits upside down and without their classes."""
    x, _ = digits()
    return DataLoader(TensorDataset(x[-n:].flip(1) / 16, torch.arange(n) % 3), 50)


def features_of(model: Classifier, loader: DataLoader) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        parts = [(model.net[:-1](x), y) for x, y in loader]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


class Last(pl.Callback):
    """Keeps the weights of the last validation."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.state = {k: v.clone() for k, v in pl_module.state_dict().items()}


def test_curves_of_a_probe_set_are_of_its_rows_in_evaluation_mode() -> None:
    model, last = Normed(), Last()
    monitor = strict(
        signals=SIGNALS, probe_sets={"clean_train": clean(), "upside down": ProbeSet(other(), labelled=False)}
    )
    run = trainer(monitor, last, max_epochs=2)
    run.fit(model, *loaders())
    assert [r.stage for r in monitor.history] == ["val", "clean_train", "upside_down"] * 2
    assert [r.window for r in monitor.history] == list(range(6))
    model.load_state_dict(last.state)
    for loader, name in ((clean(), "clean_train"), (other(), "upside_down")):
        x, y = features_of(model, loader)
        metric = GeometryMetric(SIGNALS if name == "clean_train" else SIGNALS[:2], num_classes=10)
        metric.update(x, *([y] if name == "clean_train" else []))
        record = [r for r in monitor.history if r.stage == name][-1]
        expected = metric.window().values
        assert record.values == pytest.approx(expected, rel=1e-5)
        assert float(run.callback_metrics[f"featgeo/{name}/feature_std"]) == pytest.approx(expected["feature_std"])
    assert not monitor.history.records[-1].gaps  # a set without labels has no curve of classes to miss


def test_a_probe_set_is_a_reference_for_all_windows() -> None:
    model, last = Normed(), Last()
    signals = ["knn_accuracy", "knn_ood_auroc", "linear_probe_accuracy"]
    monitor = strict(
        signals=signals, stages=("train", "val"), reference="clean", neighbors=Neighbors(knn_k=10),
        probe_sets={"ood": ProbeSet(other(), labelled=False), "clean": clean()},
    )  # fmt: skip
    trainer(monitor, last, max_epochs=1, num_sanity_val_steps=0).fit(model, *loaders())
    assert [(r.stage, r.reference) for r in monitor.history] == [
        ("val", "clean"), ("ood", "clean"), ("clean", None), ("train", "clean")
    ]  # fmt: skip
    model.load_state_dict(last.state)
    reference = GeometryMetric("n_samples", num_classes=10, serve=signals, neighbors=Neighbors(knn_k=10))
    reference.update(*features_of(model, clean()))
    for loader, index, given in ((loaders()[1], 0, signals), (other(), 1, ["knn_ood_auroc"])):
        metric = GeometryMetric(given, num_classes=10, has_reference=True, neighbors=Neighbors(knn_k=10))
        x, y = features_of(model, loader)
        metric.update(x, *([y] if index == 0 else []))
        found, expected = monitor.history.records[index].values, metric.window(reference=reference).values
        assert found == pytest.approx(expected, rel=1e-5), index


def test_every_row_of_a_reference_votes_and_not_only_those_that_are_kept() -> None:
    model, last = Normed(), Last()
    neighbors = Neighbors(knn_k=10, bank_size=400, reference_rows="all")
    monitor = strict(
        signals=["knn_accuracy", "knn_ood_auroc"], reference="clean", neighbors=neighbors,
        probe_sets={"clean": clean(1000), "others": other(), "ood": ProbeSet(other(), labelled=False)},
    )  # fmt: skip
    trainer(monitor, last, max_epochs=2).fit(model, *loaders(val=400))
    model.load_state_dict(last.state)
    x, y = features_of(model, clean(1000))
    vote = KNeighborsClassifier(10, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
    vote.fit(x.double(), y)
    last_of = {record.stage: record for record in monitor.history}
    for name, loader in (("val", loaders(val=400)[1]), ("others", other())):
        queries, own = features_of(model, loader)
        right = vote.predict(queries.double()) == own.numpy()
        assert last_of[name].values["knn_accuracy"] == pytest.approx(right.mean(), abs=1e-9)
        assert last_of[name].facts["reference_rows"] == "all"
    assert "knn_accuracy" not in last_of["ood"].values
    assert 0 <= last_of["ood"].values["knn_ood_auroc"] <= 1


def weights(*callbacks: pl.Callback, **settings: Any) -> Tensor:
    pl.seed_everything(1, verbose=False)
    model = Normed()
    model.net[1].eval()  # its owner keeps it so
    generator = torch.Generator().manual_seed(5)
    train, val = loaders()
    train = DataLoader(train.dataset, 64, shuffle=True, generator=generator)
    for callback in callbacks:
        if isinstance(callback, FeatureGeometryMonitor):  # one that draws from the run's own generator
            drawn = WeightedRandomSampler([1.0] * 256, 100, generator=generator)
            callback.settings.probe_sets["drawn"] = ProbeSet(DataLoader(train.dataset, 64, sampler=drawn))
            callback.settings.probe_sets["train_again"] = ProbeSet(train)
    run = trainer(*callbacks, max_epochs=2, **settings)
    run.fit(model, train, val)
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


@pytest.mark.parametrize("stages", ["val", "train"])
@pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled")
def test_training_is_bitwise_untouched(stages: str) -> None:
    given = {"clean": clean(), "ood": ProbeSet(other(), labelled=False)}
    monitor = strict(signals=["feature_std"], stages=stages, probe_sets=given)
    assert torch.equal(weights(), weights(monitor))
    rows = {(r.stage, r.values["n_samples"]) for r in monitor.history}
    sets = {("clean", 256), ("ood", 150), ("drawn", 100), ("train_again", 256)}
    assert rows == sets | {("val", 200) if stages == "val" else ("train", 256)}


def test_modes_are_restored_module_by_module_inside_training() -> None:
    model = Normed()

    class Looks(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.modes = {name: module.training for name, module in pl_module.named_modules()}

    looks = Looks()
    model.net[1].eval()
    monitor = strict(signals=["feature_std"], stages="train", probe_sets={"clean": clean()})
    trainer(monitor, looks, max_epochs=1).fit(model, loaders()[0])
    assert [r.stage for r in monitor.history] == ["train", "clean"]
    assert [name for name, training in looks.modes.items() if not training] == ["net.1"]


def test_so_often_as_each_says_and_when_the_trainer_validates() -> None:
    monitor = strict(
        signals=["feature_std"], probe_sets={"a": ProbeSet(clean(64), every_n_epochs=2), "b": ProbeSet(clean(64))}
    )
    run = trainer(monitor, max_epochs=4, check_val_every_n_epoch=1)
    run.fit(Classifier(), *loaders())
    assert [r.stage for r in monitor.history] == ["val", "b", "val", "a", "b"] * 2
    run.validate(Classifier(), loaders()[1], verbose=False)
    assert [r.stage for r in monitor.history][-3:] == ["val", "a", "b"]


class Fails:
    """A loader whose second reading ends with an error in its second batch."""

    def __init__(self, fails_at: int) -> None:
        self.reads, self.fails_at = 0, fails_at

    def __iter__(self) -> Any:
        self.reads += 1
        for index, batch in enumerate(clean()):
            if self.reads == self.fails_at and index == 1:
                raise OSError("the disk is gone")
            yield batch


def test_a_loader_that_raises_in_training_costs_its_window_and_nothing_else() -> None:
    monitor = FeatureGeometryMonitor(signals=["feature_std"], probe_sets={"far": Fails(fails_at=3)})
    with pytest.warns(
        FeatureGeometryWarning, match="has no value: the loader of the probe set 'far' failed with OSError"
    ):
        trainer(monitor, max_epochs=3).fit(Classifier(), *loaders())  # read once before training
    gaps = [r.gaps.get("feature_std") for r in monitor.history if r.stage == "far"]
    assert [gap is None for gap in gaps] == [True, False, True]
    assert "the disk is gone" in str(gaps[1])
    assert all("feature_std" in r.values for r in monitor.history if r.stage == "val")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"far": Fails(fails_at=99)}, None),
        ({"odd": [torch.zeros(4, 7)]}, r"mat1 and mat2.*probe_sets=\{'odd': ProbeSet\(loader, forward=lambda"),
        ({"odd": ProbeSet([torch.zeros(4, 7)], forward=lambda m, b: m.nothing(b))}, "no attribute 'nothing'"),
    ],
)
def test_what_cannot_be_run_ends_the_fit_before_training(given: Any, says: str | None) -> None:
    model = Classifier()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run = trainer(FeatureGeometryMonitor(signals=["feature_std"], probe_sets=given), max_epochs=1)
    if says is None:
        return run.fit(model, *loaders())
    with pytest.raises(ConfigurationError, match=says):
        run.fit(model, *loaders())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"probe_sets": {"val": clean()}}, "called 'val', and so are other windows"),
        ({"probe_sets": {"train": clean()}}, "called 'train'"),
        ({"probe_sets": {"x": clean()}, "loader_names": ("x", "y")}, "called 'x'"),
        ({"probe_sets": {"a b": clean(), "a_b": clean()}}, "both be logged as 'a_b'"),
        ({"probe_sets": {"a": clean()}, "features": "h"}, "run no step: name the module with layer="),
        ({"probe_sets": {"a": ProbeSet(clean(), every_n_epochs=2)}, "reference": "a"}, "leave out its every_n_epochs="),
        ({"probe_sets": {"a": clean()}, "reference": "b"}, 'neither "train" nor a loader'),
        ({"probe_sets": {"a": iter(clean())}}, "an iterator, which is empty after the first window"),
        (
            {"neighbors": Neighbors(reference_rows="all"), "reference": "train"},
            r"paste probe_sets=\{'clean_train': loader\}, reference='clean_train\'",
        ),
        (
            {"neighbors": Neighbors(reference_rows="all")},
            'paste FeatureGeometryMonitor.probe_sets={"clean_train": loader}',
        ),
        ({"probe_sets": {"a": 5}}, "give a DataLoader, or a list of batches"),
    ],
)
def test_wrong_settings_are_refused_when_the_monitor_is_built(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        FeatureGeometryMonitor(**given)


def test_a_checkpoint_ranks_by_a_probe_set_and_a_resumed_fit_goes_on(tmp_path: Path) -> None:
    def fresh() -> FeatureGeometryMonitor:
        return strict(signals=["feature_std", "neighbor_churn"], probe_sets={"clean": clean()})

    best = ModelCheckpoint(tmp_path, monitor="featgeo/clean/feature_std", mode="max", save_last=True)
    trainer(fresh(), best, max_epochs=2, enable_checkpointing=True).fit(Classifier(), *loaders())
    again = fresh()
    run = trainer(again, max_epochs=3)
    run.fit(Classifier(), *loaders(), ckpt_path=tmp_path / "last.ckpt", **WHOLE)
    assert [r.stage for r in again.history] == ["val", "clean"] * 3
    assert ["neighbor_churn" in r.values for r in again.history] == [False, False, True, True, True, True]


@pytest.mark.skipif(
    not hasattr(pl.callbacks, "EMAWeightAveraging"),
    reason="averaged weights came with Lightning 2.6, and this one is older",
)
def test_averaged_weights_are_those_of_validation_too_or_the_order_is_refused() -> None:
    def fit(*order: str) -> FeatureGeometryMonitor:
        _, val = loaders()
        monitor = strict(signals=["feature_std"], probe_sets={"again": val})
        made = {"monitor": monitor, "average": pl.callbacks.EMAWeightAveraging(decay=0.5)}
        trainer(*(made[name] for name in order), max_epochs=2).fit(Classifier(), *loaders())
        return monitor

    records = fit("monitor", "average").history.records
    assert [r.stage for r in records] == ["val", "again"] * 2
    assert records[2].values == records[3].values
    with pytest.raises(ConfigurationError, match="Put the monitor first"):
        fit("average", "monitor")


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        x, y = digits()
        return zip(x[:100] / 16, y[:100], strict=True)


def test_an_iterable_data_set_and_a_list_of_batches_are_probe_sets() -> None:
    x, y = digits()
    sets = {"stream": DataLoader(Stream(), 32), "list": [(x[:100] / 16, y[:100])]}
    monitor = strict(signals=["feature_std"], probe_sets=sets)
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    stream, listed = monitor.history.records[1:]
    assert stream.values == pytest.approx(listed.values, rel=1e-6)
    assert stream.values["n_samples"] == 100
