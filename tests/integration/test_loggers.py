"""TensorBoard, CSV, MLflow and Trackio, the real packages: all get every scalar, and what each can show beyond that."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from lightning_featgeo import Display, FeatureGeometryMonitor, GeometryEarlyStopping, Threshold
from lightning_featgeo.adapters.trackio import TrackioLogger
from lightning_featgeo.errors import FeatureGeometryWarning
from tests._helpers.models import Classifier, loaders, trainer

NAMES = [f"digit {i}" for i in range(10)]
PICTURES = {f"featgeo_curves/val/{name}" for name in ("spectrum", "class_cosines", "layout", "depth_feature_std")}
TABLES = {f"featgeo_tables/val/{n}_{when}" for n in ("classes", "lowest_density") for when in ("best", "last")}
HISTOGRAMS = {"featgeo_curves/val/log_density", "featgeo_curves/val/local_dimension"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run with all loggers: three windows, a stop, two layers."""
    pytest.importorskip("trackio", reason="needs the loggers: pip install -e '.[loggers]'")
    folder = tmp_path_factory.mktemp("loggers")
    monitor = FeatureGeometryMonitor(
        layer=["net.0", "net.2"],
        display=Display(class_names=NAMES, embedding_rows=40),
        num_classes=10,
        on_error="raise",
    )
    stop = GeometryEarlyStopping("featgeo/val/feature_std", Threshold(below=9.0), patience=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store that needs no data base
        patch.chdir(folder)
        loggers = [
            TensorBoardLogger(folder / "tensorboard"),
            CSVLogger(folder / "csv"),
            MLFlowLogger("experiment", tracking_uri=f"file:{folder}/mlflow"),
            TrackioLogger("project", "run"),
        ]
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10))
        trainer(monitor, stop, max_epochs=5, logger=loggers).fit(Classifier(net), *loaders())
        yield folder, monitor, stop, loggers


def values(monitor: FeatureGeometryMonitor) -> dict[str, list[float]]:
    """What every logger must have."""
    names = [f"featgeo/val/{signal}" for signal in monitor.history.run["signals"]]
    return {name: [value for _, value in monitor.history.series(name)] for name in names}


def test_csv_has_every_scalar(logged: Any) -> None:
    folder, monitor, _, _ = logged
    (path,) = folder.glob("csv/**/metrics.csv")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["featgeo/epoch"]]
    assert [float(row["featgeo/epoch"]) for row in rows] == [1.0, 2.0, 3.0]
    for name, expected in values(monitor).items():
        assert [float(row[name]) for row in rows] == pytest.approx(expected)
        assert len(expected) == 3
    assert {"featgeo/val/net_2/feature_std", "featgeo_monitor/val/seconds"} <= rows[0].keys()


def test_tensorboard_has_scalars_histograms_pictures_tables_and_the_projector(logged: Any) -> None:
    folder, monitor, stop, _ = logged
    (events,) = folder.glob("tensorboard/**/events.*")
    read = EventAccumulator(str(events.parent), size_guidance={"histograms": 0, "images": 0, "tensors": 0})
    read.Reload()
    for name, expected in values(monitor).items():
        assert [event.value for event in read.Scalars(name)] == pytest.approx(expected, rel=1e-6)
    tags = read.Tags()
    assert set(tags["histograms"]) >= HISTOGRAMS
    assert [h.histogram_value.num for h in read.Histograms("featgeo_curves/val/log_density")] == [200, 200, 200]
    assert set(tags["images"]) >= PICTURES
    sizes = {(image.width, image.height) for image in read.Images("featgeo_curves/val/spectrum")}
    assert sizes == {(640, 400)}
    text = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    assert text >= TABLES | {"featgeo/run", "featgeo/stop_reason"}
    table = read.Tensors("featgeo_tables/val/classes_last/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| class | index | rows |" in table
    assert "digit 3" in table
    reason = read.Tensors("featgeo/stop_reason/text_summary")[0].tensor_proto.string_val[0].decode()
    assert reason == stop.alarms[0].line
    rows = next(folder.glob("tensorboard/**/featgeo_tables_val_embedding_last/tensors.tsv")).read_text().splitlines()
    assert len(rows) == 40
    assert len(rows[0].split("\t")) == 32


def test_mlflow_has_scalars_pictures_tables_and_words(logged: Any) -> None:
    _, monitor, stop, loggers = logged
    client, run = loggers[2].experiment, loggers[2].run_id
    for name, expected in values(monitor).items():
        assert [metric.value for metric in client.get_metric_history(run, name)] == pytest.approx(expected)
    pictures = {p: len(client.list_artifacts(run, p)) for p in PICTURES}
    assert set(pictures.values()) == {3}  # windows 1, 2 and the last
    tables = {artifact.path.removesuffix(".md") for artifact in client.list_artifacts(run, "featgeo_tables/val")}
    assert tables >= TABLES
    tags = client.get_run(run).data.tags
    files = {Path(artifact.path).suffix for artifact in client.list_artifacts(run, "featgeo")}
    assert files == {".jsonl", ".html"}  # the history, and a report
    assert tags["featgeo_stop_reason"] == stop.alarms[0].line
    assert tags["featgeo.of.layer"] == "net.0"
    assert tags["featgeo.fingerprint"] == monitor.history.run["fingerprint"]


def test_trackio_has_scalars_histograms_pictures_tables_and_alerts(logged: Any) -> None:
    import trackio

    _, monitor, stop, _ = logged
    logs = trackio.SQLiteStorage.get_logs("project", "run")
    for name, expected in values(monitor).items():
        assert [log[name] for log in logs if name in log] == pytest.approx(expected)
    kinds = {name: value["_type"] for log in logs for name, value in log.items() if isinstance(value, dict)}
    assert {name for name, kind in kinds.items() if kind == "trackio.histogram"} >= HISTOGRAMS
    assert {name for name, kind in kinds.items() if kind == "trackio.image"} >= PICTURES
    assert {name for name, kind in kinds.items() if kind == "trackio.table"} >= TABLES
    (alert,) = trackio.Api().alerts("project")
    assert alert["text"] == stop.alarms[0].report


def test_without_matplotlib_pictures_are_left_out_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightning_featgeo.sinks.pictures.can_draw", lambda: False)
    monitor = FeatureGeometryMonitor(on_error="raise")
    logger = TensorBoardLogger(tmp_path)
    trainer(monitor, logger=logger).fit(Classifier(), *loaders())
    assert "pictures in TensorBoardLogger need matplotlib: pip install matplotlib" in capsys.readouterr().err


def test_a_logger_whose_pictures_fail_costs_only_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_histogram", broken)
    run = trainer(FeatureGeometryMonitor(), logger=TensorBoardLogger(tmp_path))
    with pytest.warns(UserWarning, match=r"sending histograms to TensorBoardLogger failed with OSError: disk is full"):
        run.fit(Classifier(), *loaders())
    assert torch.isfinite(run.callback_metrics["featgeo/val/nc1"])
    assert list(tmp_path.glob("**/events.*"))


def test_trackio_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio", reason="needs the loggers: pip install -e '.[loggers]'")
    run = trainer(FeatureGeometryMonitor(stages=("val", "test")), max_epochs=1, logger=TrackioLogger("goes_on"))
    run.fit(Classifier(), *loaders())
    run.test(Classifier(), loaders()[1], verbose=False)
    (name,) = trackio.SQLiteStorage.get_runs("goes_on")
    logged = {key for row in trackio.SQLiteStorage.get_logs("goes_on", name) for key in row}
    assert {"featgeo/val/nc1", "featgeo/test/nc1", "featgeo/run"} <= logged


def test_rows_that_nobody_keeps_are_not_promised(tmp_path: Path) -> None:
    monitor = FeatureGeometryMonitor(signals=["feature_std"], display=Display(embedding_rows=20))
    with pytest.warns(FeatureGeometryWarning, match="embedding_rows=20: no chosen signal looks for neighbours"):
        trainer(monitor, logger=TensorBoardLogger(tmp_path)).fit(Classifier(), *loaders())


def test_samples_have_positions_only_where_the_loader_reads_in_order(tmp_path: Path) -> None:
    plain, val = loaders()
    backwards = DataLoader(val.dataset, 64, sampler=[*range(len(val.dataset))][::-1])
    in_batches = DataLoader(val.dataset, batch_sampler=[[*range(i, i + 20)][::-1] for i in range(0, 200, 20)])
    for number, (loader, column) in enumerate(
        ((val, "position in the data set"), (backwards, "order of arrival"), (in_batches, "order of arrival"))
    ):
        folder = tmp_path / str(number)
        trainer(FeatureGeometryMonitor(), max_epochs=1, logger=TensorBoardLogger(folder)).fit(
            Classifier(), plain, loader
        )
        (events,) = folder.glob("**/events.*")
        read = EventAccumulator(str(events.parent), size_guidance={"tensors": 0})
        read.Reload()
        table = read.Tensors("featgeo_tables/val/lowest_density_last/text_summary")[-1].tensor_proto.string_val[0]
        assert f"| rank | {column} |" in table.decode()
