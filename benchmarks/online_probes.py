"""Linear probes while a network trains: ours in closed form, and those that stable-pretraining and lightly train along.

    python benchmarks/online_probes.py [--epochs 30] [--out benchmarks/results/online_probes.md]

One SimCLR run on digits in stable-pretraining's own Module, five times from one seed: alone, with each probe, and with
one that is fitted anew to all training rows (scikit-learn's logistic regression, which nobody would run in training) at
every fifth epoch, the truth. Needs stable-pretraining and lightly, as `make compat` installs them.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import stable_pretraining as spt
import torch
from lightly.utils.benchmarking import OnlineLinearClassifier
from measuring import where
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_featgeo import FeatureGeometryMonitor, Neighbors, ProbeSet

OFF = (  # of stable-pretraining, for every case: environment dumps, hardware meters, registries
    "registry", "logging", "env_dump", "trainer_info", "sklearn_checkpoint", "wandb_checkpoint", "trackio_checkpoint",
    "swanlab_checkpoint", "module_summary", "slurm_info", "unused_params", "hf_checkpoint", "progress_bar",
)  # fmt: skip
WIDTH, CLASSES, BATCH = 256, 10, 128
EVERY = 5
FIRST = 1297  # digits that are trained on


class Digits(Dataset):
    """Images of 1 × 8 × 8 and their digits, as dicts."""

    def __init__(self, train: bool) -> None:
        x, y = load_digits(return_X_y=True)
        part = slice(None, FIRST) if train else slice(FIRST, None)
        self.images = torch.as_tensor(x[part], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        self.labels = torch.as_tensor(y[part])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.images[i], "label": self.labels[i]}


def loader(train: bool, shuffled: bool = False) -> DataLoader:
    return DataLoader(Digits(train), batch_size=BATCH, shuffle=shuffled, drop_last=shuffled)


def augmented(x: Tensor) -> Tensor:
    """Moved by up to one pixel and blurred with noise."""
    moved = torch.roll(x, [int(i) for i in torch.randint(-1, 2, (2,))], dims=(2, 3))
    return moved * (0.6 + 0.8 * torch.rand(len(x), 1, 1, 1)) + 0.2 * torch.randn_like(x)


def forward(self: Any, batch: dict[str, Tensor], stage: str) -> dict[str, Any]:
    """SimCLR; both views' features in training, so that a probe is trained on what the network is."""
    if stage != "fit":
        found = {"embedding": self.backbone(batch["image"])}
        lightlys(self, found, batch, stage)
        return found
    views = [self.backbone(augmented(batch["image"])) for _ in range(2)]
    found = {"embedding": views[0], "loss": self.simclr_loss(*(self.projector(view) for view in views))}
    lightlys(self, found, batch, stage)
    return found


def lightlys(self: Any, found: dict[str, Any], batch: dict[str, Tensor], stage: str) -> None:
    """As lightly's own benchmarks have it: a part of the module, whose loss is added to the run's."""
    if hasattr(self, "online_classifier"):
        step = self.online_classifier.training_step if stage == "fit" else self.online_classifier.validation_step
        loss, logged = step((found["embedding"], batch["label"]), 0)
        if stage == "fit":
            found["loss"] = found["loss"] + loss
        self.log_dict(logged, batch_size=len(batch["label"]))


def module(with_lightlys: bool) -> Any:
    torch.manual_seed(0)
    parts = {
        "backbone": nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(1024, WIDTH), nn.ReLU(),
        ),
        "projector": nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, 64)),
    }  # fmt: skip
    if with_lightlys:
        parts["online_classifier"] = OnlineLinearClassifier(WIDTH, CLASSES, topk=(1,))
    return spt.Module(
        **parts, forward=forward, simclr_loss=spt.losses.NTXEntLoss(temperature=0.5),
        optim={"optimizer": {"type": "AdamW", "lr": 1e-3}, "scheduler": {"type": "ConstantLR", "factor": 1.0}},
    )  # fmt: skip


class Watch(pl.Callback):
    """Times of training steps, and what was logged at each epoch's end. Where asked, a probe fitted anew."""

    def __init__(self, key: str | None, truth: bool) -> None:
        self.key, self.truth = key, truth
        self.steps: list[float] = []
        self.found: dict[int, float] = {}
        self.closes: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.steps.append(now - self.begun)
        self.begun = now

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if trainer.sanity_checking or epoch % EVERY:
            return
        if self.truth:
            training = module.training
            module.eval()
            with torch.no_grad():
                (x, y), (a, b) = ((module.backbone(d.images).double(), d.labels) for d in map(Digits, (True, False)))
            module.train(training)
            scale = x.std()
            self.found[epoch] = LogisticRegression(max_iter=2000).fit(x / scale, y).score(a / scale, b)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if self.key is not None and epoch % EVERY == 0:
            self.found[epoch] = float(trainer.callback_metrics[self.key])


def ours() -> FeatureGeometryMonitor:
    return FeatureGeometryMonitor(
        layer="backbone", signals=["linear_probe_accuracy"], stages="val", num_classes=CLASSES,
        probe_sets={"train_clean": ProbeSet(loader(True), forward=lambda own, batch: own.backbone(batch["image"]))},
        reference="train_clean", neighbors=Neighbors(bank_size=2048),
    )  # fmt: skip


def stable_pretrainings(made: Any) -> Any:
    from torchmetrics.classification import MulticlassAccuracy

    return spt.callbacks.OnlineProbe(
        made, name="probe", input="embedding", target="label", probe=nn.Linear(WIDTH, CLASSES),
        loss=nn.CrossEntropyLoss(), metrics={"top1": MulticlassAccuracy(CLASSES, average="micro")},
    )  # fmt: skip


CASES: dict[str, tuple[str | None, Callable[[Any], list[Any]], bool]] = {
    "no probe": (None, lambda made: [], False),
    "`linear_probe_accuracy`": ("featgeo/val/linear_probe_accuracy", lambda made: [ours()], False),
    "stable-pretraining's `OnlineProbe`": ("eval/probe_top1", lambda made: [stable_pretrainings(made)], False),
    "lightly's `OnlineLinearClassifier`": ("val_online_cls_top1", lambda made: [], True),
    "fitted anew (the truth)": (None, lambda made: [], False),
}


def run(name: str, epochs: int) -> tuple[Watch, dict[str, Tensor], list[str], float]:
    key, callbacks, with_lightlys = CASES[name]
    made = module(with_lightlys)
    torch.manual_seed(1)
    more = callbacks(made)
    torch.manual_seed(2)
    watch = Watch(key, truth="truth" in name)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[*more, watch],
    )  # fmt: skip
    begun = time.perf_counter()
    trainer.fit(made, loader(True, shuffled=True), loader(False))
    seconds = time.perf_counter() - begun
    own = {name: value.clone() for name, value in made.state_dict().items() if name.startswith(("backbone", "proj"))}
    extra = [name for name in made.state_dict() if not name.startswith(("backbone", "proj"))]
    return watch, own, extra, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    spt.set(default_callbacks=dict.fromkeys(OFF, False), default_loggers={"registry": False}, requeue_checkpoint=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    steps: dict[str, list[float]] = {name: [] for name in CASES}
    totals: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(args.rounds):
        results = {name: run(name, args.epochs) for name in CASES}
        for name, (watch, _, _, seconds) in results.items():
            steps[name].append(statistics.median(watch.steps))
            totals[name].append(seconds)
    alone = results["no probe"][1]
    truth = results["fitted anew (the truth)"][0].found
    shown = sorted(truth)
    lines = [
        "# Linear probes while a network trains",
        "",
        f"{where()}. Command: `python benchmarks/online_probes.py`. SimCLR on scikit-learn's digits ({FIRST:,} trained "
        f"on, {1797 - FIRST} scored), features of {WIDTH} dimensions, batches of {BATCH}, {args.epochs} epochs, median "
        f"of {args.rounds} rounds, stable-pretraining {spt.__version__} with AdamW for the network.",
        "",
        "| probe | a training step | the whole run | what it adds to the module's state | the network's final weights |"
        + "".join(f" epoch {epoch} |" for epoch in shown),
        "|---" * (5 + len(shown)) + "|",
    ]
    for name, (watch, own, extra, _) in results.items():
        same = all(torch.equal(own[key], value) for key, value in alone.items())
        lines.append(
            f"| {name} | {1e3 * statistics.median(steps[name]):.2f} ms | {statistics.median(totals[name]):.1f} s | "
            f"{len(extra) or 'no'} entries | {'bitwise the same' if same else '**changed**'} |"
            + "".join(f" {watch.found[epoch]:.3f} |" if epoch in watch.found else " – |" for epoch in shown)
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
