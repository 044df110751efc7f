"""What happens to rows inside of the network: worked through in pieces, stored, sorted, replaced, too few to tell."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric
from tests._helpers.blobs import CLASSES, Net, blobs, fit, same
from tests._helpers.models import trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes


@pytest.mark.parametrize("pieces", [1, 4])
def test_pieces_of_a_batch_behind_a_module_that_gives_a_view_of_its_input(pieces: int) -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        losses = []
        for part, labels in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
            features = net.keep(torch.relu(net.body(net.flat(part))), labels)
            losses.append(cross_entropy(net.head(features), labels))
        return torch.stack(losses).mean()

    record, right = fit(step, blobs(96, (3, 4, 4)))
    assert record.counts["seen"] == 96
    same(record, right)


def test_stored_rows_are_not_said_to_be_known() -> None:
    queue = torch.randn(208, 24)

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(10, 24), nn.Linear(24, CLASSES)

        def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor:
            h = torch.tanh(self.inner(x))
            return h if features else self.head(h)

    class Stores(pl.LightningModule):
        def __init__(self, warm: int) -> None:
            super().__init__()
            self.net, self.warm = Body(), warm

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.global_step < self.warm:
                return cross_entropy(self.net(batch[0]), batch[1])
            made = self.net(batch[0], features=True)
            return self.net.head(queue[: len(made)]).logsumexp(1).mean() + made.square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    for warm, words in ((0, "is no copy of the batch"), (5, "nothing shows what became of it")):
        monitor = FeatureGeometryMonitor(head="net.head", signals=["feature_std"], stages="train")
        trainer(monitor, max_epochs=1).fit(Stores(warm), DataLoader(blobs(), 16))
        told = [monitor.history.run["rows"], *map(str, monitor.history.records[-1].notes)]
        assert any("not verified" in str(one) and words in str(one) for one in told), told


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("by_sample", [False, True])
def test_two_changed_views_of_a_last_batch_that_is_too_small_to_tell(last: int, by_sample: bool) -> None:
    class SimCLR(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, n = batch[0], len(batch[0])
            views = torch.stack([x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)], dim=int(by_sample))
            h = torch.relu(self.body(views.reshape(2 * n, -1)))
            z = normalize(self.head(h), dim=1).reshape((n, 2, -1) if by_sample else (2, n, -1))
            one, other = (z[:, 0], z[:, 1]) if by_sample else (z[0], z[1])
            return cross_entropy(one @ other.T / 0.2, torch.arange(n))

    torch.manual_seed(0)
    monitor = FeatureGeometryMonitor(layer="body", signals=["alignment"], stages="train", on_error="raise")
    x = 2 * torch.randn(96 + last, 32)
    data = TensorDataset(x)
    net = SimCLR(lambda: torch.zeros(()), 32)
    body: list[torch.Tensor] = []
    net.body.register_forward_hook(lambda module, given, out: body.append(out.detach()))
    trainer(monitor, max_epochs=1).fit(net, DataLoader(data, 16))
    record = monitor.history.records[-1]
    assert record.values["n_samples"] == 96 + last
    pairs = [out.reshape((-1, 2, 24)) if by_sample else out.reshape((2, -1, 24)).transpose(0, 1) for out in body]
    units = normalize(torch.cat(pairs).double(), dim=2)
    right = float((units[:, 0] - units[:, 1]).square().sum(dim=1).mean())
    assert record.values["alignment"] == pytest.approx(right, rel=1e-5)


def test_rows_that_are_sorted_from_some_batch_on() -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(x),), 3) if net.global_step < 4 else torch.randint(1, 9, (len(x),))
        order = lengths.argsort(stable=True)
        h = torch.tanh(net.body(x))[order]
        return cross_entropy(net.head(net.keep(h, y[order])), y[order])

    same(*fit(step, blobs()))


MODES = ("shuffled before", "shuffled between", "selected between", "others first")


@pytest.mark.parametrize("how", MODES)
def test_one_module_that_is_called_for_features_and_then_for_classes(how: str) -> None:
    """As under DDP: nothing but this module is called, twice, and what lies between is linked in every batch."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(10, 24), nn.Linear(24, CLASSES)

        def forward(self, x: torch.Tensor, what: str) -> torch.Tensor:
            return torch.tanh(self.inner(x)) if what == "features" else self.head(x)

    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(x))
        loss = torch.zeros(())
        if how == "others first":
            loss = net.two(net.two(4 * torch.randn_like(x), "features"), "classes").logsumexp(1).mean()
        x, y = (x[order], y[order]) if how == "shuffled before" else (x, y)
        h = net.two(x, "features")
        if how == "shuffled between":
            h, y = h[order], y[order]
        elif how == "selected between":
            h, y = h[order[:5]], y[order[:5]]
        return loss + cross_entropy(net.two(net.keep(h, y), "classes"), y)

    torch.manual_seed(0)
    net = Net(step)
    del net.flat, net.body, net.head
    net.two = Body()
    monitor = FeatureGeometryMonitor(signals=["nc1", "feature_std"], stages="train", on_error="raise")
    trainer(monitor, max_epochs=1).fit(net, DataLoader(blobs(), 16))
    metric = GeometryMetric(["nc1", "feature_std"], num_classes=CLASSES)
    for features, labels in net.kept:
        metric.update(features, labels)
    same(monitor.history.records[-1], metric.window())


def test_rows_that_others_take_the_places_of_are_left_out() -> None:
    store = 3 * torch.randn(500, 10)

    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        replaced = torch.rand(len(x)) < 0.25
        x = torch.where(replaced[:, None], store[torch.randint(500, (len(x),))], x)
        h = torch.tanh(net.body(x))
        net.keep(h[~replaced], y[~replaced])
        return (cross_entropy(net.head(h), y, reduction="none") * ~replaced).mean()

    record, right = fit(step, blobs())
    same(record, right)
    assert any("no samples of the batch" in note for note in record.notes)


def test_token_ids_that_are_sorted_beside_a_mask_as_wide() -> None:
    lengths, y = torch.randint(8, 20, (208,)), torch.arange(208) % CLASSES
    mask = (torch.arange(20) < lengths[:, None]).long()
    ids = torch.randint(10, 90, (208, 20)) * mask

    def step(net: Net, ids: torch.Tensor, mask: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        order = mask.sum(1).argsort(descending=True)
        h = torch.tanh(net.body(ids[order], mask[order]))
        return cross_entropy(net.head(net.keep(h, y[order])), y[order])

    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(90, 24)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (self.table(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    torch.manual_seed(0)
    net = Net(step)
    net.body = Embedded()
    monitor = FeatureGeometryMonitor(signals=["nc1", "feature_std"], stages="train", on_error="raise", labels=2)
    trainer(monitor, max_epochs=1).fit(net, DataLoader(TensorDataset(ids, mask, y), 16))
    metric = GeometryMetric(["nc1", "feature_std"], num_classes=CLASSES)
    for features, labels in net.kept:
        metric.update(features, labels)
    same(monitor.history.records[-1], metric.window())


def test_a_head_that_is_all_there_is_on_stored_features() -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(x))
        return cross_entropy(net.head(net.keep(x[order], y[order])), y[order])

    same(*fit(step, blobs(208, (24,))))


def test_a_layer_that_an_adapter_is_put_around_is_watched_with_it() -> None:
    class Adapter(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.more = inner, nn.Linear(10, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.more(x)

    class Wraps(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.body = Adapter(pl_module.body)
                pl_module.kept.clear()

    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(net.head(net.keep(net.body(x), y)), y)

    torch.manual_seed(0)
    net = Net(step)
    monitor = FeatureGeometryMonitor(layer="body", signals=["nc1", "feature_std"], num_classes=CLASSES, stages="train")
    trainer(Wraps(), monitor, max_epochs=2).fit(net, DataLoader(blobs(), 16))
    metric = GeometryMetric(["nc1", "feature_std"], num_classes=CLASSES)
    for features, labels in net.kept:
        metric.update(features, labels)
    same(monitor.history.records[-1], metric.window())
