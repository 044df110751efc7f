"""Splitting and merging, precision, device and dtype rules, fixed memory: for every accumulator."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_featgeo.metrics.accumulators.bank import BankAccumulator
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.metrics.accumulators.codes import CodeAccumulator
from lightning_featgeo.metrics.accumulators.directions import DirectionAccumulator
from lightning_featgeo.metrics.accumulators.histograms import HistogramAccumulator
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.metrics.accumulators.positions import PositionAccumulator
from lightning_featgeo.metrics.accumulators.units import UnitAccumulator
from lightning_featgeo.rows.rows import build_rows
from tests._helpers.data import digits_features, far_from_origin

MAKE = {
    "moments": lambda d: MomentsAccumulator(d),
    "class moments": lambda d: MomentsAccumulator(d, num_classes=10),
    "directions": lambda d: DirectionAccumulator(d),
    "units": lambda d: UnitAccumulator(d),
    "units with extremes": lambda d: UnitAccumulator(d, extremes=True),
    "codes": lambda d: CodeAccumulator(d),
    "histograms": lambda d: HistogramAccumulator(d),
    "positions": lambda d: PositionAccumulator(d),
    "bank": lambda d: BankAccumulator(d, 300),
}


def results(accumulator: Accumulator) -> list[Tensor]:
    found = [v for v in accumulator.compute().__dict__.values() if v is not None]
    if isinstance(accumulator, MomentsAccumulator) and accumulator.num_classes:
        found += list(accumulator.compute_classes().__dict__.values())
    return [torch.as_tensor(v).double() for v in found]


def feed(accumulator: Accumulator, x: Tensor, y: Tensor, index: Tensor, batch: int = 100) -> Accumulator:
    for part in torch.arange(len(x)).split(batch):
        accumulator.update(build_rows(x[part], y[part], index[part]))
    return accumulator


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("shards", [2, 5])
def test_merged_shards_equal_the_whole(kind: str, shards: int) -> None:
    x, y = far_from_origin()
    index = torch.arange(len(x))
    whole = feed(MAKE[kind](x.shape[1]), x, y, index, 64)
    merged = MAKE[kind](x.shape[1])
    for shard in range(shards):
        own = index[shard::shards]
        merged.merge_state(feed(MAKE[kind](x.shape[1]), x[own], y[own], own, 37))
    merged.merge_state(MAKE[kind](x.shape[1]))  # a shard that saw nothing
    for ours, expected in zip(results(merged), results(whole), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", MAKE)
def test_merging_refuses_another_shape(kind: str) -> None:
    with pytest.raises(ValueError, match=r"cannot merge into .*: state"):
        MAKE[kind](4).merge_state(MAKE[kind](5))


@pytest.mark.parametrize("kind", MAKE)
def test_a_parents_dtype_and_inference_mode_leave_the_states_alone(kind: str) -> None:
    x, y = digits_features()
    accumulator = MAKE[kind](x.shape[1])
    parent = nn.Module()
    parent.part = accumulator
    dtypes = {name: state.dtype for name, state in accumulator.tensors().items()}
    for cast in (lambda: parent.to(torch.bfloat16), parent.half, parent.float, parent.double):
        cast()
        assert {name: state.dtype for name, state in accumulator.tensors().items()} == dtypes
    assert parent.state_dict() == {}  # nothing of ours travels in a model's checkpoint
    feed(accumulator, x, y, torch.arange(len(x)))


@pytest.mark.parametrize("kind", MAKE)
def test_memory_is_fixed_and_as_documented(kind: str) -> None:
    x, y = digits_features()
    d, accumulator = x.shape[1], MAKE[kind](x.shape[1])
    documented = {
        "moments": 12 * d + 16 + 8 * d * d,
        "class moments": 11 * (12 * d + 16) + 16 * d * d,
        "directions": 16 * d + 16,
        "units": 8 * d + 8,
        "codes": 8 * d + 8,
        "units with extremes": 24 * d + 8,
        "histograms": 1032 * d,
        "positions": 256 * (20 * d + 16) + 4 * d + 40,
        "bank": 300 * (4 * d + 32),
    }[kind]
    assert accumulator.memory_bytes == documented
    for batches in (10, 100):
        for _ in range(batches):
            accumulator.update(build_rows(x[:32], y[:32]))
        assert accumulator.memory_bytes == documented


def test_scatter_keeps_its_digits_far_from_the_origin() -> None:
    x, y = far_from_origin()
    truth = np.cov(x.double().numpy().T, bias=True)
    moments = feed(MomentsAccumulator(64, 5), x, y, torch.arange(len(x))).compute()
    ours = (moments.scatter / moments.count).numpy()
    assert np.abs(ours - truth).max() / np.abs(truth).max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_input_type_gives_float64_results_of_those_rows(dtype: torch.dtype) -> None:
    x, y = digits_features()
    x = x.to(dtype)
    moments = feed(MomentsAccumulator(x.shape[1]), x, y, torch.arange(len(x))).compute()
    np.testing.assert_allclose(moments.scatter / len(x), np.cov(x.double().numpy().T, bias=True), atol=1e-12)


def test_low_precision_products_of_the_user_do_not_reach_the_covariance() -> None:
    x, y = digits_features()
    torch.set_float32_matmul_precision("medium")
    try:
        moments = feed(MomentsAccumulator(x.shape[1]), x, y, torch.arange(len(x))).compute()
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(moments.scatter / len(x), np.cov(x.double().numpy().T, bias=True), atol=1e-12)


def test_unlabelled_rows_count_in_totals_only() -> None:
    x, y = digits_features()
    y = torch.where(torch.arange(len(y)) % 3 == 0, -100, y)
    accumulator = feed(MomentsAccumulator(x.shape[1], 10), x, y, torch.arange(len(x)))
    np.testing.assert_allclose(
        accumulator.compute().scatter / len(x), np.cov(x.double().numpy().T, bias=True), atol=1e-12
    )
    classes = accumulator.compute_classes()
    assert int(classes.counts.sum()) == int((y >= 0).sum())
    known = feed(MomentsAccumulator(x.shape[1], 10), x[y >= 0], y[y >= 0], torch.arange(int((y >= 0).sum())))
    torch.testing.assert_close(classes.within, known.compute_classes().within, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="num_classes > 0"):
        MomentsAccumulator(3).compute_classes()


def test_the_bank_keeps_the_same_samples_in_any_order_and_batch_size() -> None:
    x, y = digits_features()
    index, shuffled = torch.arange(len(x)), torch.randperm(len(x))
    a = feed(BankAccumulator(x.shape[1], 200, seed=5), x, y, index, 64).compute()
    b = feed(BankAccumulator(x.shape[1], 200, seed=5), x[shuffled], y[shuffled], shuffled, 17).compute()
    c = feed(BankAccumulator(x.shape[1], 200, seed=6), x, y, index, 64).compute()
    assert torch.equal(a.samples, b.samples)
    assert torch.equal(a.rows, b.rows)
    assert torch.equal(a.labels, y[a.samples])
    assert not torch.equal(a.samples, c.samples)
    assert a.samples.unique().numel() == 200


@pytest.mark.slow
def test_the_bank_is_a_uniform_sample() -> None:
    x = torch.zeros(1000, 1)
    hits = torch.zeros(1000)
    for seed in range(400):
        bank = BankAccumulator(1, 100, seed=seed)
        bank.update(build_rows(x))
        hits[bank.compute().samples] += 1
    assert abs(float(hits.mean()) - 40) < 1e-3
    assert 5.0 < float(hits.std()) < 7.0  # binomial: 6.0


def test_batches_larger_than_the_bank_and_tokens_of_one_sample() -> None:
    bank = BankAccumulator(2, 8)
    bank.update(build_rows(torch.randn(100, 2)))
    assert len(bank.compute().rows) == 8
    tokens = BankAccumulator(2, 50)
    tokens.update(build_rows(torch.randn(60, 2), sample_index=torch.arange(60) // 20))
    assert sorted(tokens.compute().samples.unique().tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1 row"):
        BankAccumulator(2, 0)


@pytest.mark.parametrize("kind", MAKE)
def test_start_values_take_no_second_copy_of_the_states(kind: str) -> None:
    accumulator = MAKE[kind](300)
    held = sum(t.untyped_storage().nbytes() for t in accumulator._defaults.values())
    assert held <= 8 * len(accumulator._defaults)
    before = {name: state.data_ptr() for name, state in accumulator.tensors().items()}
    start = {name: state.clone() for name, state in accumulator.tensors().items()}
    feed(accumulator, torch.randn(50, 300), torch.arange(50) % 3, torch.arange(50), 10)
    accumulator.reset()
    for name, state in accumulator.tensors().items():
        assert torch.equal(state, start[name])
        assert state.data_ptr() == before[name]
