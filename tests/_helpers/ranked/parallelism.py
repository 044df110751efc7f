"""Weights and features that are split over ranks, and Fabric. Run on each rank."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.ranked import several
from tests._helpers.still import SIGNALS, Still, digit_loaders, still, told


def sharded(data: int, tensor: int) -> dict[str, Any]:
    """FSDP2 over ``data`` ranks and tensor parallelism over ``tensor``: weights and features are DTensors."""
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    class Sharded(Still):
        def configure_model(self) -> None:
            mesh = self.device_mesh
            if tensor > 1:
                plan = {"0": ColwiseParallel(use_local_output=False), "3": RowwiseParallel()}
                parallelize_module(self.net, mesh["tensor_parallel"], plan)
            for part in (self.net[0], self.net[3], self.net):
                fully_shard(part, mesh=mesh["data_parallel"])

    torch.manual_seed(0)
    model = Sharded()
    monitor = FeatureGeometryMonitor(signals=SIGNALS, on_error="raise")
    strategy = ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor)
    run = several(1, monitor, strategy=strategy, devices=data * tensor, max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(model, *digit_loaders())
    return {
        "records": told(monitor),
        "layers": monitor.history.run["layers"],
        "kind": type(model.net[3].weight).__name__,
    }


def flat(keep_parameters: bool) -> dict[str, Any]:
    """FSDP1: the head's weight is a slice of a flat parameter that no rank has whole."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    from lightning_featgeo.capture.taps import find_modules
    from lightning_featgeo.distributed.sharding import whole_head

    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    weight = model[1].weight.detach().clone()
    how: dict[str, Any] = {"use_orig_params": keep_parameters, "device_id": torch.device("cpu")}
    model[1] = FullyShardedDataParallel(model[1], **how)
    root = FullyShardedDataParallel(model, **how)
    root(torch.randn(3, 6)).sum().backward()
    ((name, head),) = find_modules(root, "1").items()
    read = whole_head(head, root)
    return {"name": name, "kind": type(head).__name__, "same": torch.equal(read.weight, weight)}


def fabric(size: int) -> dict[str, Any]:
    """A window over Fabric's own loader of several processes."""
    from lightning.fabric import Fabric

    from lightning_featgeo.adapters.fabric import FabricGeometry

    engine = Fabric(accelerator="cpu", strategy="ddp" if size > 1 else "auto", devices=size)
    engine.launch()
    net = still().net
    model, _ = engine.setup(net, torch.optim.SGD(net.parameters(), lr=0.0))
    loader = engine.setup_dataloaders(digit_loaders()[1])
    geometry = FabricGeometry(engine, model, signals=["feature_std", "effective_rank", "id_two_nn", "nc1"])
    geometry.open("val", loader=loader)
    model.eval()
    for batch in loader:
        with geometry.batch(batch), torch.no_grad():
            model(batch[0])
    return {"values": geometry.close(epoch=1), "counts": geometry.history.records[0].counts}
