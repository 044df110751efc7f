"""What happens to rows inside of the network: worked through in pieces, mixed, stored, sorted late, too few to tell."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor, GeometryMetric
from tests._helpers.models import trainer

CLASSES = 5
pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes


def blobs(n: int = 208, shape: tuple[int, ...] = (10,)) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    return TensorDataset(
        2 * torch.randn(CLASSES, *shape, generator=generator)[y] + torch.randn(n, *shape, generator=generator), y
    )


class Net(pl.LightningModule):
    """``step(net, x, y)`` is what a test is about; rows and labels that it gives are kept."""

    def __init__(self, step: Callable[..., torch.Tensor], d: int = 10) -> None:
        super().__init__()
        self.flat, self.body, self.head = nn.Flatten(), nn.Linear(d, 24), nn.Linear(24, CLASSES)
        self.step, self.kept = step, []

    def keep(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        none = torch.full((len(features),), -1)
        self.kept.append((features.detach().clone(), none if labels is None else labels))
        return features

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.step(self, *batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(step: Callable[..., torch.Tensor], data: TensorDataset, batch: int = 16) -> tuple[Any, Any]:
    """The record of an epoch, and what the same rows give a metric that is told everything."""
    torch.manual_seed(0)
    net = Net(step, data.tensors[0][0].numel())
    monitor = FeatureGeometryMonitor(signals=["nc1", "feature_std"], stages="train", on_error="raise")
    trainer(monitor, max_epochs=1).fit(net, DataLoader(data, batch))
    metric = GeometryMetric(["nc1", "feature_std"], num_classes=CLASSES)
    for features, labels in net.kept:
        metric.update(features, labels)
    return monitor.history.records[-1], metric.window()


def same(record: Any, right: Any) -> None:
    assert record.counts["labelled"] == right.counts["labelled"]
    assert record.values == pytest.approx(right.values, rel=1e-5)


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


WRITTEN = {  # h + λ·(other − h) in other words
    "step towards": lambda h, other: h + 0.3 * (other - h),
    "step away": lambda h, other: h - 0.3 * (h - other),
    "addcmul": lambda h, other: torch.addcmul(0.7 * h, other, torch.full_like(h, 0.3)),
    "leaf": lambda h, other: 0.7 * h + 0.3 * other,
}


@pytest.mark.parametrize(
    "how", ["index", "index all columns", "flip", "roll", "lerp", "before a layer", "later", *WRITTEN]
)
def test_features_that_are_mixed_have_no_class(how: str) -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        other = torch.randperm(len(x))
        h = torch.tanh(net.body(x))
        if how == "before a layer":
            h = torch.relu((0.3 * h + 0.7 * h[other]) @ torch.eye(24))
        elif how in WRITTEN:
            h = h.detach().requires_grad_() if how == "leaf" else h
            h = WRITTEN[how](h, h[other])
        elif how == "later" and net.global_step < 6:
            return cross_entropy(net.head(net.keep(h, y)), y)
        else:
            others = {
                "index": lambda: h[other], "index all columns": lambda: h[other, :], "flip": lambda: h.flip(0),
                "roll": lambda: h.roll(1, 0), "lerp": lambda: h[other], "later": lambda: h[other],
            }[how]()  # fmt: skip
            h = torch.lerp(h, others, 0.3) if how == "lerp" else 0.7 * h + (1 - 0.7) * others
        out = net.head(net.keep(h))
        return 0.5 * cross_entropy(out, y) + 0.5 * cross_entropy(out, y[other])

    record, right = fit(step, blobs())
    same(record, right)
    assert any("mixtures" in note for note in record.notes)


@pytest.mark.parametrize("how", ["residual", "neighbours", "difference", "columns", "positions", "two differences"])
def test_sums_that_mix_no_samples_keep_their_labels(how: str) -> None:
    table = nn.Parameter(torch.randn(40, 24))
    columns = torch.randperm(24)

    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(net.body(x))
        near = torch.arange(len(x)).roll(1)
        h = {
            "residual": lambda: h + torch.relu(0.5 * h),
            "neighbours": lambda: h + torch.zeros_like(h).index_add(0, near, 0.1 * h[near]),  # a graph's messages
            "difference": lambda: h - 0.1 * h[near],
            "two differences": lambda: (h - h.mean(0)) - 0.1 * (h - h.mean(1, keepdim=True)),
            "columns": lambda: h + h[:, columns],
            "positions": lambda: h + table[torch.arange(len(x))],
        }[how]()
        return cross_entropy(net.head(net.keep(h, y)), y)

    same(*fit(step, blobs()))


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


@pytest.mark.parametrize("batch", [4, 8, 16])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_inputs_that_were_mixed_with_themselves_in_part(batch: int, kind: str) -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        other = torch.randperm(len(x))
        pure = torch.where(other == torch.arange(len(x)), y, -1)  # a sample that met itself is no mixture
        x = 0.75 * x + 0.25 * x[other] if kind == "mixup" else torch.cat([x[:, :20], x[other, 20:]], dim=1)
        out = net.head(net.keep(torch.tanh(net.body(x)), pure))
        return cross_entropy(out, y) + cross_entropy(out, y[other])

    record, right = fit(step, blobs(shape=(32,)), batch)
    assert record.counts["seen"] == 208
    least = right.counts["labelled"] if batch < 16 else 0  # one of sixteen is too few to tell
    assert least <= record.counts["labelled"] <= right.counts["labelled"]
    assert record.values["feature_std"] == pytest.approx(right.values["feature_std"], rel=1e-5)


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


def test_mixed_rows_beside_others_that_are_not() -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mixed, other = torch.rand(len(x)) < 0.4, torch.arange(len(x)).roll(1)
        h = torch.tanh(net.body(torch.where(mixed[:, None], 0.6 * x + 0.4 * x[other], x)))
        out = net.head(net.keep(h, torch.where(mixed, -1, y)))
        return cross_entropy(out, y) + cross_entropy(out, y[other])

    record, right = fit(step, blobs())
    assert record.counts["seen"] == 208
    same(record, right)


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


@pytest.mark.parametrize("how", ["mixup", "normalised and shuffled"])
def test_images_that_were_flattened_in_the_step(how: str) -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(x))
        x, told = (0.7 * x + 0.3 * x.roll(1, 0), None) if how == "mixup" else (((x - 0.5) / 0.25)[order], y[order])
        out = net.head(net.keep(torch.tanh(net.body(x.flatten(1))), told))
        return cross_entropy(out, y if told is None else told)

    same(*fit(step, blobs(208, (1, 6, 8))))


def test_a_head_that_is_all_there_is_on_stored_features() -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(x))
        return cross_entropy(net.head(net.keep(x[order], y[order])), y[order])

    same(*fit(step, blobs(208, (24,))))


@pytest.mark.parametrize("batch", [4, 16])
@pytest.mark.parametrize("how", ["by chance", "the second half", "shuffled, and by chance"])
def test_samples_that_are_mirrored_in_part(how: str, batch: int) -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(x)) if "shuffled" in how else torch.arange(len(x))
        chosen = torch.rand(len(x)) < 0.4 if "chance" in how else torch.arange(len(x)) >= len(x) // 2
        chosen[0] = False  # something must tell which batch this is
        x = torch.where(chosen[:, None, None, None], x[order].flip(-1), x[order])
        return cross_entropy(net.head(net.keep(torch.tanh(net.body(x.flatten(1))), y[order])), y[order])

    record, right = fit(step, blobs(208, (1, 6, 8)), batch)
    assert record.counts["seen"] == 208
    same(record, right)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("how", ["mirrored", "erased"])
def test_samples_that_are_augmented_by_chance_stay_in_their_places(how: str, flat: bool) -> None:
    """In every second sample, by chance: those that were not touched are no other window than all of them."""

    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        other = x.flip(-1) if how == "mirrored" else torch.where(torch.rand_like(x) < 0.3, 0.0, x)
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, other, x)
        h = net.body(x.flatten(1)) if flat else net.body(net.flat(x))
        return cross_entropy(net.head(net.keep(torch.tanh(h), y)), y)

    record, right = fit(step, blobs(208, (1, 6, 8)))
    assert record.counts["seen"] == 208
    same(record, right)


@pytest.mark.parametrize("how", ["a table's rows", "edges", "time first", "scaled, beside an empty sample"])
def test_sums_and_scales_that_are_no_mixtures(how: str) -> None:
    table = nn.Parameter(torch.randn(40, 24))

    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        n = len(x)
        if how == "scaled, beside an empty sample":
            x = x * (0.7 + 0.6 * torch.rand(n, 1))
        h = torch.tanh(net.body(x))
        if how == "a table's rows":
            h = h + table[torch.arange(n)] + table[torch.arange(n).flip(0)]
        elif how == "edges":
            source, target = torch.randint(0, n, (2, 3 * n))
            h = torch.zeros_like(h).index_add(0, target, torch.relu(h[source] + h[target])) + h
        elif how == "time first":
            steps = torch.stack([h, 2 * h, 3 * h])
            h = (steps + steps.roll(1, 0)).mean(dim=0)
        return cross_entropy(net.head(net.keep(h, y)), y)

    data = blobs()
    if how == "scaled, beside an empty sample":
        data.tensors[0][::16] = 0.0
    same(*fit(step, data))


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
