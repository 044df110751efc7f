"""A model that is watched can be exported, copied, pickled, quantised and pruned as if nobody watched it."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from tests._helpers.models import Classifier, loaders, strict, trainer

HOOKS = (
    "on_fit_start", "on_train_start", "on_train_epoch_start", "on_before_zero_grad", "on_before_optimizer_step",
    "on_train_batch_end", "on_validation_batch_end", "on_validation_epoch_end", "on_train_epoch_end", "on_train_end",
    "on_fit_end",
)  # fmt: skip


def scripted(net: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net)
        torch.jit.trace(net, torch.randn(2, 64))


def exported(net: nn.Module) -> None:
    program = torch.export.export(net, (torch.randn(2, 64),))
    assert not [node for node in program.graph.nodes if "featgeo" in str(node.target)]


def copied(net: nn.Module) -> None:
    assert b"lightning_featgeo" not in pickle.dumps(net)
    torch.save(copy.deepcopy(net), io.BytesIO())
    torch.fx.symbolic_trace(net)
    torch.func.vmap(lambda row: net(row[None])[0])(torch.randn(3, 64))


class At(pl.Callback):
    """Does something with the network in a hook, in every one that runs before our own too."""

    def __init__(self, hook: str, act: Callable[[nn.Module], None]) -> None:
        self.times, self.act = 0, act
        setattr(self, hook, self._run)

    def _run(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        self.times += 1
        if self.times == 1:
            was = pl_module.training
            self.act(pl_module.net.eval())
            pl_module.train(was)


@pytest.mark.parametrize("act", [scripted, copied, exported])
def test_hooks_show_in_no_copy_and_no_export(act: Callable[[nn.Module], None]) -> None:
    acting = [At(hook, act) for hook in HOOKS]
    first, last = acting[::2], acting[1::2]
    monitor = strict(stages=("train", "val"), signals=["feature_std"])
    trainer(*first, monitor, *last, max_epochs=2).fit(Classifier(), *loaders())
    assert [one.times > 0 for one in acting] == [True] * len(HOOKS)
    assert [record.stage for record in monitor.history] == ["val", "train"] * 2
    assert [record.values["n_samples"] for record in monitor.history] == [200, 256] * 2


class Changed(pl.Callback):
    """Changes the model in the second epoch: at its start, or between its batches."""

    def __init__(self, change: Callable[[Any], None], batch: int) -> None:
        self.change, self.batch = change, batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == self.batch:
            self.change(pl_module)


def quantised(module: Any) -> None:
    module.net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.ao.quantization.prepare_qat(module.net.train(), inplace=True)


def pruned(module: Any) -> None:
    prune.l1_unstructured(module.net[3], "weight", 0.2)
    parametrize.register_parametrization(module.net[0], "weight", nn.Tanh())


@pytest.mark.parametrize(("change", "batch", "rows"), [(pruned, 1, 256), (quantised, 1, 192), (quantised, 0, 192)])
def test_a_model_that_is_changed_while_it_trains_is_watched_on(
    change: Callable[[Any], None], batch: int, rows: int
) -> None:
    monitor = strict(stages=("train", "val"), signals=["feature_std"])
    trainer(monitor, Changed(change, batch), max_epochs=3).fit(Classifier(), *loaders())
    found = [record.values["n_samples"] for record in monitor.history if record.stage == "train"]
    assert found == [256, rows, 256]  # the batch in whose start hook a module is swapped, behind ours, is lost
    assert [record.values["n_samples"] for record in monitor.history if record.stage == "val"] == [200] * 3
