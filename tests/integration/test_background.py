"""``Windows(close="background")``: the same curves, computed beside training; nothing is lost, nothing is touched."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_featgeo import (
    ConfigurationError,
    Display,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    GeometryEarlyStopping,
    Threshold,
    Windows,
)
from lightning_featgeo.watch import background
from lightning_featgeo.watch.background import Background
from lightning_featgeo.watch.window import Window
from tests._helpers.interrupted import Stop, data, everyone, interrupted, model, shown, uninterrupted
from tests._helpers.models import SAFELY, Classifier, loaders, strict, trainer
from tests._helpers.processes import on_ranks
from tests._helpers.ranked import faults, windows
from tests._helpers.still import SIGNALS
from tests._helpers.typed import unchecked

BESIDE = Windows(close="background")


@pytest.fixture
def nothing_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are handed out where the stage's next one closes, however fast they were computed."""
    monkeypatch.setattr(Background, "is_done", property(lambda self: False))


def told(monitor: FeatureGeometryMonitor) -> list[tuple[Any, ...]]:
    return [
        (*one, r.standard_errors, r.ceilings, r.notes, r.facts, r.spectrum, r.sketch, r.layer_cka, r.layer)
        for one, r in zip(shown(monitor), monitor.history, strict=True)
    ]


@pytest.mark.parametrize(
    "settings",
    [{}, {"signals": "all"}, {"layer": ["net.0", "net.1"], "signals": ["effective_rank", "layer_cka"]}],
    ids=["some", "all", "layers"],
)
@pytest.mark.usefixtures("nothing_early")
@pytest.mark.filterwarnings("ignore::lightning_featgeo.FeatureGeometryWarning")
def test_the_same_curves_as_in_place(settings: dict[str, Any]) -> None:
    found = []
    for close in (Windows(), BESIDE):
        monitor = everyone(**{"windows": close, **settings})
        run = trainer(monitor, max_epochs=3)
        run.fit(model(), *data(False))
        found.append((told(monitor), {k: p.clone() for k, p in run.model.state_dict().items()}, torch.rand(3)))
    assert found[0][0] == found[1][0]
    assert len(found[0][0]) >= 6
    for name, weight in found[0][1].items():
        assert torch.equal(weight, found[1][1][name])
    assert torch.equal(found[0][2], found[1][2])  # the run's random numbers


def test_training_goes_on_while_a_window_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window waits for a step of the next epoch: in place, that would never come."""
    stepped, main = threading.Event(), threading.get_ident()
    threads, close = [], Window.close

    def waits(self: Window, *args: Any, **kwargs: Any) -> Any:
        threads.append(threading.get_ident())
        assert stepped.wait(60)
        return close(self, *args, **kwargs)

    class Step(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
            if trainer.current_epoch == 1:
                published.append(len(monitor.history))
                stepped.set()

    published: list[int] = []
    monkeypatch.setattr(Window, "close", waits)
    monitor = strict(windows=BESIDE)
    trainer(monitor, Step(), max_epochs=2).fit(Classifier(), *loaders())
    assert published[0] == 0
    assert [r.epoch for r in monitor.history] == [1.0, 2.0]
    assert len(set(threads)) == 1
    assert main not in threads


def test_it_is_logged_as_soon_as_it_is_there_under_its_own_epoch(tmp_path: Path) -> None:
    class Slow(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            if monitor._run is not None and monitor._run.background is not None:
                for job in monitor._run.background.jobs:
                    job.future.result()
            seen.append((trainer.current_epoch, trainer.callback_metrics.get("featgeo/val/effective_rank") is not None))

    seen: list[tuple[int, bool]] = []
    monitor = strict(windows=BESIDE)
    logger = CSVLogger(tmp_path)
    trainer(Slow(), monitor, max_epochs=3, logger=logger, log_every_n_steps=1).fit(Classifier(), *loaders())
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    epochs = [row.split(",")[names.index("featgeo/epoch")] for row in rows[1:]]
    assert [float(one) for one in epochs if one] == [1.0, 2.0, 3.0]
    assert (1, True) in seen
    assert (2, True) in seen
    assert (0, True) not in seen


@pytest.mark.parametrize("step", [6, 7, 10])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.usefixtures("nothing_early")
def test_a_checkpoint_has_what_was_being_computed(tmp_path: Path, step: int, error: type[BaseException]) -> None:
    settings = {"windows": BESIDE}
    whole = uninterrupted(stateful=True)
    parts = interrupted(tmp_path, True, step, error, settings=settings)
    assert sorted(shown(parts), key=lambda one: one[0]) == shown(whole)


@pytest.mark.usefixtures("nothing_early")
def test_a_window_of_before_the_checkpoint_reads_the_head_of_its_own_moment(tmp_path: Path) -> None:
    settings = {"signals": ["nc3", "nc4", "effective_rank"], "stages": ("val",)}
    whole = uninterrupted(stateful=True, settings=settings)
    parts = interrupted(tmp_path, True, 7, settings={**settings, "windows": BESIDE})
    assert {"nc3", "nc4"} <= whole.history.records[0].values.keys()
    assert told(parts) == told(whole)


@pytest.mark.usefixtures("nothing_early")
def test_a_resumed_fit_that_has_nothing_left_to_train_has_the_last_window(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer(everyone(windows=BESIDE), keep, max_epochs=2, enable_checkpointing=True).fit(model(), *data(False))
    monitor = everyone(windows=BESIDE)
    again = trainer(monitor, max_epochs=2)
    again.fit(model(), *data(False), ckpt_path=tmp_path / "last.ckpt", **SAFELY)
    assert shown(monitor) == shown(uninterrupted())[:4]
    again.save_checkpoint(tmp_path / "after.ckpt")
    later = everyone(windows=BESIDE)
    trainer(later, max_epochs=2).fit(model(), *data(False), ckpt_path=tmp_path / "after.ckpt", **SAFELY)
    assert shown(later) == shown(monitor)


@pytest.mark.usefixtures("nothing_early")
def test_a_wait_that_is_interrupted_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is likeliest while a window is waited for."""
    result, calls = Future.result, []

    def interrupted_once(self: Any, *args: Any) -> Any:
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return result(self, *args)

    monkeypatch.setattr(Future, "result", interrupted_once)
    monitor = everyone(windows=BESIDE)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(monitor, max_epochs=3).fit(model(), *data(False))
    assert [r.window for r in monitor.history] == [0, 1]


@pytest.mark.usefixtures("nothing_early")
def test_whoever_looks_finds_no_value_rather_than_the_window_before() -> None:
    class Looks(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
            seen.append([name for name in trainer.callback_metrics if name.startswith("featgeo/val/")])

    seen: list[list[str]] = []
    trainer(strict(windows=BESIDE), Looks(), max_epochs=3, num_sanity_val_steps=0).fit(Classifier(), *loaders())
    assert seen == [[], [], []]


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_what_fails_on_rank_0_is_a_gap_on_all(on_error: str) -> None:
    first, second = on_ranks(2, faults.beside_training, on_error)
    assert first == second
    assert [bool(values) for values, _ in first] == [True, False, True]
    assert "MemoryError" in first[1][1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.usefixtures("nothing_early")
def test_when_the_run_dies_the_last_windows_are_written_down(error: type[BaseException]) -> None:
    monitor = everyone(windows=BESIDE)
    with pytest.raises((error, SystemExit)):
        trainer(monitor, Stop(6, error), max_epochs=3).fit(model(), *data(False))
    assert shown(monitor) == shown(uninterrupted())[:2]
    assert "died" in monitor.history.run["end"]


def test_what_fails_is_a_gap_and_the_next_window_has_values(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, calls = background._compute, []

    def fails_once(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("none left")
        return compute(*args)

    monkeypatch.setattr(background, "_compute", fails_once)
    monitor = FeatureGeometryMonitor(windows=BESIDE, signals=["effective_rank"])
    with pytest.warns(FeatureGeometryWarning, match=r"computing the val window failed with MemoryError"):
        trainer(monitor, max_epochs=3).fit(Classifier(), *loaders())
    assert [bool(r.values) for r in monitor.history] == [True, False, True]
    assert "none left" in str(monitor.history.records[1].gaps["effective_rank"])


@pytest.mark.usefixtures("nothing_early")
def test_a_stop_comes_one_check_later() -> None:
    epochs = []
    for close in (Windows(), BESIDE):
        stopper = GeometryEarlyStopping("featgeo/val/effective_rank", Threshold(above=0.0))
        run = trainer(strict(windows=close), stopper, max_epochs=6)
        run.fit(Classifier(), *loaders())
        epochs.append(run.current_epoch)
    assert epochs[1] == epochs[0] + 1


def test_ranks_publish_the_same_windows_at_the_same_moment() -> None:
    for ids in ({}, {"display": Display(id_key=1)}):
        in_place = on_ranks(2, windows.curves, 2, {"signals": SIGNALS, **ids})
        beside = on_ranks(2, windows.curves, 2, {"signals": SIGNALS, "windows": BESIDE, **ids})
        assert len(beside[0]["records"]) == 4
        assert beside[0]["records"] == beside[1]["records"] == in_place[0]["records"]


def test_evaluation_alone_is_computed_in_place() -> None:
    monitor = strict(windows=BESIDE)
    run = trainer(monitor, max_epochs=1)
    run.validate(Classifier(), loaders()[1])
    assert monitor.history.records[0].values
    assert monitor._run is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"reference": "train"}, "reference="),
        ({"probe_sets": {"clean": loaders()[0]}}, "probe_sets="),
        ({"windows": Windows(close="background", best="val_loss"), "signals": "over_time"}, "best="),
        ({"windows": Windows(close="background", anchor=lambda batch: batch), "signals": "anchor"}, "anchor="),
    ],
)
def test_what_can_not_be_computed_beside_training_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"can't be combined with .*{named}.*leave out one of the two"):
        FeatureGeometryMonitor(**{"windows": BESIDE, **settings})


def test_another_word_is_refused() -> None:
    with unchecked(), pytest.raises(ConfigurationError, match='choose "in place" or "background"'):
        Windows(close="later")  # type: ignore[arg-type]  # what is refused


@pytest.mark.parametrize("watcher", [EarlyStopping, ModelCheckpoint])
def test_nobody_waits_for_a_value_that_comes_later(watcher: Any) -> None:
    run = trainer(
        FeatureGeometryMonitor(windows=BESIDE), watcher(monitor="featgeo/val/effective_rank"), enable_checkpointing=True
    )
    with pytest.raises(ConfigurationError, match=rf"{watcher.__name__}.*there is no value yet: leave out close="):
        run.fit(Classifier(), *loaders())
