"""What must hold for any data: invariances, merging in any split, never NaN."""

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.metrics.accumulators.bank import BankAccumulator
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.rows.rows import build_rows

pytestmark = pytest.mark.no_cover  # many examples of what other tests cover
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 6))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_batch_gives_finite_values_or_reasons(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    values = st.floats(width=32, allow_nan=True, allow_infinity=True)
    few = st.sampled_from([0.0, 1.0, -1.0, 2.0**-100, 2.0**100])
    x = torch.from_numpy(data.draw(arrays("float32", shape, elements=st.one_of(few, values))).copy())
    y = torch.tensor(data.draw(st.lists(st.integers(-100, 4), min_size=shape[0], max_size=shape[0])))
    head = torch.nn.Linear(shape[1], 4)
    small = {"neighbors": Neighbors(bank_size=16, k=3, knn_k=5)}
    metric = GeometryMetric("all", num_classes=4, head=head, has_reference=True, **small)
    targets = GeometryMetric("regression", **small)
    for part in torch.arange(shape[0]).split(7):
        for view, rows in enumerate((x, x.flip(0))):
            metric.update(rows[part], y[part], part, view, groups=y[part])
        targets.update(x[part], x.flip(0)[part])
    for window, asked in ((metric.window(reference=metric), metric.signals), (targets.window(), targets.signals)):
        assert all(math.isfinite(v) for v in [*window.values.values(), *window.standard_errors.values()])
        assert set(window.values) | set(window.gaps) == {*(asked or ()), "n_samples"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 199), max_size=6), offset=st.sampled_from([0, 1, 1e4]))
def test_moments_and_bank_do_not_depend_on_the_split(seed: int, cuts: list[int], offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = offset + torch.randn(200, 5, generator=generator)
    y = torch.randint(-1, 3, (200,), generator=generator)
    bounds = [0, *sorted(set(cuts)), 200]
    whole, merged = (MomentsAccumulator(5, 3) for _ in range(2))
    bank, merged_bank = (BankAccumulator(5, 50, seed=seed) for _ in range(2))
    whole.update(build_rows(x, y))
    bank.update(build_rows(x, y))
    for a, b in pairwise(bounds):
        part, part_bank = MomentsAccumulator(5, 3), BankAccumulator(5, 50, seed=seed)
        rows = build_rows(x[a:b], y[a:b], torch.arange(a, b))
        part.update(rows)
        part_bank.update(rows)
        merged.merge_state(part)
        merged_bank.merge_state(part_bank)
    torch.testing.assert_close(merged.compute().scatter, whole.compute().scatter, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(merged.compute_classes().within, whole.compute_classes().within, rtol=1e-9, atol=1e-9)
    assert torch.equal(merged_bank.compute().samples, bank.compute().samples)


SCALE_FREE = [
    "effective_rank", "participation_ratio", "stable_rank", "top_eigenvalue_share", "id_two_nn", "id_mle", "nc1",
    "nc1_ratio", "nc2_equinorm", "nc2_equiangle", "cdnv",
]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_rotation_translation_and_scale_change_no_shape_signal(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(150, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7)
    y = torch.arange(150) % 4
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    results = []
    for data in (x, 3.7 * x @ q + 11):
        metric = GeometryMetric(SCALE_FREE, num_classes=4)
        metric.update(data, y)
        results.append(metric.window().values)
    assert results[0] == pytest.approx(results[1], rel=1e-8)
