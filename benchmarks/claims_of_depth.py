"""Claims on layers, for ``claims``: what matters is read from earlier layers in time; tokens become one with depth."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics.functional.between_layers import readouts

EPOCHS, DEPTH, LEADING = (0, 1, 5, 40), 4, 5
BLOCKS, TOKEN_EPOCHS = 6, 8


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


class Block(nn.Module):
    """Attention and a small network, with the residual connections or without."""

    def __init__(self, width: int, residual: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        y = self.attention(y, y, y, need_weights=False)[0]
        x = x + y if self.residual else y
        y = self.network(self.norms[1](x))
        return x + y if self.residual else y


def over_smoothing(halves: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[str]:
    """Mean cosine of two tokens of an image by depth: digits as 16 patches, a transformer of six blocks.

    Args:
        halves: of each seed: training rows, their labels, held-out rows, their labels.
    """
    found: dict[bool, list[list[float]]] = {True: [], False: []}
    accuracy: dict[bool, list[float]] = {True: [], False: []}
    for seed, (rows, labels, x, y) in enumerate(halves):
        for residual, told in found.items():
            torch.manual_seed(seed)
            embed, place = nn.Linear(4, 32), nn.Parameter(0.02 * torch.randn(16, 32))
            blocks, head = nn.ModuleList(Block(32, residual) for _ in range(BLOCKS)), nn.Linear(32, 10)
            parts = [*embed.parameters(), place, *blocks.parameters(), *head.parameters()]
            optimizer = torch.optim.AdamW(parts, lr=1e-3)
            for _ in range(TOKEN_EPOCHS):
                for part in torch.randperm(len(rows)).split(64):
                    optimizer.zero_grad()
                    last = outputs(blocks, embed(patches(rows[part])) + place)[-1]
                    cross_entropy(head(last.mean(dim=1)), labels[part]).backward()
                    optimizer.step()
            with torch.no_grad():
                made = outputs(blocks, embed(patches(x)) + place)
            told.append([_similarity(one) for one in made])
            right = head(made[-1].mean(dim=1)).argmax(dim=1) == y
            accuracy[residual].append(float(right.double().mean()))
    shown = {kind: ", ".join(f"{v:.2f}" for v in np.mean(each, axis=0)) for kind, each in found.items()}
    rises = {kind: sum(one[-1] > one[0] for one in each) for kind, each in found.items()}
    higher = sum(a[-1] > b[-1] for a, b in zip(found[False], found[True], strict=True))
    return [
        "`token_similarity`",
        "without shortcuts, tokens of a sequence become one with depth",
        f"patches of digits, from the embedding to block {BLOCKS}: with residual connections {shown[True]} (accuracy "
        f"{np.mean(accuracy[True]):.2f}), without {shown[False]} (accuracy {np.mean(accuracy[False]):.2f})",
        f"rises from first to last in {rises[False]} of {len(halves)} runs without, {rises[True]} with; at the last "
        f"block it is higher without in {higher}",
    ]


def patches(x: Tensor) -> Tensor:
    """(n, 16, 4) of 8 × 8 images."""
    return x.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)


def _similarity(tokens: Tensor) -> float:
    metric = GeometryMetric(["token_similarity"])
    n, t, _ = tokens.shape
    metric.update(tokens.flatten(0, 1), sample_index=torch.arange(n).repeat_interleave(t))
    return metric.window().values["token_similarity"]
