"""chemprop: its MPNN, a LightningModule of its own, on molecules from SMILES."""

from __future__ import annotations

from typing import Any

import numpy as np
from chemprop import data, models, nn

from tests.compat.keeper import Keeper
from tests.compat.kit import trainer, use

SMILES = ["C" * n + tail for n in range(1, 13) for tail in ("", "O", "N", "Cl", "C(=O)O", "c1ccccc1", "C#N", "Br")]


def molecules(target: Any) -> tuple[Any, Any]:
    points = [data.MoleculeDatapoint.from_smi(s, [target(i)]) for i, s in enumerate(SMILES)]
    train = data.MoleculeDataset(points[::2])
    val = data.MoleculeDataset(points[1::2])
    return (
        data.build_dataloader(train, batch_size=16),
        data.build_dataloader(val, batch_size=16, shuffle=False),
    )


@use("chemprop", "MPNN, regression", why="the input of the last linear layer of its predictor")
def regression(watch: Any) -> tuple[Keeper, Any]:
    model = models.MPNN(
        nn.BondMessagePassing(d_h=32), nn.MeanAggregation(), nn.RegressionFFN(input_dim=32, hidden_dim=24)
    )
    keeper = Keeper(lambda module: module.predictor.ffn[-1][-1])
    monitor = watch()
    trainer([monitor, keeper]).fit(model, *molecules(lambda i: float(np.sin(i))))
    return keeper, monitor


@use("chemprop", "MPNN, binary classification", why="the input of the last linear layer of its predictor")
def binary(watch: Any) -> tuple[Keeper, Any]:
    ffn = nn.BinaryClassificationFFN(input_dim=32, hidden_dim=24)
    model = models.MPNN(nn.BondMessagePassing(d_h=32), nn.MeanAggregation(), ffn, batch_norm=True)
    keeper = Keeper(lambda module: module.predictor.ffn[-1][-1], labels=lambda batch: batch.Y[:, 0].long())
    monitor = watch()
    trainer([monitor, keeper]).fit(model, *molecules(lambda i: float(i % 3 == 0)))
    return keeper, monitor
