"""Ways to execute one and the same model under Lightning, for the tests that compare them and the table of them.

The model never moves, so that every way sees the same weights; what differs is how its features are computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics import CATALOG
from tests._helpers.models import trainer
from tests._helpers.still import SIGNALS as ALL
from tests._helpers.still import Still, digit_loaders

Rows = dict[str, Record]
SIGNALS = [name for name in ALL if "earlier" not in CATALOG[name].requires]  # there may be no window before


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def averaging(name: str, **given: Any) -> pl.Callback:
    """A callback that averages weights: this Lightning may not have it."""
    if not hasattr(callbacks, name):
        raise SkipTest(f"this Lightning has no {name}")
    made: pl.Callback = getattr(callbacks, name)(**given)
    return made


def run(model: pl.LightningModule, *callbacks: pl.Callback, head: str | None = None, **kwargs: Any) -> Rows:
    """The last record of each stage, of a run in which our errors are errors."""
    monitor = FeatureGeometryMonitor(head=head, signals=SIGNALS, stages=("train", "val"), on_error="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(monitor, *callbacks, **{"max_epochs": 1, **kwargs}).fit(model, *digit_loaders())
    return {record.stage: record for record in monitor.history}


def furthest(ours: Rows, theirs: Rows) -> tuple[float, str]:
    """The largest relative difference and whose it is, once counts and gaps are the same."""
    found = [(0.0, "")]
    for stage, record in theirs.items():
        assert ours[stage].gaps == record.gaps
        assert ours[stage].counts == record.counts
        assert ours[stage].values.keys() == record.values.keys()
        for name, value in record.values.items():
            found.append((abs(ours[stage].values[name] - value) / max(abs(value), 1e-9), name))
    return max(found)


# --- compiled ------------------------------------------------------------------------------------------------


def wrapped(**how: Any) -> Still:
    model = Still(net())
    model.net = torch.compile(model.net, **how)
    return model


class Block(nn.Module):
    """A module of the user's own: compiling a bare Sequential in place compiles nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = net()[:2], net()[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x))


def in_place() -> Still:
    model = Still(Block())
    model.net.compile(fullgraph=True, backend="aot_eager")
    return model


class Late(Still):
    """Compiled by ``fit``."""

    def configure_model(self) -> None:
        if not hasattr(self.net, "_orig_mod"):
            self.net = torch.compile(self.net, backend="aot_eager")


COMPILED: dict[str, Callable[[], Any]] = {
    "torch.compile, default": wrapped,
    "torch.compile, reduce-overhead": lambda: wrapped(mode="reduce-overhead"),
    "torch.compile, fullgraph": lambda: wrapped(fullgraph=True, backend="aot_eager"),
    "module.compile() in place": in_place,
    "compiled in configure_model": lambda: Late(net()),
    "the whole LightningModule compiled": lambda: torch.compile(Still(net()), backend="aot_eager"),
}


# --- gradients -----------------------------------------------------------------------------------------------


class Checkpointed(Still):
    """The forward runs again during backward, and fires every hook again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


class Reentrant(Still):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=True)


class Manual(Still):
    """Two optimisers, a forward for each: two views of a sample."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            loss = cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.0) for i in (0, 2)]


# --- all: how, and the largest relative difference that it may make ------------------------------------------

EXACT: dict[str, Callable[[], Rows]] = {
    "activation checkpointing": lambda: run(Checkpointed(net())),
    "activation checkpointing, reentrant, head named": lambda: run(Reentrant(net()), head="net.2"),
    "manual optimisation, two optimisers": lambda: run(Manual(net())),
    "accumulate_grad_batches=3": lambda: run(Still(net()), accumulate_grad_batches=3),
    "inference_mode=False": lambda: run(Still(net()), inference_mode=False),
    "val_check_interval=0.25": lambda: run(Still(net()), val_check_interval=0.25),
    "check_val_every_n_epoch=2": lambda: run(Still(net()), check_val_every_n_epoch=2, max_epochs=2),
    "no sanity check": lambda: run(Still(net()), num_sanity_val_steps=0),
    "detect_anomaly": lambda: run(Still(net()), detect_anomaly=True),
    "loaders made anew each epoch": lambda: run(Still(net()), reload_dataloaders_every_n_epochs=1),
    "gradient clipping": lambda: run(Still(net()), gradient_clip_val=1.0),
}
AVERAGED: dict[str, Callable[[], Rows]] = {
    "WeightAveraging": lambda: run(Still(net()), averaging("WeightAveraging"), max_epochs=3),
    "EMAWeightAveraging": lambda: run(Still(net()), averaging("EMAWeightAveraging"), max_epochs=3),
    "StochasticWeightAveraging": lambda: run(Still(net()), StochasticWeightAveraging(swa_lrs=1e-12), max_epochs=3),
}
PRECISIONS: dict[str, Callable[[], Rows]] = {
    name: (lambda name=name: run(Still(net()), precision=name))
    for name in ("64-true", "bf16-mixed", "bf16-true", "16-true")
}
