"""What goes wrong in a run is one warning and a gap; the run, the other signals and the other sinks go on."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import (
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    Windows,
)
from tests._helpers.data import digits
from tests._helpers.models import Classifier, loaders, strict, trainer


class Breaks(Classifier):
    """Its features change dimension, or turn into NaN, in the second epoch's validation."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        h = self.net[:-1](batch[0])
        if self.current_epoch == 1 and self.how == "dimension" and batch_idx == 1:
            h = h[:, :7]
        if self.current_epoch == 1 and self.how == "nan":
            h = h * torch.nan
        if self.current_epoch == 1 and self.how == "some nan":
            h = torch.where(torch.arange(len(h))[:, None] == 3, torch.nan, h)
        return {"h": h}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("dimension", "48 dimensions in the first batch and have 7"),
        ("nan", "every row was left out"),
        ("some nan", "4 rows"),
    ],
)
def test_an_error_of_ours_is_one_warning_and_a_gap_and_the_next_window_is_whole(how: str, says: str) -> None:
    monitor = FeatureGeometryMonitor(features="h", signals=["effective_rank", "id_two_nn"])
    run = trainer(monitor, max_epochs=3)
    with pytest.warns(FeatureGeometryWarning) as caught:
        run.fit(Breaks(how), *loaders())
    ours = [str(w.message) for w in caught if issubclass(w.category, FeatureGeometryWarning)]
    assert any(says in text for text in ours)
    assert len(ours) <= 2
    first, second, third = monitor.history.records
    assert "effective_rank" in first.values
    assert "effective_rank" in third.values
    if how != "some nan":
        assert set(second.gaps) == {"effective_rank", "id_two_nn"}


def test_a_failing_signal_never_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(self, *args):
        raise MemoryError("no room")

    monkeypatch.setattr("lightning_featgeo.metrics.geometry.GeometryMetric.window", boom)
    monitor = FeatureGeometryMonitor(signals=["feature_std"])
    run = trainer(monitor, max_epochs=2)
    with pytest.warns(FeatureGeometryWarning, match="MemoryError: no room"):
        run.fit(Classifier(), *loaders())
    assert run.current_epoch == 2
    assert [r.gaps["feature_std"].split()[0] for r in monitor.history] == ["computing", "computing"]
    assert not [name for name in run.callback_metrics if name.startswith("featgeo/val")]


def test_labels_out_of_range_and_ignored_ones() -> None:
    x, y = digits()
    odd = DataLoader(TensorDataset(x[:200] / 16, torch.where(y[:200] == 3, -100, y[:200])), 50)
    monitor = strict(signals=["nc1", "n_samples"])

    class Quiet(Classifier):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self(batch[0])

    trainer(monitor, max_epochs=1).fit(Quiet(), loaders()[0], odd)
    assert monitor.history.records[0].values["n_samples"] == 200
    wrong = DataLoader(TensorDataset(x[:200] / 16, y[:200] + 5), 50)
    gap = FeatureGeometryMonitor(signals=["nc1"])
    with pytest.warns(FeatureGeometryWarning, match="not below num_classes=10"):
        trainer(gap, max_epochs=1).fit(Quiet(), loaders()[0], wrong)


@pytest.mark.parametrize("broken", ["history", "logger"])
def test_one_broken_sink_leaves_the_others_alone(broken: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = [CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")]
    monitor = FeatureGeometryMonitor(stages="train", windows=Windows(every_n_train_steps=2), signals=["feature_std"])
    run = trainer(monitor, max_epochs=1, logger=loggers)
    if broken == "history":
        (tmp_path / "a" / "version_0").mkdir(parents=True)
        (tmp_path / "a" / "version_0" / "featgeo").write_text("in the way")
        loggers[0]._version = 0
        says = "can't be written"
    else:
        says = "logging to CSVLogger failed with OSError: disk is full"
        original = loggers[0].log_metrics

        def log_metrics(metrics, step=None):
            if any(name.startswith("featgeo/") for name in metrics):
                raise OSError("disk is full")
            original(metrics, step)

        monkeypatch.setattr(loggers[0], "log_metrics", log_metrics)
    with pytest.warns(FeatureGeometryWarning, match=says):
        run.fit(Classifier(), *loaders())
    assert len(monitor.history) == 2
    assert "featgeo/train/feature_std" in run.callback_metrics
    assert "featgeo/train/feature_std" in (tmp_path / "b" / "version_0" / "metrics.csv").read_text()
