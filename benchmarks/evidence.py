"""What it costs a training step to know whose rows it has: an MLP, a ResNet-18 and a transformer encoder.

    python benchmarks/evidence.py [--out benchmarks/results/evidence.md]

CPU time of the calling thread: of hooks on what enters the network, of comparing it with the batch, of choosing calls
and of looking at the loss's graph; beside the CPU time of the whole step. What a timer itself takes is measured and
taken off.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.capture import entrance
from lightning_featgeo.capture.sources import Sources
from lightning_featgeo.rows.evidence import Evidence

FIRST = 3  # steps in which values are compared
spent = [0.0, 0.0]  # seconds, and timed calls


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[0] += time.thread_time() - begin
            spent[1] += 1

    return run


def timers_own(calls: int = 20_000) -> float:
    """Seconds that a timed call of nothing seems to take."""
    spent[:] = [0.0, 0.0]
    nothing = timed(lambda: None)
    for _ in range(calls):
        nothing()
    return spent[0] / calls


class Block(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
        )  # fmt: skip
        shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        self.shortcut = shortcut if stride > 1 or a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


def resnet18() -> nn.Sequential:
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = [Block(*size) for size in [*sizes, (512, 512, 1)]]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
        self.embed, self.encoder = nn.Embedding(1000, 128), nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(128, 10)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids)).mean(dim=1))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], int, int]] = {
    "MLP, 64 × 64": (mlp, lambda n: torch.randn(n, 64), 64, 300),
    "the same, copied and shuffled in the step": (mlp, lambda n: torch.randn(n, 64), 64, 300),
    "ResNet-18, 16 × 3 × 224 × 224": (resnet18, lambda n: torch.randn(n, 3, 224, 224), 16, 10),
    "transformer, 32 × 64 tokens, 4 layers": (Transformer, lambda n: torch.randint(0, 1000, (n, 64)), 32, 40),
}


class Net(L.LightningModule):
    def __init__(self, net: nn.Module, shuffles: bool) -> None:
        super().__init__()
        self.net, self.shuffles = net, shuffles

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if self.shuffles:
            order = torch.randperm(len(x))
            x, y = x[order], y[order]
        return cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Clock(L.Callback):
    """CPU seconds of each step, and of the evidence in it.

    ``own``: seconds of a timer, for each timed call.
    """

    def __init__(self, own: float) -> None:
        self.own = own
        self.steps: list[tuple[float, float]] = []
        self._begin: tuple[float, float] | None = None

    def on_train_batch_start(self, *args: Any) -> None:
        now = time.thread_time(), spent[0] - self.own * spent[1]
        if self._begin is not None:
            self.steps.append((now[0] - self._begin[0], now[1] - self._begin[1]))
        self._begin = now


def measure(name: str) -> str:
    make, inputs, size, steps = CASES[name]
    torch.manual_seed(0)
    x = inputs(size * steps)
    clock = Clock(min(timers_own() for _ in range(5)))
    run = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[clock, FeatureGeometryMonitor(stages="train")],
    )  # fmt: skip
    data = DataLoader(TensorDataset(x, torch.randint(0, 10, (len(x),))), size)
    run.fit(Net(make(), "shuffled" in name), data)
    first, later = clock.steps[:FIRST], clock.steps[FIRST + 1 :]
    step, evidence = (statistics.median(one[i] for one in later) for i in (0, 1))
    return (
        f"| {name} | {statistics.mean(one[1] for one in first) * 1e6:,.0f} | {evidence * 1e6:,.0f} "
        f"| {step * 1e3:,.2f} | {evidence / step:.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for holder, names in (
        (Evidence, ["choose"]),
        (entrance.Entrance, ["open", "close", "of"]),
        (Sources, ["note_loss"]),
    ):
        for method in names:
            setattr(holder, method, timed(getattr(holder, method)))
    entrance.note_before, entrance.note_after = timed(entrance.note_before), timed(entrance.note_after)
    entrance.note_inside = timed(entrance.note_inside)
    lines = [
        "# What evidence costs a step",
        "",
        "`python benchmarks/evidence.py`; CPU time of one thread, torch "
        + torch.__version__
        + ". The first steps compare "
        f"values ({FIRST} of them); later ones do so where they have to (medians).",
        "",
        "| network, batch | first steps, µs | later steps, µs | a whole step, ms | share |",
        "|---|---:|---:|---:|---:|",
        *map(measure, CASES),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
