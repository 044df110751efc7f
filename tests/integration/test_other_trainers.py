"""Other trainers, other code inside of a step: the monitor is of one run at a time, and of nobody else's business."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.blobs import CLASSES, blobs
from tests._helpers.models import Classifier, loaders, strict, trainer
from tests._helpers.scored import SIGNALS, Kept, check


def epochs(monitor: FeatureGeometryMonitor, stage: str = "val") -> list[float]:
    return [one.epoch for one in monitor.history if one.stage == stage]


def test_a_trainer_inside_of_a_hook_has_windows_of_its_own() -> None:
    """Another model is validated, and trained, with the same monitor: the fit's windows go on."""
    monitor = strict(signals=["effective_rank"])
    seen = []

    class Outer(Classifier):
        def on_train_epoch_end(self) -> None:
            inner = trainer(monitor, max_epochs=2)
            if self.current_epoch == 0:
                inner.validate(Classifier(), loaders()[1], verbose=False)
            else:
                inner.fit(Classifier(), *loaders())
            seen.append(len(monitor.history))

    model = Outer()
    trainer(monitor, max_epochs=3).fit(model, *loaders())
    assert epochs(monitor) == [1.0, 2.0, 3.0]
    assert seen == [1, 2, 3]
    assert not model.net[-1]._forward_pre_hooks


def test_a_trainer_whose_stages_are_not_watched_ends_nothing() -> None:
    monitor = strict(signals=["effective_rank"], stages="train")

    class Outer(Classifier):
        def on_train_epoch_start(self) -> None:
            trainer(monitor).validate(Classifier(), loaders()[1], verbose=False)

    trainer(monitor, max_epochs=2).fit(Outer(), *loaders())
    assert epochs(monitor, "train") == [1.0, 2.0]


def test_fits_of_two_trainers_are_two_histories() -> None:
    """One that goes on with its own training begins anew, where another one's windows came between."""
    monitor = strict(signals=["effective_rank"])
    one, other = trainer(monitor, max_epochs=2), trainer(monitor, max_epochs=1)
    model = Classifier()
    one.fit(model, *loaders())
    one.fit_loop.max_epochs = 3
    one.fit(model, *loaders())
    assert epochs(monitor) == [1.0, 2.0, 3.0]
    other.fit(Classifier(), *loaders())
    assert epochs(monitor) == [1.0]
    one.fit_loop.max_epochs = 4
    one.fit(model, *loaders())
    assert epochs(monitor) == [4.0]


def test_evaluation_after_a_fit_watches_what_the_fit_watched() -> None:
    """Its step runs the body alone: that is no reason to watch another layer in the same curves."""

    class Body(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net[:-1](batch[0])

    monitor = FeatureGeometryMonitor(signals=["effective_rank"], stages=("train", "val"))
    model, alone = Body(), trainer(monitor, max_epochs=1)
    with pytest.warns(match="did not run in val"):
        alone.fit(model, *loaders())
    path = monitor.history.records[-1].facts["layer"]
    with pytest.warns(match="did not run in val"):
        alone.validate(model, loaders()[1], verbose=False)
    assert [one.facts["layer"] for one in monitor.history] == [path] * 3
    assert monitor.history.records[-1].gaps["effective_rank"]


class Held(Classifier):
    def __init__(self, watch: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.watch = watch

    def configure_callbacks(self) -> Any:
        return [self.watch]


def test_a_monitor_among_the_hyper_parameters(tmp_path: Any) -> None:
    """Checkpoints pickle it while it runs."""

    monitor = strict(signals=["effective_rank"])
    saves = ModelCheckpoint(tmp_path, save_top_k=-1)
    trainer(saves, max_epochs=2, enable_checkpointing=True).fit(Held(monitor), *loaders())
    assert epochs(monitor) == [1.0, 2.0]
    kept = torch.load(saves.best_model_path, weights_only=False)["hyper_parameters"]["watch"]
    assert kept._run is None
    trainer(copy.deepcopy(kept), max_epochs=1).fit(Classifier(), *loaders())


def test_a_graph_that_is_traced_inside_of_a_step_is_the_users_own() -> None:
    graphs = []

    class Traces(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            graphs.append(torch.fx.symbolic_trace(self.net))
            return super().training_step(batch, batch_idx)

    monitor = strict(signals=["effective_rank"], stages=("train", "val"))
    model = Traces()
    trainer(monitor, max_epochs=1).fit(model, *loaders())
    plain = torch.fx.symbolic_trace(copy.deepcopy(model.net))
    assert graphs[0].code == plain.code
    assert all(record.values for record in monitor.history)


def test_names_that_collide_once_loaders_are_read_anew_cost_their_windows_only() -> None:
    class Reloads(Classifier):
        def val_dataloader(self) -> Any:
            names = ["a"] if self.trainer.current_epoch != 1 else ["a b", "a_b"]
            return {name: loaders()[1] for name in names}

    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    whole = trainer(monitor, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    with pytest.warns(match="two of them as the same"):
        whole.fit(Reloads(), loaders()[0])
    assert whole.current_epoch == 3
    assert epochs(monitor, "a") == [1.0, 3.0]


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # what is left out
@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle"])
def test_a_list_of_loaders_is_read_by_its_first_one(mode: str) -> None:
    """The second one's numbers are of domains, and no classes."""

    def step(net: Kept, source: Any, target: Any) -> torch.Tensor:
        net.head(net.one(target[0]))
        x, y = source
        return nn.functional.cross_entropy(net.head(net.keep(net.one(x), y)), y)

    data = blobs()
    target = TensorDataset(torch.randn(208, 10) - 3, torch.arange(208) % 2)
    model = Kept(step, one=nn.Linear(10, 16))
    monitor = FeatureGeometryMonitor(signals=SIGNALS, stages="train", on_error="raise", num_classes=CLASSES)
    both = CombinedLoader([DataLoader(data, 16), DataLoader(target, 16)], mode)
    trainer(monitor, max_epochs=1, limit_val_batches=0).fit(model, both)
    check(monitor, model, "train")
