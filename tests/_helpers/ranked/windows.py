"""Windows over several processes: the same curves, other loaders, references and samples. Run on each rank."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_featgeo import Display, FeatureGeometryMonitor, GeometryMetric, Neighbors, Windows
from lightning_featgeo.callbacks import publishing
from lightning_featgeo.callbacks.display import LoggerDisplay
from lightning_featgeo.distributed.ranks import RankFailure
from lightning_featgeo.metrics.details import Details
from tests._helpers.data import digits
from tests._helpers.ranked import several
from tests._helpers.still import SIGNALS, VAL, Still, digit_loaders, still, told


def curves(size: int, settings: dict[str, Any]) -> dict[str, Any]:
    """A short run of a model that doesn't move: its records, what was logged, and what was said."""
    monitor = FeatureGeometryMonitor(
        **{"signals": SIGNALS, "stages": ("train", "val"), "on_error": "raise", **settings}
    )
    run = several(size, monitor, max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, val = digit_loaders()
        if size > 1:  # Lightning would shuffle it
            mine = DistributedSampler(train.dataset, size, int(os.environ["RANK"]), shuffle=False)
            train = DataLoader(train.dataset, 32, sampler=mine)
        run.fit(still(), train, val)
    logged = {k: float(v) for k, v in run.callback_metrics.items() if k.startswith("featgeo")}
    sync = [str(w.message) for w in caught if "sync_dist" in str(w.message) and "featgeo" in str(w.message)]
    return {"records": told(monitor), "logged": logged, "sync_warnings": sync, "described": monitor.history.run}


def hidden(size: int) -> dict[str, Any]:
    """A rank whose rows are all ignored, another whose classes are few, and NaN on one."""

    class Odd(Still):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

    x, y = digits()
    x, y = x[:120].clone() / 16, y[:120].clone()
    rank = int(os.environ["RANK"])
    if rank == 0:
        x[:] = torch.nan
    if rank == 1:
        y[y > 2] = -100
    monitor = FeatureGeometryMonitor(signals=["feature_std", "nc1"])
    run = several(size, monitor, max_epochs=1, use_distributed_sampler=False)
    loader = DataLoader(TensorDataset(x, y), 40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(Odd(), digit_loaders()[0], loader)
    return {"records": told(monitor), "said": [str(w.message) for w in caught if "featgeo" in str(w.message)]}


def unprovable(size: int) -> dict[str, Any]:
    """A sampler of the user's own: nothing is dropped, and the bound is stated."""

    class Own(torch.utils.data.Sampler[int]):
        def __init__(self, n: int, rank: int) -> None:
            self.own = [i % n for i in range(rank, -(-n // size) * size, size)]

        def __iter__(self) -> Any:
            return iter(self.own)

        def __len__(self) -> int:
            return len(self.own)

    monitor = FeatureGeometryMonitor(signals=["feature_std", "n_samples"])
    run = several(size, monitor, max_epochs=1, use_distributed_sampler=False)
    train, val = digit_loaders()
    val = DataLoader(val.dataset, 32, sampler=Own(VAL, int(os.environ["RANK"])))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(still(), train, val)
    return {"records": told(monitor), "said": [str(w.message) for w in caught if "counted twice" in str(w.message)]}


def compared(size: int) -> dict[str, Any]:
    """Two validation loaders, one the other's reference and one of fewer samples than ranks; windows of n steps."""
    monitor = FeatureGeometryMonitor(
        signals=["feature_std", "knn_accuracy", "fidelity_precision", "knn_ood_auroc", "frechet_distance", "nc1"],
        stages=("train", "val"), loader_names=("val", "clean", "tiny"), reference="clean",
        windows=Windows(every_n_train_steps=2), neighbors=Neighbors(knn_k=20),
    )  # fmt: skip
    run = several(size, monitor, max_epochs=1)
    train, val = digit_loaders()
    tiny = DataLoader(torch.utils.data.Subset(val.dataset, [3]), 32)
    clean = DataLoader(train.dataset, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(still(), train, [val, clean, tiny])
    return {"records": told(monitor), "steps": [r.step for r in monitor.history]}


class Stream(torch.utils.data.IterableDataset):
    """All samples on rank 0, none on the others."""

    def __init__(self, data: torch.utils.data.Dataset) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter([self.data[i] for i in range(len(self.data))] if os.environ["RANK"] == "0" else [])


def empty_reference(size: int, order: str) -> dict[str, Any]:
    """A reference loader of which one rank gets nothing, before or behind the loader that is compared."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    monitor = FeatureGeometryMonitor(
        signals="auto" if order == "auto" else ["fidelity_precision", "knn_accuracy", "feature_std"],
        loader_names=("clean", "val") if order != "behind" else ("val", "clean"), reference="clean",
        neighbors=Neighbors(knn_k=20),
    )  # fmt: skip
    best = ModelCheckpoint(Path.cwd() / "best", monitor="featgeo/clean/feature_std", auto_insert_metric_name=False)
    run = several(size, monitor, best, max_epochs=2, num_sanity_val_steps=0, enable_checkpointing=True)
    train, val = digit_loaders()
    both = [DataLoader(Stream(train.dataset), 32), val]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(still(), train, both if order != "behind" else both[::-1])
    logged = sorted(name for name in run.callback_metrics if name.startswith("featgeo/"))
    return {"records": told(monitor), "logged": logged}


def of_other_sizes(size: int, kind: str) -> dict[str, Any]:
    """Samples that make three rows each; or a data set of its own on every rank."""
    x, y = digits()
    rank = int(os.environ["RANK"])
    data = TensorDataset(x[:121] / 16, y[:121])
    how: dict[str, Any] = {}
    if kind == "crops":
        how["collate_fn"] = lambda samples: [
            torch.stack([sample[part] for sample in samples]).repeat_interleave(3, 0) for part in (0, 1)
        ]
    elif size > 1:
        data = torch.utils.data.Subset(data, range(90) if rank == 0 else range(90, 121))
    monitor = FeatureGeometryMonitor(signals=["n_samples", "effective_rank"], on_error="raise")
    run = several(size, monitor, max_epochs=1, use_distributed_sampler=kind == "crops")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(still(), digit_loaders()[0], DataLoader(data, 10, **how))
    return {"records": told(monitor)}


def identified(size: int) -> dict[str, Any]:
    """Tables of a run whose samples have names: what rank 0 could show of its last window."""
    shown: list[Any] = []
    publish = publishing.Publisher.publish

    def listening(self: Any, pl_module: Any, closed: Any, *args: Any) -> None:
        shown.append(closed)
        publish(self, pl_module, closed, *args)

    publishing.Publisher.publish = listening
    LoggerDisplay.details = property(lambda self: Details())  # tables, although no logger asks for them
    monitor = FeatureGeometryMonitor(
        signals=["id_two_nn"], display=Display(id_key=2), neighbors=Neighbors(bank_size=200), on_error="raise"
    )
    x, y = digits()
    names = torch.arange(1000, 1000 + VAL)
    loader = DataLoader(TensorDataset(x[:VAL] / 16, y[:VAL], names), 32)
    several(size, monitor, max_epochs=1).fit(still(), digit_loaders()[0], loader)
    curves = shown[-1].curves
    return {"samples": curves["low_samples"].tolist() if curves else None, "ids": dict(shown[-1].ids)}


class Projected(Still):
    """A contrastive model whose validation runs the backbone; on the rank that is ``blind``, training tells nothing."""

    def __init__(self, validates: str, blind: int | None) -> None:
        super().__init__()
        self.net = torch.nn.Identity()
        self.backbone = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU())
        self.projector = torch.nn.Linear(32, 16)
        self.validates, self.blind = validates, blind

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x = batch[0] / 16
        a, b = (self.projector(self.backbone(x + 0.1 * torch.randn_like(x))) for _ in range(2))
        if int(os.environ["RANK"]) == self.blind:
            return (a + b).square().mean()
        a, b = torch.nn.functional.normalize(a, dim=1), torch.nn.functional.normalize(b, dim=1)
        return torch.nn.functional.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        h = self.backbone(batch[0] / 16)
        if self.validates == "all":
            self.projector(h)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def projected(size: int, validates: str, blind: int | None = None) -> dict[str, Any]:
    """Which windows there are of what a loss compares, where nobody has named a layer."""
    torch.manual_seed(0)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    run = several(size, monitor, max_epochs=3)
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run.fit(Projected(validates, blind), *digit_loaders())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    shown = [(r.stage, r.layer, r.epoch, r.counts.get("seen"), r.values) for r in monitor.history]
    return {"records": shown, "said": said}


def waiting_reference(size: int) -> dict[str, Any]:
    """Two metrics that are compared while rows of both still wait; and a reference that fails on one rank."""
    names, rank = ["frechet_distance", "knn_ood_auroc"], int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    x = digits()[0] / 16
    reference, metric = (GeometryMetric(names, has_reference=True, sync_on_compute=True) for _ in range(2))
    for start in range(0, 600, 20):
        if start // 20 % size == rank:
            index = torch.arange(start, start + 20)
            reference.update(x[index], sample_index=index)
            metric.update(x[index + 700] + 0.1, sample_index=index)
    assert reference._waiting.batches
    found = metric.window(reference)
    failed = ""
    if size > 1:
        if rank == 1:
            reference._lost = True
        try:
            metric.window(reference)
        except RankFailure as failure:
            failed = str(failure)
    return {"values": found.values, "counts": found.counts, "failed": failed}


class FailsOnRankOne:
    """Batches that rank 1 can't read to their end."""

    def __iter__(self) -> Any:
        x, y = digits()
        for start in range(0, 40, 10):
            if start == 20 and os.environ["RANK"] == "1":
                raise OSError("no such file")
            yield x[start : start + 10] / 16, y[start : start + 10]


def probed(size: int, reference_rows: str, reference: str) -> dict[str, Any]:
    """Probe sets: one that is divided, one that every rank reads whole, and one that fails on a rank."""
    x, y = digits()
    sets = {
        "divided": DataLoader(TensorDataset(x[:99] / 16, y[:99]), 10, shuffle=True),
        "listed": [(x[i : i + 10] / 16, y[i : i + 10]) for i in range(0, 70, 10)],
        "one_batch": [(x[200:260] / 16, y[200:260])],
        "fails": FailsOnRankOne(),
    }
    monitor = FeatureGeometryMonitor(
        signals=["feature_std", "knn_accuracy", "knn_log_density", "nc1"], reference=reference, probe_sets=sets,
        neighbors=Neighbors(k=5, knn_k=10, bank_size=40, reference_rows=reference_rows),
    )  # fmt: skip
    run = several(size, monitor, max_epochs=1, num_sanity_val_steps=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(still(), *digit_loaders())
    return {"records": told(monitor)}


def by_id(size: int) -> dict[str, Any]:
    """Loaders that shuffle otherwise in each epoch, and samples with ids."""
    x, y = digits()

    def loader(part: slice) -> DataLoader:
        return DataLoader(TensorDataset(x[part] / 16, y[part], torch.arange(len(x))[part]), 32, shuffle=True)

    monitor = FeatureGeometryMonitor(
        signals=["neighbor_churn", "cka_drift", "label_disagreement"], stages=("train", "val"), on_error="raise",
        labels=1, display=Display(id_key=2), neighbors=Neighbors(bank_size=120),
    )  # fmt: skip
    run = several(size, monitor, max_epochs=3, num_sanity_val_steps=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(still(), loader(slice(0, 320)), loader(slice(400, 720)))
    return {"records": told(monitor)}
