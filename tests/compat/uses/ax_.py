"""Ax: a sweep whose objective is a geometry curve, read as a number from the summaries of Weights & Biases' runs."""

from __future__ import annotations

import tempfile
from typing import Any

import wandb
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from lightning.pytorch.loggers import WandbLogger
from torch import nn
from torch.nn.functional import cross_entropy

from tests.compat.keeper import Keeper
from tests.compat.kit import Module, images, loaders, trainer, use

CURVE = "featgeo/val/effective_rank"


def loss(net: Any, batch: Any) -> Any:
    return cross_entropy(net(batch[0]), batch[1])


@use("ax-platform", "Client, eight trials of one monitor, the objective read from each W&B run's summary")
def sweep(watch: Any) -> tuple[Keeper, Any]:
    monitor, keepers, found = watch(), [], {}
    client = Client(random_seed=0)
    client.configure_experiment(
        parameters=[
            RangeParameterConfig(name="width", parameter_type="int", bounds=(4, 48)),
            RangeParameterConfig(name="rate", parameter_type="float", bounds=(0.01, 0.3)),
        ]
    )
    client.configure_optimization(objective="rank")
    for _ in range(8):
        for number, chosen in client.get_next_trials(max_trials=1).items():
            folder, width = tempfile.mkdtemp(), int(chosen["width"])
            net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, width), nn.ReLU(), nn.Linear(width, 4))
            keepers.append(Keeper(lambda module: module.net[3], labels=lambda batch: batch[1]))
            logger = WandbLogger(project="sweep", save_dir=folder, offline=True)
            made = trainer([monitor, keepers[-1]], max_epochs=2, logger=logger)
            made.fit(Module(net, loss, lr=float(chosen["rate"])), *loaders(*images(160, 8)))
            told = logger.experiment.summary[CURVE]
            wandb.finish()
            assert type(told) is float, f"the summary is {told!r}"
            assert told == monitor.history.records[-1].values["effective_rank"]
            client.complete_trial(trial_index=number, raw_data={"rank": told})
            found[number] = told
    _, _, best, _ = client.get_best_parameterization(use_model_predictions=False)
    assert found[best] == max(found.values()), f"Ax's best is trial {best} of {found}"
    return keepers[-1], monitor
