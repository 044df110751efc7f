"""Optuna: its pruning callback on a geometry curve, trials that share one monitor."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.integration import PyTorchLightningPruningCallback
from torch import nn
from torch.nn.functional import cross_entropy

from tests.compat.keeper import Keeper
from tests.compat.kit import Module, images, loaders, trainer, use

CURVE = "featgeo/val/effective_rank"


def loss(net: Any, batch: Any) -> Any:
    return cross_entropy(net(batch[0]), batch[1])


@use("optuna", "PyTorchLightningPruningCallback on featgeo/val/effective_rank, five trials, one monitor")
def pruned(watch: Any) -> tuple[Keeper, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monitor, keepers = watch(), []

    def objective(trial: optuna.Trial) -> float:
        width = trial.suggest_int("width", 8, 48)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, width), nn.ReLU(), nn.Linear(width, 4))
        keepers.append(Keeper(lambda module: module.net[3], labels=lambda batch: batch[1]))
        pruning = PyTorchLightningPruningCallback(trial, monitor=CURVE)
        made = trainer([monitor, keepers[-1], pruning], max_epochs=3)
        made.fit(Module(net, loss, lr=0.1), *loaders(*images(160, 8)))
        return float(made.callback_metrics[CURVE])

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    study.optimize(objective, n_trials=5)
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    assert len(ended) == 5
    assert study.best_value > 0
    return keepers[-1], monitor
