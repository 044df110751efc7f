"""Rows that are mixtures of features or inputs, whole or in part, and rows that only look like mixtures."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests._helpers.blobs import Net, blobs, fit, same

pytestmark = pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")  # gaps, and notes
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


def test_mixed_rows_beside_others_that_are_not() -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mixed, other = torch.rand(len(x)) < 0.4, torch.arange(len(x)).roll(1)
        h = torch.tanh(net.body(torch.where(mixed[:, None], 0.6 * x + 0.4 * x[other], x)))
        out = net.head(net.keep(h, torch.where(mixed, -1, y)))
        return cross_entropy(out, y) + cross_entropy(out, y[other])

    record, right = fit(step, blobs())
    assert record.counts["seen"] == 208
    same(record, right)


@pytest.mark.parametrize("how", ["mixup", "normalised and shuffled"])
def test_images_that_were_flattened_in_the_step(how: str) -> None:
    def step(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(x))
        x, told = (0.7 * x + 0.3 * x.roll(1, 0), None) if how == "mixup" else (((x - 0.5) / 0.25)[order], y[order])
        out = net.head(net.keep(torch.tanh(net.body(x.flatten(1))), told))
        return cross_entropy(out, y if told is None else told)

    same(*fit(step, blobs(208, (1, 6, 8))))


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
