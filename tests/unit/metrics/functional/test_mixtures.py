"""Mixtures of two samples: read from matrices of weights, and against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lightning_featgeo import ConfigurationError, GeometryMetric, Neighbors
from lightning_featgeo.rows.label_rows import mixtures_of, one_class
from lightning_featgeo.rows.labels import LabelReader

C, D = 6, 20
SIGNALS = ["mixed_weight_cosine", "mixed_residual", "mixed_order"]


def mixed(seed: int = 0, n: int = 300, smoothing: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of classes; the two classes of each row and the share of the first."""
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(C, (n,), generator=g) for _ in range(2))
    share = 0.02 + 0.96 * torch.rand(n, generator=g)
    hard = [one_hot(one, C) * (1 - smoothing) + smoothing / C for one in (a, b)]
    weights = share[:, None] * hard[0] + (1 - share[:, None]) * hard[1]
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    of_first = torch.where(a == b, 1.0, torch.where(a == low, share, 1 - share))
    return weights, low, high, of_first


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_two_classes_and_a_share_are_read_from_weights(smoothing: float) -> None:
    weights, first, second, share = mixed(smoothing=smoothing)
    found = mixtures_of(weights)
    assert torch.equal(found[:, 0].long(), first)
    assert torch.equal(found[:, 1].long(), second)
    torch.testing.assert_close(found[:, 2], share.double(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("classes", [10, 50, 100, 1000])
def test_weights_in_bf16_are_the_same_rows(classes: int, smoothing: float) -> None:
    """A row of them sums to 0.99 or 1.002."""
    y = torch.arange(2 * classes) % classes
    weights = (one_hot(y, classes) * (1 - smoothing) + smoothing / classes).to(torch.bfloat16)
    assert torch.equal(one_class(weights, soft=True), y)
    g = torch.Generator().manual_seed(0)
    other, share = torch.randperm(len(y), generator=g), (0.05 + 0.9 * torch.rand(len(y), 1, generator=g)).bfloat16()
    assert bool(mixtures_of(share * weights + (1 - share) * weights[other]).isfinite().all())
    assert LabelReader(num_classes=classes).read((torch.zeros(len(y), 3), weights))[1] is None


def test_rows_of_one_class_are_mixtures_only_beside_mixtures() -> None:
    hard = one_hot(torch.arange(12) % C, C).float()
    assert bool(mixtures_of(hard).isnan().all())
    beside = torch.cat([hard, 0.5 * hard[:1] + 0.5 * hard[1:2]])
    assert mixtures_of(beside)[[0, -1]].tolist() == [[0, 0, 1], [0, 1, 0.5]]


def test_rows_of_more_classes_or_of_none_are_no_mixtures() -> None:
    weights = torch.zeros(4, C)
    weights[0, :2] = 0.5
    weights[1, :3] = 1 / 3
    weights[2] = 1 / C
    assert mixtures_of(weights).isnan().any(dim=1).tolist() == [False, True, True, True]
    assert mixtures_of(weights[:0]).shape == (0, 3)
    teacher = torch.softmax(torch.randn(50, C, generator=torch.Generator().manual_seed(0)), dim=1)
    assert bool(mixtures_of(teacher).isnan().all())


def features(seed: int = 0, n: int = 300) -> tuple[Tensor, nn.Linear]:
    g = torch.Generator().manual_seed(seed)
    head = nn.Linear(D, C)
    with torch.no_grad():
        head.weight.copy_(torch.randn(C, D, generator=g))
    return torch.randn(n, D, generator=g), head


def by_hand(x: Tensor, first: Tensor, second: Tensor, share: Tensor, weight: Tensor) -> dict[str, float]:
    h, w = (t.detach().double().numpy() for t in (x, weight))
    h, w, a, b = h - h.mean(0), w - w.mean(0), first.numpy(), second.numpy()
    cosines, residuals, read, shares = [], [], [], []
    for row, i, j, part in zip(h, a, b, share.double().numpy(), strict=True):
        if i == j:
            cosines.append(row @ w[i] / np.linalg.norm(row) / np.linalg.norm(w[i]))
        else:
            plane = np.stack([w[i], w[j]], 1)
            left = row - plane @ np.linalg.lstsq(plane, row, rcond=None)[0]
            residuals.append(left @ left / (row @ row))
            read.append(row @ (w[i] - w[j]) / np.linalg.norm(w[i] - w[j]))
            shares.append(part)
    order = spearmanr(read, shares).statistic
    return dict(zip(SIGNALS, (np.mean(cosines), np.mean(residuals), order), strict=True))


def test_they_are_what_numpy_and_scipy_say() -> None:
    weights, *parts = mixed()
    x, head = features()
    x = x + weights @ head.weight.detach()
    metric = GeometryMetric(SIGNALS, head=head)
    for part in torch.arange(300).split(64):
        metric.update(x[part], mixtures=weights[part])
    found = metric.window()
    assert found.values == pytest.approx({**by_hand(x, *parts, head.weight), "n_samples": 300}, rel=1e-5)
    assert found.standard_errors.keys() >= set(SIGNALS[:2])


def test_at_the_optimum_they_read_one_zero_and_one() -> None:
    weights, *_ = mixed()
    _, head = features()
    simplex = torch.linalg.qr(torch.randn(D, C, generator=torch.Generator().manual_seed(1))).Q.T
    simplex = simplex - simplex.mean(dim=0)
    with torch.no_grad():
        head.weight.copy_(simplex + 0.7)  # what softmax doesn't see
    weights = torch.cat([weights[:, turn] for turn in (torch.arange(C)[:, None] + torch.arange(C)) % C])
    metric = GeometryMetric(SIGNALS, head=head, neighbors=Neighbors(bank_size=len(weights)))
    metric.update(weights @ simplex, mixtures=weights)  # each class as often as any other: their mean is 0
    found = metric.window().values
    assert found["mixed_weight_cosine"] == pytest.approx(1, abs=1e-4)
    assert found["mixed_residual"] == pytest.approx(0, abs=1e-6)
    assert found["mixed_order"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_or_weights_that_are_all_alike_have_no_value(dtype: torch.dtype) -> None:
    weights, *_ = mixed()
    x, head = features()
    alike = GeometryMetric(SIGNALS, head=head)
    alike.update((0.1 * torch.arange(D)).to(dtype).expand(300, D), mixtures=weights)
    found = alike.window()
    assert found.gaps.keys() == set(SIGNALS)
    assert "all alike" in str(found.gaps["mixed_residual"])
    with torch.no_grad():
        head.weight.copy_(head.weight[:1].expand(C, D))
    flat = GeometryMetric(SIGNALS, head=head)
    flat.update(x.to(dtype), mixtures=weights)
    assert flat.window().gaps.keys() == set(SIGNALS)


def test_cosines_do_not_depend_on_the_unit() -> None:
    weights, *_ = mixed()
    x, head = features()
    found = []
    for scale in (1.0, 1e-9):
        metric = GeometryMetric(SIGNALS, head=head)
        metric.update(scale * x.double(), mixtures=weights)
        found.append(metric.window().values)
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_what_is_missing_is_said() -> None:
    x, head = features()
    metric = GeometryMetric(SIGNALS, head=head)
    with pytest.raises(ConfigurationError, match=r"mixtures of two samples.*labels=<callable"):
        metric.update(x, torch.arange(300) % C)
    group = GeometryMetric(["mixed", "effective_rank"], head=head)
    group.update(x, torch.arange(300) % C)
    assert group.left_out.keys() == set(SIGNALS)
    weights, *_ = mixed()
    other = GeometryMetric(SIGNALS, head=nn.Linear(D, 3))
    other.update(x, mixtures=weights)
    assert "3 outputs" in str(other.window().gaps["mixed_residual"])
    plain = GeometryMetric(SIGNALS, head=head)
    plain.update(x, mixtures=one_hot(torch.arange(300) % C, C).float())
    assert "no row of the bank is a mixture" in str(plain.window().gaps["mixed_order"])
    same = GeometryMetric(SIGNALS, head=head)
    same.update(x, mixtures=torch.full((300, C), 0.0).index_fill(1, torch.tensor([0, 1]), 0.5))
    gaps = same.window().gaps
    assert "one class" in str(gaps["mixed_weight_cosine"])
    with pytest.raises(ValueError, match="weights of the classes, \\(rows, classes\\)"):
        GeometryMetric(SIGNALS, head=head).update(x, mixtures=torch.ones(300))
    assert "one share" in str(gaps["mixed_order"])
