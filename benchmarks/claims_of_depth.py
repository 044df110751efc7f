"""A claim on layers, for ``claims``: that what matters at the end of a network is read from earlier layers in time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_featgeo.metrics.functional.between_layers import readouts

EPOCHS, DEPTH, LEADING = (0, 1, 5, 40), 4, 5


def readable_depth(halves: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[str]:
    """R² of a last layer's leading directions, read from each layer before it, over training.

    Args:
        halves: of each seed: training rows, their labels, held-out rows, their labels.
    """
    found: dict[int, list[list[float]]] = {epoch: [] for epoch in EPOCHS}
    for seed, (rows, labels, x, _) in enumerate(halves):
        torch.manual_seed(seed)
        layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(DEPTH))
        head = nn.Linear(64, 10)
        optimizer = torch.optim.AdamW([*layers.parameters(), *head.parameters()], lr=2e-3)
        for epoch in range(max(EPOCHS) + 1):
            if epoch in found:
                with torch.no_grad():
                    made = outputs(layers, x)
                found[epoch].append([float(readouts(one, made[-1])[:LEADING].mean()) for one in made[:-1]])
            for part in torch.randperm(len(rows)).split(64):
                optimizer.zero_grad()
                cross_entropy(head(outputs(layers, rows[part])[-1]), labels[part]).backward()
                optimizer.step()
    means = {epoch: np.mean(each, axis=0) for epoch, each in found.items()}
    told = "; ".join(f"epoch {epoch}: " + ", ".join(f"{v:.2f}" for v in row) for epoch, row in means.items())
    first, last = (np.array(found[epoch]) for epoch in (EPOCHS[1], EPOCHS[-1]))
    rises = [(last[:, i] > first[:, i]).sum() for i in range(1, DEPTH)]
    return [
        "`layer_readout`",
        "important features move to earlier layers as training goes on",
        f"R² of the last layer's {LEADING} leading directions from the input and layers 1 to {DEPTH - 1}: {told}",
        "from epoch 1 to 40 it rises in "
        + ", ".join(f"{count} of {len(halves)} runs (layer {i})" for i, count in enumerate(rises, 1)),
    ]


def outputs(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    made = [x]
    for layer in layers:
        made.append(layer(made[-1]))
    return made
