"""Probe sets leave no trace of what forwards write, log, compile and draw."""

from __future__ import annotations

import functools
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.data import BatchSampler, DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from lightning_featgeo import ProbeSet
from lightning_featgeo.errors import ConfigurationError
from tests._helpers.data import digits
from tests._helpers.models import Classifier, loaders, strict, trainer
from tests._helpers.probes import some


class Merging(nn.Linear):
    """Adds its adapter to its weight in evaluation, as LoRA layers do."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        self.adapter = nn.Parameter(torch.full((b, a), 0.01))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.weight += -self.adapter if mode else self.adapter
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.merged else self.weight + self.adapter
        return nn.functional.linear(x, weight, self.bias)


class Leaky(Classifier):
    """Its forward logs, counts into a buffer, replaces another one, and updates a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Merging(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.mean = torchmetrics.MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        self.last = x.mean()
        self.mean.update(x.mean())
        if self._trainer is not None:
            self.log("seen", x.mean(), on_step=False, on_epoch=True)
        return self.net(x)

    def on_train_epoch_end(self) -> None:
        self.log("metric", self.mean.compute())


def run(stages: str, probes: bool) -> tuple[Tensor, dict[str, float]]:
    pl.seed_everything(3, verbose=False)
    model = Leaky()
    model.net[1].eval()
    sets = {"far": ProbeSet([(torch.full((50, 64), 9.0), torch.zeros(50, dtype=torch.int64))])} if probes else None
    monitor = strict(signals=["feature_std"], stages=stages, probe_sets=sets)
    made = trainer(monitor, max_epochs=2, num_sanity_val_steps=0)
    made.fit(model, *loaders(shuffle=False))
    logged = {k: float(v) for k, v in made.callback_metrics.items() if not k.startswith("featgeo")}
    assert [name for name, one in model.named_modules() if not one.training] == ["net.1"]
    return torch.cat([v.flatten().double() for v in model.state_dict().values()]), logged


@pytest.mark.parametrize("stages", ["val", "train"])
def test_what_a_forward_writes_and_logs_is_put_back(stages: str) -> None:
    plain, watched = run(stages, probes=False), run(stages, probes=True)
    assert torch.equal(plain[0], watched[0])
    assert plain[1] == watched[1]
    assert {"seen", "metric"} <= set(plain[1])


class Noisy(Dataset):
    """Draws from generators of its own."""

    def __init__(self) -> None:
        self.numpy, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 128

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(64, generator=self.torch) + float(self.numpy.normal())
        return digits()[0][index] / 16 + noise, digits()[1][index]


def test_generators_of_a_shared_data_set_are_put_back() -> None:
    def weights(probes: bool) -> Tensor:
        torch.manual_seed(0)
        data, model = Noisy(), Classifier()
        sets = {"again": DataLoader(data, 64, shuffle=True)} if probes else None
        monitor = strict(signals=["feature_std"], stages="train", probe_sets=sets)
        trainer(monitor, max_epochs=2).fit(model, DataLoader(data, 32))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(probes=False), weights(probes=True))


class Shared(Dataset):
    """Training data and a set draw from one generator, which is held where nobody would look first."""

    def __init__(self, transform: Any, x: Tensor, y: Tensor) -> None:
        self._transform, self.x, self.y = transform, x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self._transform(self.x[i]), self.y[i]


class Jitter:
    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __call__(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.from_numpy(self.generator.standard_normal(x.shape)).float()


@pytest.mark.parametrize("how", ["object", "closure", "partial", "method", "default"])
def test_generators_that_functions_hold_are_put_back(how: str) -> None:
    def weights(probes: bool) -> Tensor:
        pl.seed_everything(3, verbose=False)
        jitter = Jitter()
        transform = {
            "object": lambda: jitter,
            "closure": lambda: lambda x: jitter(x),
            "partial": lambda: functools.partial(Jitter.__call__, jitter),
            "method": lambda: jitter.__call__,
            "default": lambda: lambda x, by=jitter: by(x),
        }[how]()
        x, y = digits()
        model, sets = (
            Classifier(),
            {"clean": DataLoader(Shared(transform, x[:64] / 16, y[:64]), 32)} if probes else None,
        )
        loader = DataLoader(Shared(transform, x[100:200] / 16, y[100:200]), 32)
        trainer(strict(signals=["feature_std"], probe_sets=sets), max_epochs=2).fit(model, loader, loaders()[1])
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(True), weights(False))


def test_a_sparse_buffer_can_be_trained_with_after_an_evaluation_alone() -> None:
    class Graph(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("links", torch.eye(64).to_sparse())
            self.weight = nn.Parameter(torch.ones(64, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x * (self.links @ self.weight)[:, 0])

    model = Graph()
    before = model.links
    monitor = strict(signals=["feature_std"], probe_sets={"clean": some()}, head="net.3")
    trainer(monitor).validate(model, some(300), verbose=False)
    assert model.links is before
    trainer(max_epochs=1).fit(model, *loaders())


class Augmenting(Classifier):
    """Augments on the device, where the Trainer trains: as Kornia's users do."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (batch[0] * 100, batch[1]) if self.trainer.training else batch


def test_a_training_fit_does_not_augment_probe_sets() -> None:
    model, clean = Augmenting(), some()
    monitor = strict(signals=["feature_std"], stages="train", probe_sets={"clean": clean})
    trainer(monitor, max_epochs=1, limit_val_batches=0).fit(model, loaders()[0])
    record = monitor.history.records[-1]
    model.eval()
    with torch.no_grad():
        rows = model.net[:-1](clean.dataset.tensors[0]).double()
    expected = nn.functional.normalize(rows, dim=1).std(dim=0).mean() * rows.shape[1] ** 0.5
    assert record.stage == "clean"
    assert record.values["feature_std"] == pytest.approx(float(expected), rel=1e-5)


def test_a_loader_of_the_trainer_with_workers_is_read_by_a_loader_of_its_own() -> None:
    steps = []
    for probes in (False, True):
        train = some(shuffle=True, num_workers=1, persistent_workers=True)
        monitor = strict(signals=["feature_std"], probe_sets={"train_again": train} if probes else None)
        made = trainer(monitor, max_epochs=1, val_check_interval=2, num_sanity_val_steps=0)
        made.fit(Classifier(), train, some(400))
        steps.append(made.global_step)
    assert steps == [4, 4]

    class Own(DataLoader):
        """Of nobody's kind: it can't be made again."""

    own = Own(some().dataset, 32)
    with pytest.raises(ConfigurationError, match="Give it a loader of its own"):
        trainer(strict(probe_sets={"train_again": own}), max_epochs=1).fit(Classifier(), own, some(400))


class OddBuffers(Classifier):
    """Buffers that can't be compared or written in place, one that its first forward makes, and a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("expanded", torch.zeros(1).expand(4))
        self.register_buffer("late", None)
        self._noise, self.seen = (
            torch.Generator().manual_seed(0),
            torchmetrics.wrappers.Running(torchmetrics.MeanMetric()),
        )

    def forward(self, x: Tensor) -> Tensor:
        self.late = x.mean() if self.late is None else self.late
        self.expanded = self.expanded + 1
        self.seen.update(x.mean())
        return self.net(x + 0.1 * torch.randn(x.shape, generator=self._noise))


def test_odd_buffers_and_generators_of_the_model_are_put_back() -> None:
    def state(probes: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = OddBuffers()
        sets = {"far": ProbeSet([(torch.full((50, 64), 9.0), torch.zeros(50, dtype=torch.int64))])} if probes else None
        monitor = strict(signals=["feature_std"], probe_sets=sets)
        trainer(monitor, max_epochs=2, num_sanity_val_steps=0).fit(model, *loaders(shuffle=False))
        return [*model.parameters(), model.late, model.expanded, model.sparse.to_dense(), model.seen.compute()]

    for plain, watched in zip(state(probes=False), state(probes=True), strict=True):
        assert torch.equal(plain, watched)


def test_a_forward_that_writes_into_its_batch_does_not_change_a_list_of_batches() -> None:
    class InPlace(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.mul_(0.5))

    given = some().dataset.tensors
    listed = [(given[0].clone(), given[1])]
    monitor = strict(signals=["feature_std"], probe_sets={"listed": listed})
    trainer(monitor, max_epochs=3).fit(InPlace(), *loaders())
    assert torch.equal(listed[0][0], given[0])


def test_a_loader_with_batches_of_its_own_is_read_as_it_is() -> None:
    x, y = digits()
    chosen = SubsetRandomSampler(range(40), generator=torch.Generator().manual_seed(0))
    own = DataLoader(TensorDataset(x[:100] / 16, y[:100]), batch_sampler=BatchSampler(chosen, 32, False))
    monitor = strict(signals=["feature_std"], probe_sets={"own": own})
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    assert monitor.history.records[-1].values["n_samples"] == 40


@pytest.mark.compiler
def test_a_compiled_network_is_not_compiled_anew_for_a_set() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    model = Classifier()
    model.net = torch.compile(model.net, backend=counter)
    monitor = strict(signals=["feature_std"], probe_sets={"odd": some(n=37)}, head="net.3")
    trainer(monitor, max_epochs=2, num_sanity_val_steps=0).fit(model, *loaders(val=192))
    with_sets = counter.frame_count
    torch._dynamo.reset()
    alone, model = CompileCounter(), Classifier()
    model.net = torch.compile(model.net, backend=alone)
    trainer(strict(signals=["feature_std"], head="net.3"), max_epochs=2, num_sanity_val_steps=0).fit(
        model, *loaders(val=192)
    )
    assert with_sets == alone.frame_count > 0
    assert [r.values["n_samples"] for r in monitor.history if r.stage == "odd"] == [37, 37]
