"""Windows of a run: each loader has its own, only those that ran are closed, and what fails leaves nothing behind."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import (
    ConfigurationError,
    Display,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    Neighbors,
)
from lightning_featgeo.adapters import FeatureWatch
from lightning_featgeo.callbacks.settings import MonitorSettings
from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.record import plain_gap, read_gap
from tests._helpers.models import Classifier, loaders, trainer


def data(n: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.rand(n, 64), torch.arange(n) % 10), 40)


def test_a_loader_may_be_called_as_another_stage_is() -> None:
    monitor = FeatureGeometryMonitor(signals=["n_samples"], loader_names=("test", "clean"), on_error="raise")
    trainer(monitor, max_epochs=2).fit(Classifier(), data(200), [data(120), data(80)])
    found = [(r.stage, r.values["n_samples"]) for r in monitor.history]
    assert found == [("test", 120), ("clean", 80)] * 2


def test_two_windows_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match='a loader called "train", and so are the training windows'):
        FeatureGeometryMonitor(loader_names=("train", "clean"), stages=("train", "val"))
    monitor = FeatureGeometryMonitor(signals=["n_samples"], loader_names=("val_1",))
    model = Classifier()
    with pytest.raises(ConfigurationError, match=r"would be logged as val_1, val_1.*loader_names="):
        trainer(monitor).fit(model, data(80), [data(40), data(40)])
    assert trainer().global_step == 0


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("clean",), "has 1, validation has 2 loaders: the others are logged as val_1 "),
        (("clean", "noisy", "hard"), "has 3, validation has 2 loaders: 'hard' will have no curves "),
        (("clean", "noisy"), None),
    ],
)
def test_names_of_more_or_fewer_loaders_are_told(names: tuple[str, ...], told: str | None) -> None:
    monitor = FeatureGeometryMonitor(signals=["n_samples"], loader_names=names, on_error="raise")
    run = trainer(monitor, max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(Classifier(), data(80), [data(80), data(40)])
    found = [str(w.message) for w in caught if "loader_names" in str(w.message)]
    assert len(found) == (0 if told is None else 1)  # once, though validation ran several times
    assert told is None or told in found[0]


def test_a_loader_that_is_gone_is_not_logged_again() -> None:
    class Fewer(Classifier):
        def val_dataloader(self) -> Any:
            return [data(80), data(40)] if self.trainer.current_epoch == 0 else [data(80)]

    monitor = FeatureGeometryMonitor(signals=["n_samples"], on_error="raise")
    run = trainer(monitor, max_epochs=3, reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0)
    run.fit(Fewer(), data(80))
    assert [(r.stage, r.epoch) for r in monitor.history] == [("val", 1.0), ("val_1", 1.0), ("val", 2.0), ("val", 3.0)]


def test_names_of_samples_that_cannot_be_read_cost_no_run() -> None:
    class Bad:
        def __str__(self) -> str:
            raise ValueError("no name")

    monitor = FeatureGeometryMonitor(
        signals=["id_two_nn"], display=Display(id_key=lambda batch: [Bad()] * len(batch[0])), num_classes=10
    )
    with pytest.warns(FeatureGeometryWarning, match="no name.*have no ids; its curves are not affected"):
        trainer(monitor, max_epochs=2, num_sanity_val_steps=0).fit(Classifier(), *loaders())
    assert all("id_two_nn" in record.values for record in monitor.history)


def test_a_closed_terminal_costs_words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monitor = FeatureGeometryMonitor(signals=["effective_rank"], on_error="raise")
    run = trainer(monitor, max_epochs=1)
    monkeypatch.setattr(sys, "stderr", Closed())
    run.fit(Classifier(), *loaders())
    assert "effective_rank" in monitor.history.records[0].values
    assert monitor.history.run["format"] == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"neighbors": {"k": 5}}, r"paste neighbors=Neighbors\(k=5\)"),
        ({"neighbors": 5}, r"paste neighbors=Neighbors\(…\)"),
        ({"display": {"headline": "nc1"}}, r"paste display=Display\(headline='nc1'\)"),
        ({"tokens": 16}, r"paste tokens=Tokens\(…\)"),
        ({"windows": 5}, r"paste windows=Windows\(…\)"),
        ({"num_classes": "10"}, "num_classes='10': a whole number"),
    ],
)
def test_a_group_or_number_of_the_wrong_type_is_refused_with_the_line_to_paste(given: Any, says: str) -> None:
    settings = object.__new__(MonitorSettings)  # as its constructor does, without the tests' own checks of types
    vars(settings).update({**vars(MonitorSettings()), **given})
    with pytest.raises(ConfigurationError, match=says):
        settings.__post_init__()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("k", r"Give it as neighbors=Neighbors\(k=…\)"),
        ("headline", r"Give it as display=Display\(headline=…\)"),
        ("every_n_epochs", r"Give it as windows=Windows\(every_n_epochs=…\)"),
        ("skip", r"Give it as tokens=Tokens\(skip=…\)"),
        ("signal", "Did you mean 'signals'"),
        ("settings", "has no argument 'settings'"),
    ],
)
def test_an_argument_of_a_group_is_told_where_it_belongs(name: str, says: str) -> None:
    with pytest.raises(
        TypeError, match=f"FeatureGeometryMonitor has no argument.*{says}|FeatureGeometryMonitor {says}"
    ):
        FeatureGeometryMonitor(**{name: 1})


def test_a_run_that_does_not_begin_leaves_no_hook() -> None:
    model = Classifier()
    monitor = FeatureGeometryMonitor(layer="net.0", num_classes=10, display=Display(class_names=["one"]))
    with pytest.raises(ConfigurationError, match="1 names, and there are 10 classes"):
        trainer(monitor).fit(model, *loaders())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_checkpoint_that_no_run_took_up_is_of_no_later_one(tmp_path: Path) -> None:
    first = FeatureGeometryMonitor(signals=["n_samples"])
    run = trainer(first, max_epochs=1)
    run.fit(Classifier(), *loaders())
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = FeatureGeometryMonitor(signals=["n_samples"])
    late = Breaks()
    with pytest.raises(ZeroDivisionError):
        trainer(late, again, max_epochs=2).fit(Classifier(), *loaders(), ckpt_path=tmp_path / "a.ckpt")
    trainer(again, max_epochs=1).fit(Classifier(), *loaders())
    assert [r.epoch for r in again.history] == [1.0]


class Breaks(FeatureGeometryMonitor):
    """Another callback that fails before the monitor's run has begun."""

    def __init__(self) -> None:
        super().__init__(layer="net.0", signals=["n_samples"])

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", GapKind)
def test_kinds_of_gaps_survive_files_and_checkpoints(kind: GapKind) -> None:
    gap = read_gap(json.loads(json.dumps(plain_gap(Gap(kind, "because")))))
    assert (gap, gap.kind) == ("because", kind)
    assert read_gap("because", kind).kind is kind  # an earlier format kept the reason alone
    assert read_gap({"kind": "of a later version", "reason": "because"}).kind is GapKind.OTHER


def test_a_loop_that_has_trained_is_not_ended_by_a_wrong_setting() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    watch = FeatureWatch(model, signals=["nc1"], neighbors=Neighbors(k=3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()  # no gradient is left to tell
    watch.open("val")
    batch = (torch.randn(4, 8),)
    told = pytest.warns(FeatureGeometryWarning, match="nc1 needs class labels and the batch has none")
    with told, torch.no_grad(), watch.batch(batch):
        model(batch[0])
    assert watch.close() == {}
    assert watch.history.records[0].gaps["nc1"].kind is GapKind.REPORTED
    watch.remove()
