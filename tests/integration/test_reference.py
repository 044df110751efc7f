"""The monitor with a reference, with views, with regression targets and with groups, in real runs."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric, Neighbors, Windows
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning
from lightning_featgeo.metrics.catalog import resolve
from lightning_featgeo.metrics.functional.outliers import OOD_K
from tests._helpers.data import digits
from tests._helpers.models import Classifier, Frozen, loaders, trainer

FIDELITY = ("fidelity", "knn_ood_score", "knn_ood_auroc")


def features_of(model: Classifier, loader: DataLoader) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        parts = [(model.net[:-1](x), y) for x, y in loader]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def test_validation_against_training_in_the_same_epoch() -> None:
    model, (train, val) = Frozen(), loaders()
    monitor = FeatureGeometryMonitor(signals=[*FIDELITY, "effective_rank"], reference="train", on_error="raise")
    run = trainer(monitor)
    run.fit(model, train, val)
    reference, window = (GeometryMetric([*FIDELITY, "effective_rank"]) for _ in range(2))
    reference.update(features_of(model, train)[0])
    window.update(features_of(model, val)[0])
    expected = window.window(reference=reference).values
    assert [record.stage for record in monitor.history] == ["val", "val"]
    for record in monitor.history:
        assert record.reference == "train"
        assert record.values == pytest.approx(expected, rel=1e-5)
    assert not [name for name in run.callback_metrics if "/train/" in name]


def test_training_windows_are_logged_too_if_asked_and_never_compared_with_themselves() -> None:
    monitor = FeatureGeometryMonitor(
        signals=["frechet_distance", "id_two_nn", "neighbor_churn"],
        reference="train",
        stages=("train", "val"),
        on_error="raise",
    )
    trainer(monitor).fit(Frozen(), *loaders())
    by_stage = {stage: [r for r in monitor.history if r.stage == stage] for stage in ("train", "val")}
    assert [set(r.values) for r in by_stage["train"]] == [{"id_two_nn", "n_samples"}] * 2
    assert [r.reference for r in by_stage["train"]] == [None, None]
    assert set(by_stage["val"][0].values) == {"frechet_distance", "id_two_nn", "n_samples"}
    assert by_stage["val"][1].values["neighbor_churn"] == 0  # the weights never moved


def test_knn_accuracy_votes_from_a_named_loader() -> None:
    model, (train, val) = Classifier(), loaders(shuffle=False)
    monitor = FeatureGeometryMonitor(
        signals=["knn_accuracy"],
        loader_names=("val", "train_clean"),
        reference="train_clean",
        neighbors=Neighbors(knn_k=30),
        on_error="raise",
    )
    run = trainer(monitor)
    run.fit(model, train, [val, train])
    (a, y), (b, z) = (features_of(model, loader) for loader in (train, val))
    a, b = (nn.functional.normalize(v.double(), dim=1).numpy() for v in (a, b))
    vote = KNeighborsClassifier(30, algorithm="brute", weights=lambda r: np.exp((1 - r**2 / 2) / 0.07))
    expected = vote.fit(a, y).score(b, z)
    assert float(run.callback_metrics["featgeo/val/knn_accuracy"]) == pytest.approx(expected)
    own = GeometryMetric(["knn_accuracy"], num_classes=10, neighbors=Neighbors(knn_k=30))
    own.update(torch.tensor(a), y)
    leave_one_out = own.window().values["knn_accuracy"]
    assert float(run.callback_metrics["featgeo/train_clean/knn_accuracy"]) == pytest.approx(leave_one_out)


def test_a_reference_that_has_not_run_is_a_gap_with_that_reason() -> None:
    monitor = FeatureGeometryMonitor(signals=["kernel_mmd", "effective_rank"], reference="train", head="net.3")
    with pytest.warns(FeatureGeometryWarning, match="the reference 'train' has not run"):
        trainer(monitor).validate(Classifier(), loaders()[1], verbose=False)
    assert set(monitor.history.records[0].values) == {"effective_rank", "n_samples"}


def test_too_few_reference_rows_are_a_gap_too() -> None:
    monitor = FeatureGeometryMonitor(signals=["knn_ood_score"], reference="train")
    with pytest.warns(FeatureGeometryWarning, match=f"needs more than {OOD_K} rows in the reference's bank, got 40"):
        trainer(monitor, max_epochs=1).fit(Frozen(), *loaders(train=40))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"signals": ["kernel_mmd", "effective_rank"]}, 'kernel_mmd compare a window .*reference="train"'),
        ({"signals": "fidelity"}, "fidelity_precision, .* compare a window"),
        ({"reference": "train_clena", "loader_names": ("val", "train_clean")}, "Did you mean 'train_clean'"),
    ],
)
def test_wrong_references_are_errors_at_once(arguments: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        FeatureGeometryMonitor(**arguments)


def test_auto_with_a_reference_votes_from_it() -> None:
    monitor = FeatureGeometryMonitor(reference="train", on_error="raise")
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    assert "knn_accuracy" in monitor.history.records[0].values


class TwoViews(Classifier):
    """Every step sees two noisy views of its images, in two calls."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.net(batch[0])
        self.net(batch[0] + 0.1)


def test_views_are_caught_and_fed_to_alignment_and_lidar() -> None:
    model, (train, val) = TwoViews(), loaders()
    monitor = FeatureGeometryMonitor(signals=["alignment", "lidar", "n_samples"], head="net.3", on_error="raise")
    trainer(monitor, max_epochs=1).fit(model, train, val)
    metric = GeometryMetric(["alignment", "lidar", "n_samples"])
    x = torch.cat([batch[0] for batch in val])
    model.eval()
    with torch.no_grad():
        for view, images in enumerate((x, x + 0.1)):
            metric.update(model.net[:-1](images), sample_index=torch.arange(len(x)), view=view)
    assert monitor.history.records[-1].values == pytest.approx(metric.window().values, rel=1e-4)


class Regressor(pl.LightningModule):
    """Two numbers from 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return mse_loss(self.net(batch["x"]), batch["y"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch["x"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Named(torch.utils.data.Dataset):
    def __init__(self) -> None:
        x, y = digits()
        self.x, self.labels = x[:300] / 16, y[:300]
        self.y = torch.stack([self.x.mean(1) * 10, self.x.std(1) * 10], dim=1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "y": self.y[i], "digit": self.labels[i]}


def test_floating_point_labels_are_regression_targets() -> None:
    monitor = FeatureGeometryMonitor(signals="regression", on_error="raise")
    trainer(monitor, max_epochs=1).fit(Regressor(), DataLoader(Named(), 50), DataLoader(Named(), 50))
    values = monitor.history.records[-1].values
    assert set(values) == {*resolve("regression"), "n_samples"}
    assert 0 < values["nrc1"] < 1


def test_class_signals_of_a_regression_say_what_is_missing() -> None:
    monitor = FeatureGeometryMonitor(signals=["nc1"], labels="y")
    with pytest.raises(ConfigurationError, match="nc1 needs class labels and the batch has none"):
        trainer(monitor, max_epochs=1).fit(Regressor(), DataLoader(Named(), 50), DataLoader(Named(), 50))


def test_groups_are_read_from_the_batch() -> None:
    x, y = digits()
    scanner = torch.arange(len(y)) % 3
    data = DataLoader(TensorDataset(x[:300] / 16, y[:300], scanner[:300]), 60)
    monitor = FeatureGeometryMonitor(signals=["robustness_index"], labels=1, groups=2, on_error="raise")
    trainer(monitor, max_epochs=1).fit(Classifier(), data, data)
    assert monitor.history.records[-1].values["robustness_index"] > 1
    with pytest.raises(ConfigurationError, match="groups=5: the batch has 3 parts, from 0 to 2"):
        trainer(FeatureGeometryMonitor(groups=5), max_epochs=1).fit(Classifier(), data, data)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"reference": "vall"}, "neither .train. nor a loader. Did you mean 'val'"),
        ({"reference": "train", "loader_names": ("val", "train")}, "a loader is called"),
        ({"reference": "train", "stages": ("train",)}, 'has only "train"'),
        ({"reference": "train", "stages": ("train", "val"), "windows": Windows(every_n_train_steps=5)}, "whole epochs"),
        ({"signals": ["robustness_index"]}, "needs the group of each row"),
    ],
)
def test_references_that_can_not_work_are_errors_at_once(arguments: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        FeatureGeometryMonitor(**arguments)


def test_a_reference_may_be_named_as_the_loader_was() -> None:
    train, val = loaders(shuffle=False)
    monitor = FeatureGeometryMonitor(
        signals=["fidelity_coverage"],
        loader_names=("val", "Train clean"),
        reference="Train clean",
        head="net.3",
        on_error="raise",
    )
    trainer(monitor, max_epochs=1).fit(Classifier(), train, [val, train])
    assert [set(r.values) for r in monitor.history] == [{"fidelity_coverage", "n_samples"}, {"n_samples"}]


def test_the_vote_is_a_gap_where_its_reference_has_not_run() -> None:
    monitor = FeatureGeometryMonitor(signals=["knn_accuracy"], reference="train", head="net.3")
    with pytest.warns(FeatureGeometryWarning, match="knn_accuracy has no value: the reference 'train' has not run"):
        trainer(monitor).validate(Classifier(), loaders()[1], verbose=False)


def test_the_line_and_the_counts_speak_of_what_is_logged() -> None:
    monitor = FeatureGeometryMonitor(signals=["kernel_mmd", "id_two_nn"], reference="train", on_error="raise")
    run = trainer(monitor, max_epochs=1)
    run.fit(Classifier(), *loaders())
    line = monitor.history.run["described"]
    assert "signals: kernel_mmd, id_two_nn\n" in line
    assert "for the reference" in line
    assert "compared with 'train'" in line
    assert monitor.history.records[0].counts["reference"] == 256
    assert float(run.callback_metrics["featgeo_monitor/val/n_reference"]) == 256


def test_two_calls_are_not_two_stacked_views() -> None:
    monitor = FeatureGeometryMonitor(signals=["alignment"], head="net.3", views=2)
    with pytest.raises(ConfigurationError, match="views=2 says that a call stacks 2 views"):
        trainer(monitor, max_epochs=1).fit(TwoViews(), *loaders())


def test_missing_targets_are_told_before_training() -> None:
    model = Classifier()
    with pytest.raises(ConfigurationError, match="nrc1 needs regression targets and the batch has none"):
        trainer(FeatureGeometryMonitor(signals=["nrc1"]), num_sanity_val_steps=1).fit(model, *loaders())
    assert model.global_step == 0
