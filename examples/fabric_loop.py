"""A training loop with Lightning Fabric: geometry of each epoch's validation data, merged over processes and logged.

python examples/fabric_loop.py                          # one process
fabric run --devices=2 --strategy=ddp examples/fabric_loop.py
"""

from __future__ import annotations

import argparse

import torch
from digits import DigitsNet, digits_loaders
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from torch.nn.functional import cross_entropy

from lightning_featgeo.adapters.fabric import FabricGeometry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()

    fabric = Fabric(accelerator="cpu", loggers=CSVLogger(".", "fabric"))
    fabric.launch()
    fabric.seed_everything(0)
    net = DigitsNet()
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
    train, val = fabric.setup_dataloaders(*digits_loaders())
    geometry = FabricGeometry(fabric, model)

    step = 0
    for epoch in range(args.epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            fabric.backward(cross_entropy(model(x), y))
            optimizer.step()
            step += 1
        model.eval()
        geometry.open("val", loader=val)
        for batch in val:
            with torch.no_grad(), geometry.batch(batch):
                model(batch[0])
        values = geometry.close(epoch=epoch + 1, step=step)
        shown = "  ".join(f"{name.removeprefix('featgeo/val/')} {value:.4g}" for name, value in values.items())
        fabric.print(f"epoch {epoch + 1}: {shown}")
    fabric.logger.finalize("success")


if __name__ == "__main__":
    main()
