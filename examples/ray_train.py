"""Digits on two Ray workers: the curves are of all rows, merged over the workers, as with any other strategy.

pip install 'ray[train]' && python examples/ray_train.py [--workers 2] [--epochs 4]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))

import lightning as L
import ray
from digits import DigitsNet, digits_loaders
from ray.train import RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lightning_featgeo import FeatureGeometryMonitor, History


class Digits(L.LightningModule):
    """The usual classifier; nothing in it knows of Ray or of the monitor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DigitsNet()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.05, momentum=0.9)


def worker(config: dict[str, Any]) -> None:
    """What each worker runs."""
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_epochs=config["epochs"], accelerator="cpu", devices="auto", strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()], callbacks=[FeatureGeometryMonitor()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=config["folder"],
    )  # fmt: skip
    prepare_trainer(trainer).fit(Digits(), *digits_loaders())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("runs/ray"))
    args = parser.parse_args()
    folder = args.folder.resolve()
    ray.init(num_cpus=args.workers + 1, include_dashboard=False, log_to_driver=False)
    TorchTrainer(
        worker, train_loop_config={"epochs": args.epochs, "folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=args.workers), run_config=RunConfig(storage_path=str(folder / "ray")),
    ).fit()  # fmt: skip
    ray.shutdown()
    path = max((folder / "featgeo").glob("*.jsonl"), key=lambda file: file.stat().st_mtime)  # rank 0 has written it
    history = History.load(path)
    print(path)
    for name in ("effective_rank", "id_two_nn", "knn_accuracy"):
        values = "  ".join(f"{value:.4g}" for _, value in history.series(f"featgeo/val/{name}"))
        print(f"{name:<16} {values}   of {history.records[-1].counts['seen']} rows")


if __name__ == "__main__":
    main()
