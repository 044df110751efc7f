"""Von Mises–Fisher in any dimension, principal angles, and the long tail, against mpmath, SciPy and known samples."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from lightning_featgeo import GeometryMetric
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional import long_tail, subspaces, von_mises_fisher
from tests._helpers import oracles
from tests._helpers.data import long_tailed


@pytest.mark.parametrize("dim", [2, 3, 5, 16, 81, 82, 512, 2048, 8192, 32768])
@pytest.mark.parametrize("kappa", [1e-3, 0.5, 30.0, 1e4, 1e7])
def test_the_normaliser_equals_mpmath_up_to_32768_dimensions(dim: int, kappa: float) -> None:
    truth = oracles.log_vmf_normaliser(dim, kappa)
    assert von_mises_fisher.log_normaliser(dim, kappa) == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("order", "x"), [(0.0, 1e-6), (0.0, 700.0), (-0.5 + 0.5, 3.0), (1.5, 1e-4), (39.5, 2.0), (40.0, 1e9)]
)
def test_the_bessel_function_equals_mpmath(order: float, x: float) -> None:
    with mpmath.workdps(60):
        truth = float(mpmath.log(mpmath.besseli(order, mpmath.mpf(x))))
    assert von_mises_fisher.log_bessel_i(order, x) == pytest.approx(truth, rel=1e-11, abs=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "kappa"), [(3, 2.0), (16, 40.0), (128, 500.0), (512, 100.0)])
def test_samples_of_known_concentration_give_it_back(dim: int, kappa: float) -> None:
    mu = np.zeros(dim)
    mu[0] = 1
    x = scipy.stats.vonmises_fisher(mu, kappa, seed=0).rvs(20000)
    metric = GeometryMetric(["vmf_kappa", "vmf_log_density"])
    metric.update(torch.tensor(7 * x))  # lengths don't count
    ours = metric.window().values
    assert ours["vmf_kappa"] == pytest.approx(kappa, rel=0.05)
    fit = scipy.stats.vonmises_fisher(x.mean(0) / np.linalg.norm(x.mean(0)), ours["vmf_kappa"])
    assert ours["vmf_log_density"] == pytest.approx(fit.logpdf(x).mean(), rel=1e-9)


def test_where_there_is_no_concentration() -> None:
    for sums, n, says in (
        (torch.zeros(4), 5, "mean direction is zero"),
        (torch.tensor([5.0, 0.0]), 5, "all directions are the same"),
        (torch.zeros(4), 0, "every row is zero"),
        (torch.ones(1), 3, "no sphere"),
    ):
        with pytest.raises(Undefined, match=says):
            von_mises_fisher.vmf_kappa(n, sums.double())


def test_principal_angles_equal_scipy_also_near_zero() -> None:
    a, b = torch.randn(30, 4).double(), torch.randn(30, 6).double()
    b[:, 0] = a[:, 0] + 1e-9 * torch.randn(30)
    ours = subspaces.principal_angles(a, b)
    theirs = np.degrees(scipy.linalg.subspace_angles(a.numpy(), b.numpy()))[::-1]
    np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-9)
    off = b[:, 0] - a @ torch.linalg.lstsq(a, b[:, :1]).solution[:, 0]  # what the other columns of b can't change
    small = float(torch.rad2deg(torch.linalg.vector_norm(off) / torch.linalg.vector_norm(b[:, 0])))
    assert float(ours[0]) == pytest.approx(small, rel=0.3)  # SciPy reads 2e-6 degrees here
    assert float(subspaces.principal_angles(a, a @ torch.randn(4, 4).double()).max()) < 1e-6
    assert float(subspaces.principal_angles(torch.eye(6)[:, :2], torch.eye(6)[:, 3:5]).min()) == pytest.approx(90)
    with pytest.raises(ValueError, match="30 dimensions, the other in 9"):
        subspaces.principal_angles(a, torch.randn(9, 2))


def test_classes_in_one_subspace_read_one_and_in_their_own_read_zero() -> None:
    labels = torch.arange(90) % 3
    shared = torch.randn(90, 5) @ torch.randn(5, 40)
    assert float(subspaces.class_subspace_affinity(shared, labels)) == pytest.approx(1)
    own = torch.zeros(90, 40)
    for c in range(3):
        own[labels == c, 5 * c : 5 * c + 5] = torch.randn(30, 5)
    assert float(subspaces.class_subspace_affinity(own, labels)) == pytest.approx(0, abs=1e-12)
    assert float(subspaces.class_subspace_affinity(own[:, :30], labels)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(Undefined, match="5 independent rows"):
        subspaces.class_subspace_affinity(torch.randn(8, 40), torch.arange(8) % 3)


def test_class_volumes_and_the_tail() -> None:
    x, y = long_tailed()
    metric = GeometryMetric(["class_volume_tail_gap", "tail_min_angle"], num_classes=9)
    metric.update(x, y)
    ours = metric.window().values
    bank = metric.accumulators["bank"].compute()
    volumes = []
    for c in range(9):
        z = bank.rows[bank.labels == c][:12].double().numpy()
        z = z - z.mean(0)
        volumes.append(0.5 * np.linalg.slogdet(np.eye(32) + 32 / 12 * z.T @ z)[1])
    assert ours["class_volume_tail_gap"] == pytest.approx(np.mean(volumes[:3]) - np.mean(volumes[6:]), rel=1e-9)
    assert ours["class_volume_tail_gap"] > 0  # the rare classes were made narrower
    means = np.stack([x[y == c].double().numpy().mean(0) for c in range(9)])
    m = means - means.mean(0)
    u = m / np.linalg.norm(m, axis=1, keepdims=True)
    angles = [math.degrees(math.acos(u[i] @ u[j])) for i, j in ((6, 7), (6, 8), (7, 8))]
    assert ours["tail_min_angle"] == pytest.approx(min(angles), rel=1e-9)


def test_merged_tail_classes_have_an_angle_of_zero() -> None:
    means = torch.randn(6, 8).double()
    means[5] = means[4]
    frequency = torch.tensor([90, 80, 30, 20, 9, 8])
    assert float(long_tail.tail_min_angle(means, frequency, frequency)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(Undefined, match="no tail"):
        long_tail.tail_min_angle(means, frequency, torch.full((6,), 9))
    with pytest.raises(Undefined, match="6 classes"):
        long_tail.tail_min_angle(means[:3], frequency[:3], frequency[:3])
    means = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.0, 0.0]).double()[:, None].expand(6, 8)
    with pytest.raises(Undefined, match="on the centre"):
        long_tail.tail_min_angle(means, frequency, frequency)
