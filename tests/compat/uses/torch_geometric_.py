"""PyTorch Geometric: graphs classified in batches, nodes of one graph with masks, in a LightningModule."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data, HeteroData
from torch_geometric.data.lightning import LightningNodeData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, GINConv, SAGEConv, global_mean_pool

from tests.compat.keeper import Keeper
from tests.compat.kit import trainer, use


class Base(pl.LightningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch, "val"), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def mlp(a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b))


class Graphs(Base):
    """The mini-batching tutorial: convolutions, a readout, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GINConv(mlp(8, 16)), GINConv(mlp(16, 16))
        self.lin = nn.Linear(16, 3)

    def forward(self, x: Any, edge_index: Any, batch: Any) -> Any:
        x = self.conv1(x, edge_index).relu()
        x = self.conv2(x, edge_index)
        return self.lin(global_mean_pool(x, batch))

    def loss(self, data: Any, stage: str) -> Any:
        return cross_entropy(self(data.x, data.edge_index, data.batch), data.y)


def graphs(n: int) -> list[Data]:
    generator = torch.Generator().manual_seed(n)
    found = []
    for i in range(n):
        nodes = 5 + i % 4
        x = torch.randn(nodes, 8, generator=generator) + i % 3
        found.append(Data(x, torch.randint(0, nodes, (2, 3 * nodes), generator=generator), y=torch.tensor([i % 3])))
    return found


@use("torch-geometric", "graphs: GIN, mean readout, linear head")
def whole_graphs(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda module: module.lin, labels=lambda batch: batch.y)
    monitor = watch()
    data = DataLoader(graphs(48), 12, shuffle=True), DataLoader(graphs(96), 12)
    trainer([monitor, keeper]).fit(Graphs(), *data)
    return keeper, monitor


def one_graph(n: int = 200) -> Data:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.randn(n, 8, generator=generator) + y[:, None]
    part = torch.rand(n, generator=generator)
    return Data(
        x, torch.randint(0, n, (2, 4 * n), generator=generator), y=y, train_mask=part < 0.5,
        val_mask=(part >= 0.5) & (part < 0.8), test_mask=part >= 0.8,
    )  # fmt: skip


class Nodes(Base):
    """The introduction's GCN, the loss over a mask of nodes."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.conv1, self.conv2, self.lin = kind(8, 16), kind(16, 16), nn.Linear(16, 3)

    def forward(self, x: Any, edge_index: Any) -> Any:
        x = self.conv1(x, edge_index).relu()
        return self.lin(self.conv2(x, edge_index).relu())

    def loss(self, data: Any, stage: str) -> Any:
        mask = data[f"{stage}_mask"]
        return cross_entropy(self(data.x, data.edge_index)[mask], data.y[mask])


def of_mask() -> Keeper:
    return Keeper(
        lambda module: module.lin,
        lambda calls, batch: calls[0][batch.val_mask],
        labels=lambda batch: batch.y[batch.val_mask],
    )


@use("torch-geometric", "nodes of one graph: GCN, a mask in the loss", why="the rows that the loss reads: the mask's")
def nodes(watch: Any) -> tuple[Keeper, Any]:
    keeper = of_mask()
    monitor = watch()
    data = one_graph()
    trainer([monitor, keeper]).fit(Nodes(GCNConv), DataLoader([data]), DataLoader([data]))
    return keeper, monitor


@use("torch-geometric", "LightningNodeData, full batch: SAGE", why="the rows that the loss reads: the mask's")
def full(watch: Any) -> tuple[Keeper, Any]:
    keeper = of_mask()
    monitor = watch()
    trainer([monitor, keeper]).fit(Nodes(SAGEConv), datamodule=LightningNodeData(one_graph(), loader="full"))
    return keeper, monitor


class Tutorial(Base):
    """The introduction's GCN as it is printed: its last convolution gives the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 3)

    def loss(self, data: Any, stage: str) -> Any:
        mask, x = data[f"{stage}_mask"], self.conv1(data.x, data.edge_index).relu()
        return cross_entropy(self.conv2(x, data.edge_index)[mask], data.y[mask])


@use(
    "torch-geometric", "nodes of one graph: the introduction's GCN", then={"head": "conv2"},
    why="the rows that the loss reads: the mask's",
)  # fmt: skip
def tutorial(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(
        lambda module: module.conv2,
        lambda calls, batch: calls[0][batch.val_mask],
        labels=lambda batch: batch.y[batch.val_mask],
    )
    monitor = watch()
    data = one_graph()
    trainer([monitor, keeper]).fit(Tutorial(), DataLoader([data]), DataLoader([data]))
    return keeper, monitor


class TwoKinds(Base):
    """Papers and authors: messages from these to those."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.other, self.lin = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def loss(self, data: Any, stage: str) -> Any:
        source, target = data["author", "writes", "paper"].edge_index
        h = self.own(data["paper"].x).relu()
        h = h.index_add(0, target, self.other(data["author"].x).relu()[source])
        return cross_entropy(self.lin(h), data["paper"].y)


@use("torch-geometric", "HeteroData: papers and their authors")
def two_kinds(watch: Any) -> tuple[Keeper, Any]:
    generator = torch.Generator().manual_seed(0)
    data, y = HeteroData(), torch.arange(200) % 3
    data["paper"].x, data["paper"].y = torch.randn(200, 8, generator=generator) + y[:, None], y
    data["author"].x = torch.randn(50, 4, generator=generator)
    ends = torch.randint(50, (400,), generator=generator), torch.randint(200, (400,), generator=generator)
    data["author", "writes", "paper"].edge_index = torch.stack(ends)
    keeper = Keeper(lambda module: module.lin, labels=lambda batch: batch["paper"].y)
    monitor = watch()
    trainer([monitor, keeper]).fit(TwoKinds(), DataLoader([data]), DataLoader([data]))
    return keeper, monitor
