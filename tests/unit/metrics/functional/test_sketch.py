"""Sketches of distributions against all pairs of rows, and over windows, stages and a resumed run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from lightning_featgeo import GeometryMetric
from lightning_featgeo.errors import Undefined
from lightning_featgeo.history.sketches import packed, unpacked
from lightning_featgeo.metrics.functional.sketch import PROJECTIONS, ladder, mmd, octave, projections, sketch


def rows(seed: int, n: int = 1500, d: int = 24) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def exact(a: Tensor, b: Tensor, bandwidth: float) -> float:
    one, other, gamma = a.double().numpy(), b.double().numpy(), 1 / (2 * bandwidth**2)
    within = rbf_kernel(one, one, gamma).mean() + rbf_kernel(other, other, gamma).mean()
    return float(within - 2 * rbf_kernel(one, other, gamma).mean())


CASES = {
    "shifted": lambda: (rows(0), rows(1) + 0.2),
    "scaled": lambda: (rows(0), 1.4 * rows(1)),
    "turned": lambda: (rows(0) * torch.linspace(1, 3, 24), rows(1) * torch.linspace(3, 1, 24)),
    "another shape": lambda: (rows(0), rows(1).sign() * rows(1).abs().clamp(0.5)),
    "two dimensions": lambda: (rows(0, d=2), rows(1, d=2) + 0.3),
    "wide": lambda: (rows(0, 600, 1200), rows(1, 600, 1200) + 0.05),
}


@pytest.mark.parametrize("case", CASES)
def test_it_comes_near_to_all_pairs_of_rows(case: str) -> None:
    a, b = CASES[case]()
    k = octave(a)
    ours = float(mmd(sketch(a, (k,)), sketch(b, (k,))))
    assert ours == pytest.approx(exact(a, b, 2.0**k), rel=0.12, abs=1e-5)


def test_a_sketch_is_the_mean_of_cosines_and_sines_and_parts_add_up() -> None:
    x, k = rows(0), 3
    phase = x.double().numpy() @ projections(24).numpy() / 2**k
    ours = sketch(x, (k,))[0].numpy()
    assert tuple(ours[:2]) == (k, 24)
    np.testing.assert_allclose(ours[2:], np.r_[np.cos(phase).mean(0), np.sin(phase).mean(0)], atol=1e-12)
    parts = [sketch(part, (k,)) * len(part) for part in x.split([400, 1100])]
    np.testing.assert_allclose(sum(parts)[0, 2:] / len(x), ours[2:], atol=1e-12)


def test_projections_are_orthogonal_and_as_long_as_gaussian_ones() -> None:
    w = projections(64)
    gram = w[:, :64].T @ w[:, :64]
    assert float((gram - gram.diagonal().diag()).abs().max()) < 1e-10
    assert kstest(w.square().sum(dim=0).numpy(), "chi2", (64,)).pvalue > 1e-3
    assert kstest((w / w.square().mean().sqrt()).flatten().numpy(), "norm").pvalue > 1e-3
    assert w.shape == (64, PROJECTIONS)
    assert projections(5).shape == (5, PROJECTIONS)


def test_windows_of_a_run_are_compared_with_the_one_before_and_the_first() -> None:
    metric = GeometryMetric(["sketch_mmd", "sketch_mmd_first"])
    seen = [rows(seed, 400) * (1 + 0.3 * seed) for seed in range(3)]
    found = []
    for x in seen:
        metric.reset()
        metric.update(x)
        found.append(metric.window())
    assert "no window before" in str(found[0].gaps["sketch_mmd"])
    assert found[1].values["sketch_mmd"] == found[1].values["sketch_mmd_first"]
    for name, earlier in (("sketch_mmd", seen[1]), ("sketch_mmd_first", seen[0])):
        assert found[2].values[name] == pytest.approx(exact(seen[2], earlier, 2.0 ** octave(earlier)), rel=0.12)
    again = GeometryMetric(["sketch_mmd", "sketch_mmd_first"])
    again.update(seen[1][:5])  # as after a resume
    again.merge_state(metric.checkpoint())
    assert again.earlier.sketches.keys() == {"previous", "first"}


def test_the_same_rows_read_zero_and_other_dimensions_are_refused() -> None:
    x = rows(0)
    assert float(mmd(ladder(x), ladder(x.flip(0)))) < 1e-24
    with pytest.raises(Undefined, match="24 dimensions in the one and 8 in the other"):
        mmd(ladder(x), ladder(x[:, :8]))
    with pytest.raises(Undefined, match="several times as far"):
        mmd(ladder(x), ladder(64 * x))
    with pytest.raises(Undefined, match="half of the rows are the same"):
        ladder(torch.ones(50, 4))


def test_a_history_keeps_it_as_text() -> None:
    a, b = ladder(rows(0)), ladder(rows(1) + 0.2)
    there = [unpacked(packed(one)) for one in (a, b)]
    assert float(mmd(*there)) == pytest.approx(float(mmd(a, b)), abs=2e-6)
    assert len(packed(a)) < 9000
    for broken in ("", "7/24:", "7/24:AAA", "x/24:AAAA", "7/24:////", packed(a)[:-8], packed(a) + "é"):
        with pytest.raises(ValueError, match="not a sketch"):
            unpacked(broken)
