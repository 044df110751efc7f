"""Real wandb, offline; what it wrote is read back from the run file."""

from pathlib import Path

import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from models import Classifier, loaders, trainer
from wandb_file import read

from lightning_featgeo import FeatureGeometryMonitor, GeometryEarlyStopping, Threshold
from lightning_featgeo.sinks.tables import MAX_LINES, thin


@pytest.fixture
def run_files(tmp_path: Path):
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    monitor = FeatureGeometryMonitor(stages=("train", "val"), on_error="raise")
    stop = GeometryEarlyStopping("featgeo/val/feature_std", Threshold(below=9.0), patience=3)
    trainer(monitor, stop, max_epochs=5, logger=logger).fit(Classifier(), *loaders())
    wandb.finish()
    return monitor, stop, *read(tmp_path)


def test_what_the_run_file_holds(run_files) -> None:
    monitor, stop, metrics, rows, summary = run_files
    for stage in ("train", "val"):
        for signal in monitor.history.run["signals"]:
            assert metrics[f"featgeo/{stage}/{signal}"]["step"] == "featgeo/epoch"
    assert metrics["featgeo/val/feature_std"]["summary"] == {"last", "max"}
    assert metrics["featgeo/val/nc1"]["summary"] == {"last", "min"}
    assert metrics["featgeo/val/id_two_nn"]["summary"] == {"last"}

    for stage in ("train", "val"):  # each curve carries its own, strictly increasing epoch in the same row
        own = [r for r in rows if f"featgeo/{stage}/nc1" in r]
        assert [r["featgeo/epoch"] for r in own] == [1.0, 2.0, 3.0]
        values = [v for _, v in monitor.history.series(f"featgeo/{stage}/nc1")]
        assert [r[f"featgeo/{stage}/nc1"] for r in own] == pytest.approx(values, rel=1e-6)

    curves = [r for r in rows if "featgeo_curves/val/log_density._type" in r]
    assert [r["featgeo/epoch"] for r in curves] == [1.0, 2.0, 3.0]
    for name in ("log_density", "local_dimension"):
        assert curves[0][f"featgeo_curves/val/{name}._type"] == "histogram"
        assert sum(curves[0][f"featgeo_curves/val/{name}.values"]) == 200
    # one line a window so far, one point an eigenvalue
    assert [r["featgeo_curves/val/spectrum_table.nrows"] for r in curves] == [48, 96, 144]
    assert summary["featgeo/val/feature_std"]["last"] == pytest.approx(
        monitor.history.records[-2].values["feature_std"]
    )
    assert summary["featgeo_stop_reason"] == stop.alarms[0].line


def test_windows_inside_an_epoch_have_increasing_epochs(tmp_path: Path) -> None:
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    monitor = FeatureGeometryMonitor(stages="train", every_n_train_steps=2, signals=["feature_std"], on_error="raise")
    trainer(monitor, max_epochs=2, logger=logger).fit(Classifier(), *loaders())
    wandb.finish()
    _, rows, _ = read(tmp_path)
    own = [r["featgeo/epoch"] for r in rows if "featgeo/train/feature_std" in r]
    assert own == [0.5, 1.0, 1.5, 2.0]


def test_the_spectrum_chart_stays_readable() -> None:
    spectra = [(float(i), [[1.0, 2.0]]) for i in range(40)]
    shown = thin(spectra)
    assert len(shown) == MAX_LINES
    assert (shown[0], shown[-1]) == (spectra[0], spectra[-1])
    assert thin(spectra[:5]) == spectra[:5]
    marked = thin(spectra, {17.0})
    assert spectra[17] in marked
    assert spectra[17] not in shown
    assert len(marked) <= MAX_LINES


def test_a_logger_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ConnectionError("server is gone")

    monkeypatch.setattr("lightning_featgeo.sinks.WandbSink.lines", broken)
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    monitor = FeatureGeometryMonitor()
    run = trainer(monitor, max_epochs=2, logger=logger)
    with pytest.warns(UserWarning, match="server is gone"):
        run.fit(Classifier(), *loaders())
    wandb.finish()
    assert run.current_epoch == 2
    assert torch.isfinite(run.callback_metrics["featgeo/val/nc1"])
