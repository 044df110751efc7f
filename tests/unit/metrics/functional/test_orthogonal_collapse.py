"""Collapse without bias: the closed-form optimum of a regularised squared loss is the oracle."""

import numpy as np
import pytest
import torch
from scipy.stats import linregress

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.functional.neural_collapse import nc2_equinorm_orthogonal, nc3
from lightning_featgeo.metrics.functional.orthogonal_collapse import nc3_orthogonal, nc_count_slope

D = 32
OF_WEIGHTS, OF_FEATURES = 5e-3, 1e-5  # λ_W and λ_H


def optimum(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and weights at the minimum of (1/2N)‖WH−Y‖² + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² over W and free features H."""
    n = torch.tensor(counts, dtype=torch.float64)
    kept = (1 - n.sum() * (OF_WEIGHTS * OF_FEATURES / n).sqrt()).clamp(min=0)
    lengths = (kept * (OF_WEIGHTS / (OF_FEATURES * n)).sqrt()).sqrt()
    frame = torch.linalg.qr(torch.randn(D, len(n), dtype=torch.float64)).Q.T
    means = lengths[:, None] * frame
    weights = torch.where(lengths > 0, kept / lengths, 0.0)[:, None] * frame
    return means, weights


def loss(means: torch.Tensor, weights: torch.Tensor, counts: list[int]) -> torch.Tensor:
    n = torch.tensor(counts, dtype=torch.float64)
    fit = ((means @ weights.T - torch.eye(len(n))).square().sum(dim=1) * n).sum() / (2 * n.sum())
    return fit + OF_WEIGHTS / 2 * weights.square().sum() + OF_FEATURES / 2 * (means.square().sum(dim=1) * n).sum()


@pytest.mark.parametrize("counts", [[200] * 10, [1000, 700, 450, 300, 200, 140, 100, 70, 50, 30]])
def test_the_optimum_reads_0_and_a_slope_of_one_half(counts: list[int]) -> None:
    means, weights = optimum(counts)
    for tensor in (means, weights):
        tensor.requires_grad_()
    slopes = torch.autograd.grad(loss(means, weights, counts), (means, weights))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-12  # it is the optimum
    means, weights, n = means.detach(), weights.detach(), torch.tensor(counts)
    assert float(nc3_orthogonal(means, n, weights)) == pytest.approx(0, abs=1e-12)
    assert float(nc3(means, n, weights)) > 0.3  # which centres the means and not the weights
    if len(set(counts)) == 1:
        with pytest.raises(Undefined, match="classes of different sizes"):
            nc_count_slope(means, n, weights)
        return
    slope = nc_count_slope(means, n, weights)
    assert float(slope.value) == pytest.approx(0.5, abs=1e-12)
    assert slope.standard_error is not None
    assert float(slope.standard_error) == pytest.approx(0, abs=1e-9)
    assert float(nc2_equinorm_orthogonal(means, n)) > 0.2
    assert CATALOG["nc2_equinorm_orthogonal"].direction == "none"


def test_the_slope_is_that_of_a_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    means, weights = (torch.randn(12, D, generator=generator, dtype=torch.float64) for _ in range(2))
    n = torch.randint(20, 2000, (12,), generator=generator)
    n[3] = 0  # a class that is not there
    there = n.numpy() > 0
    ratio = weights.norm(dim=1).numpy()[there] / means.norm(dim=1).numpy()[there]
    peer = linregress(np.log(n.numpy()[there]), np.log(ratio))
    ours = nc_count_slope(means, n, weights)
    assert float(ours.value) == pytest.approx(peer.slope, rel=1e-10)
    assert float(ours.standard_error) == pytest.approx(peer.stderr, rel=1e-10)
    assert ours.n == 11


def test_what_has_no_direction_is_undefined() -> None:
    means, weights, n = torch.eye(4), torch.eye(4), torch.tensor([10, 20, 30, 40])
    for bad, other in (
        (means * torch.tensor([0.0, 1, 1, 1]), weights),
        (means, weights * torch.tensor([0.0, 1, 1, 1])),
    ):
        for function in (nc3_orthogonal, nc_count_slope):
            with pytest.raises(Undefined, match="zero"):
                function(bad, n, other)
    with pytest.raises(Undefined, match="head's weight is"):
        nc3_orthogonal(means, n, torch.eye(5))
    with pytest.raises(Undefined, match="two classes"):
        nc3_orthogonal(means, torch.tensor([10, 0, 0, 0]), weights)
