"""Weights & Biases beside a user's own logging: no row of theirs is lost, and a window is a part of Lightning's own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from lightning_featgeo import Display, FeatureGeometryMonitor, GeometryAlarm, GeometryEarlyStopping, Threshold, Windows
from lightning_featgeo.alarms import KINDS, Detector
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning
from lightning_featgeo.report.runs import find
from tests._helpers.detectors import windows
from tests._helpers.models import SAFELY, Classifier, loaders, strict, trainer
from tests._helpers.wandb_file import alerts, read

RANK = "featgeo/val/effective_rank"
WAYS = ("step=", "plain", "commit=False", "both", "self.log", "at epoch ends", "logger", "inside validation")


class Logs(Classifier):
    """Logs rows of its own, in one of eight ways."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        self.way = way

    def mine(self, **more: Any) -> None:
        self.logger.experiment.log({"mine": float(self.global_step)}, **more)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.way in ("step=", "both"):
            self.mine(step=self.global_step)
        if self.way in ("plain", "both"):
            self.mine()
        if self.way == "commit=False":
            self.mine(commit=False)
            self.mine(commit=batch_idx % 2 == 1)
        if self.way == "self.log":
            self.log("mine", loss)
        if self.way == "logger":
            self.logger.log_metrics({"mine": float(loss)}, step=self.global_step)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        if self.way == "inside validation" and not self.trainer.sanity_checking:
            self.mine(step=100 * (1 + self.global_step) + batch_idx)

    def on_validation_epoch_end(self) -> None:
        if self.way == "at epoch ends":
            self.mine(step=self.global_step)

    def on_train_epoch_end(self) -> None:
        if self.way == "at epoch ends":
            self.mine()


def offline(folder: Path, net: Any, *callbacks: Any, logger: dict[str, Any] | None = None, **given: Any) -> Any:
    """Definitions, rows and summary of an offline run."""
    made = WandbLogger(**{"project": "test", "offline": True, "save_dir": folder, **(logger or {})})
    trainer(*callbacks, **{"max_epochs": 3, "log_every_n_steps": 2, "logger": made, **given}).fit(net, *loaders())
    run = made.experiment
    wandb.finish()
    return (*read(Path(run.dir).parent), run)


@pytest.fixture(scope="module")
def rows_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Way -> rows of the user's that W&B keeps without us."""
    found = {}
    for way in WAYS:
        _, rows, *_ = offline(tmp_path_factory.mktemp("alone"), Logs(way))
        found[way] = sum("mine" in row for row in rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_row_of_the_users_is_lost_and_none_is_added(way: str, rows_alone: dict[str, int], tmp_path: Path) -> None:
    monitor = strict(stages=("train", "val"), signals=["effective_rank", "id_two_nn"])
    _, rows, *_ = offline(tmp_path, Logs(way), monitor)
    assert rows_alone[way] > 0
    assert sum("mine" in row for row in rows) == rows_alone[way]
    of_windows = [row for row in rows if RANK in row]
    assert [row["featgeo/epoch"] for row in of_windows] == [1.0, 2.0, 3.0]
    assert all("trainer/global_step" in row for row in of_windows)
    if way not in ("inside validation", "at epoch ends"):
        assert all("val_loss" in row for row in of_windows)  # Lightning's own rows
    media = [row for row in rows if any(name.startswith("featgeo_curves/val/") for name in row)]
    assert [row for row in media if RANK not in row] == media[len(of_windows) :]  # beyond these, what the end brings
    assert len(media) <= len(of_windows) + 1


def test_windows_inside_an_epoch_wait_for_the_next_row_and_none_is_overwritten(tmp_path: Path) -> None:
    monitor = strict(stages="train", windows=Windows(every_n_train_steps=1), signals=["effective_rank"])
    _, rows, *_ = offline(tmp_path, Logs("step="), monitor, max_epochs=2, log_every_n_steps=50)
    found = [row["featgeo/train/effective_rank"] for row in rows if "featgeo/train/effective_rank" in row]
    assert found == pytest.approx([value for _, value in monitor.history.series("featgeo/train/effective_rank")])


def test_two_optimisers_are_filed_as_lightning_files_them(tmp_path: Path) -> None:
    class Two(Classifier):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                loss = Classifier.training_step(self, batch, batch_idx)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            self.log("train_loss", loss)

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.net[:1].parameters(), 0.1), torch.optim.SGD(self.net[3:].parameters(), 0.1)]

    monitor = strict(head="net.3", stages="train", windows=Windows(every_n_train_steps=4), signals=["feature_std"])
    logger = CSVLogger(tmp_path)
    trainer(monitor, max_epochs=2, logger=logger, log_every_n_steps=1).fit(Two(), *loaders())
    logger.save()
    import csv

    with next(tmp_path.rglob("metrics.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = [int(row["step"]) for row in rows if row.get("featgeo/train/feature_std")]
    theirs = {int(row["step"]) for row in rows if row["train_loss"]}
    assert len(ours) == 4
    assert set(ours) <= theirs | {max(theirs) + 1}


def test_a_prefix_is_before_every_name(tmp_path: Path) -> None:
    logger = {"prefix": "exp"}
    metrics, rows, summary, _ = offline(tmp_path, Logs(), strict(signals=["effective_rank"]), logger=logger)
    names = {name.split(".")[0] for row in rows for name in row if "featgeo" in name}
    assert all(name.startswith("exp-featgeo") for name in names)
    assert metrics[f"exp-{RANK}"]["step"] == "exp-featgeo/epoch"
    assert metrics["exp-featgeo_monitor/val/seconds"]["hidden"]
    assert isinstance(summary[f"exp-{RANK}"], float)
    assert summary[f"exp-{RANK}/best"] >= summary[f"exp-{RANK}"]


def test_two_runs_in_a_folder_keep_their_checkpoints_and_histories_and_send_only_what_was_asked(tmp_path: Path) -> None:
    at_once: dict[str, Any] = {"monitor": "featgeo/val/feature_std", "rule": Threshold(below=9.0), "patience": 1}
    saved: dict[Path, bytes] = {}
    for switch in (False, "failure"):
        alarm = GeometryAlarm(**at_once, action="checkpoint", alerts=switch)
        *_, run = offline(tmp_path, Logs(), strict(signals=["feature_std"]), alarm, max_epochs=1)
        assert len(alarms := alarm.alarms) == 1
        sent = [message.title.removeprefix("featgeo: ") for message in alerts(Path(run.dir).parent)]
        assert sent == [one.title for one in alarms if switch]
        assert all(path.read_bytes() == content for path, content in saved.items())
        saved = {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")}
        assert any(run.id in path.name for path in saved)
        (link,) = (Path(run.dir)).rglob("*.jsonl")  # among the run's files, so W&B uploads it
        assert find([Path(run.dir).parent]) == [link]
    assert len(saved) == 2
    assert len(find([tmp_path])) == 2  # each once, though a link leads to it


def test_converged_is_no_message_unless_asked() -> None:
    still = windows(feature_std=[0.2, 0.5, *[0.7] * 8], effective_rank=[5.0, 9.0, *[12.0] * 8])
    (alarm,) = Detector(KINDS["converged"]).replay(still)
    assert not GeometryEarlyStopping("converged").sends_alert(alarm)
    assert GeometryEarlyStopping("converged", alerts="all").sends_alert(alarm)
    assert GeometryEarlyStopping("converged", action=["stop", "alert"]).sends_alert(alarm)
    with pytest.raises(ConfigurationError, match="alerts='never'"):
        GeometryEarlyStopping("collapse", alerts="never")


def test_several_layers_send_charts_over_depth_and_nothing_else(tmp_path: Path) -> None:
    metrics, rows, *_ = offline(tmp_path, Logs(), FeatureGeometryMonitor(layer="net.*", on_error="raise"))
    names = {
        name.split(".")[0] for row in rows for name in row if name.startswith(("featgeo_curves", "featgeo_tables"))
    }
    assert not [name for name in names if "/net_" in name]
    assert "featgeo_curves/val/depth_feature_std" in metrics
    shown = [name for name, one in metrics.items() if "featgeo" in name and not one["hidden"]]
    assert len(shown) <= 20
    assert math.isfinite(next(row[RANK] for row in rows if RANK in row))


def test_the_history_names_the_run_that_was_begun_before_its_logger(tmp_path: Path) -> None:
    run = wandb.init(project="mine", name="first", dir=tmp_path, mode="offline")
    monitor = strict(signals=["feature_std"])
    trainer(monitor, max_epochs=1, logger=WandbLogger(save_dir=tmp_path, offline=True)).fit(Classifier(), *loaders())
    wandb.finish()
    assert monitor.history.run["name"] == "mine/first"
    assert run.id in str(monitor.history.path)


def test_what_goes_wrong_with_wandb_costs_no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finishes(Classifier):  # logs nothing: Lightning's own logger would end the run
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

        def on_train_epoch_end(self) -> None:
            wandb.finish()

    monitor = FeatureGeometryMonitor(signals=["feature_std"])
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    run = trainer(monitor, max_epochs=3, logger=logger)
    with pytest.warns(FeatureGeometryWarning) as told:
        run.fit(Finishes(), *loaders())
    ours = [str(one.message) for one in told if isinstance(one.message, FeatureGeometryWarning)]
    assert len(ours) == 1
    assert "WandbLogger was finished before the fit's end" in ours[0]
    assert [record.epoch for record in monitor.history] == [1.0, 2.0, 3.0]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monitor = strict(signals=["feature_std"])
    logger = WandbLogger(project="test", save_dir=tmp_path)
    trainer(monitor, max_epochs=2, logger=logger).fit(Classifier(), *loaders())
    wandb.finish()
    assert len(monitor.history) == 2


def test_the_best_before_a_resume_is_in_the_summary_of_the_run_that_goes_on(tmp_path: Path) -> None:
    first = strict(signals=["feature_std"])
    run = trainer(first, max_epochs=2)
    run.fit(Classifier(), *loaders())
    first.history.records[:] = [  # a best that the resumed run does not reach
        replace(one, values={**one.values, "feature_std": one.values["feature_std"] + 5.0}) for one in first.history
    ]
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = strict(signals=["feature_std"])
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    going_on = trainer(again, max_epochs=3, logger=logger)
    going_on.fit(Classifier(), *loaders(), ckpt_path=tmp_path / "last.ckpt", **SAFELY)
    wandb.finish()
    *_, summary = read(tmp_path)
    series = {value: epoch for epoch, value in first.history.series("featgeo/val/feature_std")}
    best = max(series)
    assert summary["featgeo/val/feature_std/best"] == pytest.approx(best)
    assert summary["featgeo/val/feature_std/best_epoch"] == series[best]
    assert summary["featgeo/val/feature_std"] < best


def test_windows_that_a_resumed_run_had_already_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, nobody can say what a server has of a run: its answer is put in here."""
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    logger.experiment.summary["featgeo/epoch"] = 2.0
    monkeypatch.setattr(type(logger.experiment), "resumed", True)
    trainer(FeatureGeometryMonitor(signals=["effective_rank"]), max_epochs=4, logger=logger).fit(
        Classifier(), *loaders()
    )
    wandb.finish()
    _, rows, _ = read(tmp_path)
    marked = [(row["featgeo/epoch"], row.get("featgeo/again")) for row in rows if RANK in row]
    assert marked == [(1.0, 1.0), (2.0, 1.0), (3.0, None), (4.0, None)]


@pytest.mark.parametrize(("files", "kept"), [(True, {".jsonl", ".html"}), ("history", {".jsonl"}), (False, set())])
def test_history_and_report_are_among_the_runs_files_as_asked(
    files: bool | str, kept: set[str], tmp_path: Path
) -> None:  # fmt: skip
    logger = WandbLogger(project="test", offline=True, save_dir=tmp_path)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"], display=Display(files=files))
    trainer(monitor, max_epochs=1, logger=logger).fit(Classifier(), *loaders())
    wandb.finish()
    assert {path.suffix for path in (tmp_path / "wandb").rglob("files/featgeo/*")} == kept
    trainer(monitor, logger=WandbLogger(project="test", offline=True, save_dir=tmp_path / "alone")).validate(
        Classifier(), loaders()[1], verbose=False
    )
    wandb.finish()
    assert not list((tmp_path / "alone").rglob("*.html"))  # one window is no report
