"""Real wandb, offline; what it wrote is read back from the run file."""

from pathlib import Path

import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from lightning_featgeo import Display, FeatureGeometryMonitor, GeometryEarlyStopping, History, Threshold, Windows
from lightning_featgeo.sinks.tables import MAX_LINES, thin
from tests._helpers.models import Classifier, loaders, trainer
from tests._helpers.wandb_file import alerts, config, read, table

WORDS = {"last": "the last window", "best": "the window with the best knn_accuracy"}
NAMES = [f"digit {i}" for i in range(10)]


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory):
    """Two stages, two layers, nine signals, a stop; and everything that can be shown."""
    folder = tmp_path_factory.mktemp("wandb")
    logger = WandbLogger(project="test", offline=True, save_dir=folder)
    monitor = FeatureGeometryMonitor(
        layer=["net.0", "net.2"], signals=["classifier", "hubness"], stages=("train", "val"), num_classes=10,
        display=Display(
            class_names=NAMES, id_key=lambda batch: [f"image of a {int(y)}" for y in batch[1]], embedding_rows=40
        ),
        on_error="raise",
    )  # fmt: skip
    stop = GeometryEarlyStopping("featgeo/val/feature_std", Threshold(below=9.0), patience=3)
    net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 10))
    trainer(monitor, stop, max_epochs=5, logger=logger).fit(Classifier(net), *loaders())
    wandb.finish()
    return folder, monitor, stop, *read(folder)


def test_curves_have_an_epoch_axis_and_a_summary(run_files) -> None:
    _, monitor, stop, metrics, rows, summary = run_files
    for stage in ("train", "val"):
        for signal in monitor.history.run["signals"]:
            assert metrics[f"featgeo/{stage}/{signal}"]["step"] == "featgeo/epoch"
    for name, best in {"featgeo/val/feature_std": max, "featgeo/val/nc1": min}.items():  # as sweeps read them
        series = monitor.history.series(name)
        assert summary[name] == pytest.approx(series[-1][1])
        value = best(value for _, value in series)
        assert summary[f"{name}/best"] == pytest.approx(value)
        assert summary[f"{name}/best_epoch"] == {v: e for e, v in series}[value]
    assert "featgeo/val/id_two_nn/best" not in summary  # no way is better

    for stage in ("train", "val"):  # each curve carries its own, strictly increasing epoch in the same row
        own = [r for r in rows if f"featgeo/{stage}/nc1" in r]
        assert [r["featgeo/epoch"] for r in own] == [1.0, 2.0, 3.0]
        values = [v for _, v in monitor.history.series(f"featgeo/{stage}/nc1")]
        assert [r[f"featgeo/{stage}/nc1"] for r in own] == pytest.approx(values, rel=1e-6)
    epochs = [r["featgeo/epoch"] for r in rows if "featgeo/epoch" in r]
    assert epochs == sorted(epochs)  # the axis never runs backwards, whatever is sent when
    (last,) = [r for r in monitor.history if (r.stage, r.layer, r.epoch) == ("val", None, 3.0)]
    assert summary["featgeo/val/feature_std"] == pytest.approx(last.values["feature_std"])
    assert summary["featgeo_stop_reason"] == stop.alarms[0].line


def test_a_run_has_at_most_twenty_panels(run_files) -> None:
    """W&B makes a panel of every name that is not hidden; everything before the last slash is its section."""
    _, monitor, _, metrics, _, _ = run_files
    sections: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        if not metric["hidden"] and name.startswith("featgeo"):
            section, _, panel = name.rpartition("/")
            sections.setdefault(section, []).append(panel)
    signals = monitor.history.run["signals"]
    curves = {"featgeo/val": signals[:8], "featgeo/train": signals[:4]}  # validation closes first
    media = {
        "featgeo_curves/val": ["log_density", "spectrum", "class_cosines", "depth_feature_std"],
        "featgeo_tables/val": ["classes_last", "lowest_density_last"],
    }
    assert sections == curves | media
    assert monitor.history.run["signals"][8:] == ["hubness"]
    assert metrics["featgeo/val/hubness"]["hidden"]  # logged, and one click away
    assert metrics["featgeo/val/alarm"]["hidden"]
    assert metrics["featgeo_monitor/val/seconds"]["hidden"]
    assert metrics["featgeo/epoch"]["hidden"]


def test_histograms_spectra_and_layers_over_time(run_files) -> None:
    folder, monitor, _, metrics, rows, summary = run_files
    curves = [r for r in rows if "featgeo_curves/val/log_density._type" in r]
    assert [r["featgeo/epoch"] for r in curves] == [1.0, 2.0, 3.0]
    for name in ("log_density", "local_dimension"):
        assert curves[0][f"featgeo_curves/val/{name}._type"] == "histogram"
        assert sum(curves[0][f"featgeo_curves/val/{name}.values"]) == 200
    spectra = table(folder, summary, "featgeo_curves/val/spectrum_table")  # a line a window, the alarm's marked
    lines = {key: [(x, y) for x, k, y in spectra["data"] if k == key] for _, key, _ in spectra["data"]}
    assert list(lines) == ["epoch 1", "epoch 2", "epoch 3 (Threshold of feature_std)"]
    kept = [
        tuple(pair) for r in monitor.history if (r.stage, r.layer, r.epoch) == ("val", None, 2.0) for pair in r.spectrum
    ]
    assert lines["epoch 2"] == kept
    assert len(kept) > 20
    depth = table(folder, summary, "featgeo_curves/val/depth_feature_std_table")
    by_layer = {key: [y for _, k, y in depth["data"] if k == key] for _, key, _ in depth["data"]}
    assert by_layer == {
        "net.0": [v for _, v in monitor.history.series("featgeo/val/feature_std")],
        "net.2": [v for _, v in monitor.history.series("featgeo/val/net_2/feature_std")],
    }
    assert metrics["featgeo/val/net_2/feature_std"]["hidden"]


def test_tables_name_classes_and_samples(run_files) -> None:
    folder, monitor, _, _, all_rows, summary = run_files
    best = min(e for e, v in monitor.history.series("featgeo/val/knn_accuracy") if v == max(
        v for _, v in monitor.history.series("featgeo/val/knn_accuracy")))  # fmt: skip
    for when in ("best", "last"):
        classes = table(folder, summary, f"featgeo_tables/val/classes_{when}")
        rows = [dict(zip(classes["columns"], row, strict=True)) for row in classes["data"]]
        assert {row["class"] for row in rows} == set(NAMES)
        assert sum(row["rows"] for row in rows) == 200
        assert {row["of"] for row in rows} == {f"featgeo/val, epoch {3 if when == 'last' else best:g}: {WORDS[when]}"}
        accuracies = [row["kNN accuracy"] for row in rows]
        assert accuracies == sorted(accuracies)  # the worst first
        epoch = 3.0 if when == "last" else best
        mean = sum(row["kNN accuracy"] * row["rows"] for row in rows) / 200
        assert mean == pytest.approx(dict(monitor.history.series("featgeo/val/knn_accuracy"))[epoch], abs=1e-5)
        lonely = table(folder, summary, f"featgeo_tables/val/lowest_density_{when}")
        rows = [dict(zip(lonely["columns"], row, strict=True)) for row in lonely["data"]]
        assert len(rows) == 20
        densities = [row["log density (nats)"] for row in rows]
        assert densities == sorted(densities)
        assert all(row["sample id"] == f"image of a {row['class'].removeprefix('digit ')}" for row in rows)
    raw = table(folder, summary, "featgeo_tables/val/embedding_last")
    assert raw["columns"] == ["sample", "class", *(f"x{i}" for i in range(48))]
    assert len(raw["data"]) == 40
    cosines = table(folder, summary, "featgeo_curves/val/class_cosines_table")
    assert cosines["columns"][1:11] == NAMES
    assert [row[1 + i] for i, row in enumerate(cosines["data"])] == pytest.approx([1.0] * 10)
    assert summary["featgeo_curves/val/class_cosines._type"] == "image-file"
    sent = [row["featgeo/epoch"] for row in all_rows if "featgeo_curves/val/class_cosines._type" in row]
    assert sent == [1.0, 2.0, 3.0]  # 1, 2, 4, 8, …, and the last


def test_the_config_says_what_the_curves_are_of(run_files) -> None:
    folder, monitor, *_ = run_files
    facts = config(folder)["featgeo"]
    assert facts["of"]["layer"] == "net.0"
    assert facts["signals"] == monitor.history.run["signals"]
    assert {"lightning_featgeo", "torch", "lightning", "torchmetrics"} <= facts["versions"].keys()
    assert facts["backend"]["backend"] in ("compiled", "reference")
    assert facts["fingerprint"] == monitor.history.run["fingerprint"]
    assert facts["definitions"]["nc1"] == 1


def test_an_alarm_is_an_alert(run_files) -> None:
    folder, _, stop, *_ = run_files
    (alert,) = alerts(folder)
    assert alert.title == "featgeo: Threshold of feature_std"
    assert alert.text == stop.alarms[0].report


def test_windows_inside_an_epoch_have_increasing_epochs(tmp_path: Path) -> None:
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    monitor = FeatureGeometryMonitor(
        stages="train", windows=Windows(every_n_train_steps=2), signals=["feature_std"], on_error="raise"
    )
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


def test_history_and_report_are_files_of_the_run(run_files) -> None:
    folder, *_ = run_files
    files = {path.suffix: path for path in folder.glob("wandb/offline-run-*/files/featgeo/*")}
    assert set(files) == {".jsonl", ".html"}
    assert History.load(files[".jsonl"]).run["end"] == "finished"
    assert "effective_rank" in files[".html"].read_text(encoding="utf-8")
