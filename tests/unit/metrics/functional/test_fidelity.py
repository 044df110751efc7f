"""Fidelity and out-of-distribution functions against prdc, SciPy, scikit-learn and torchmetrics, and known truths."""

import numpy as np
import pytest
import scipy.linalg
import torch
from prdc import compute_prdc
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from torchmetrics.image.kid import poly_mmd

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.metrics.functional import fidelity, outliers
from lightning_featgeo.rows.rows import build_rows
from tests._helpers.data import digits, digits_features, far_from_origin, nearly_collapsed

SETS = {"digits": digits, "features": digits_features, "far": far_from_origin, "collapsed": nearly_collapsed}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("k", [1, 5])
def test_prdc_equals_the_reference_package(name: str, k: int) -> None:
    x, _ = SETS[name]()
    real, fake = x[:700], x[700:1300] + 0.02 * x.std()
    ours = fidelity.prdc(real, fake, k)
    theirs = compute_prdc(real.double().numpy(), fake.double().numpy(), k)
    for key, value in theirs.items():
        assert float(ours[key]) == pytest.approx(float(value), rel=1e-9, abs=1e-12), key


def test_equal_distributions_have_density_1_and_the_known_coverage() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2000, 4, generator=generator), torch.randn(2000, 4, generator=generator)
    for k in (1, 3, 5):
        result = fidelity.prdc(real, fake, k)
        assert float(result["density"]) == pytest.approx(1, abs=0.06)
        assert float(result["coverage"]) == pytest.approx(1 - 2.0**-k, abs=0.03)
        assert float(result["sym_precision"]) <= float(result["precision"])
        assert float(result["sym_recall"]) <= float(result["recall"])


def test_identical_constant_sets_match_and_far_sets_do_not() -> None:
    constant = torch.ones(30, 4)
    assert {k: float(v) for k, v in fidelity.prdc(constant, constant, 3).items() if k != "density"} == dict.fromkeys(
        ("precision", "recall", "coverage", "sym_precision", "sym_recall"), 1.0
    )
    assert all(float(v) == 0 for v in fidelity.prdc(torch.randn(30, 4), torch.randn(30, 4) + 100, 3).values())


def test_frechet_distance_equals_scipys_matrix_root() -> None:
    x, _ = digits_features()
    x = x[:, x.std(0) > 0]
    a, b = (MomentsAccumulator(x.shape[1]) for _ in range(2))
    a.update(build_rows(x[:900]))
    b.update(build_rows(x[900:] + 0.2))
    m, n = a.compute(), b.compute()
    ca, cb = m.scatter / m.count, n.scatter / n.count
    ours = float(fidelity.frechet_distance(m.mean, ca, n.mean, cb))
    root = scipy.linalg.sqrtm(ca.numpy() @ cb.numpy())
    gap = ((m.mean - n.mean) ** 2).sum()
    assert ours == pytest.approx(float(gap + ca.trace() + cb.trace()) - 2 * np.trace(root).real, rel=1e-6)
    assert float(fidelity.frechet_distance(m.mean, ca, m.mean, ca)) == pytest.approx(0, abs=1e-9)


def test_kernel_mmd_equals_torchmetrics_and_vanishes_for_equal_distributions() -> None:
    x, _ = digits_features()
    real, fake = x[:500].double(), x[500:1000].double() + 0.1
    k = [((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((real, real), (real, fake), (fake, fake))]
    from torchmetrics.image.kid import maximum_mean_discrepancy

    expected = maximum_mean_discrepancy(*k)
    assert float(fidelity.kernel_mmd(real, fake)) == pytest.approx(float(expected), rel=1e-9)
    assert float(poly_mmd(real, fake)) == pytest.approx(float(expected), rel=1e-9)
    assert abs(float(fidelity.kernel_mmd(torch.randn(800, 5), torch.randn(800, 5)))) < 0.02


def test_mahalanobis_equals_scikit_learn_and_follows_chi_squared() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator)
    x = torch.randn(4000, 6, generator=generator) @ mix + 3
    accumulator = MomentsAccumulator(6, 1)
    accumulator.update(build_rows(x, torch.zeros(4000, dtype=torch.int64)))
    classes = accumulator.compute_classes()
    score = outliers.mahalanobis_score(x, classes.means, classes.counts, classes.within)
    expected = EmpiricalCovariance().fit(x.double().numpy()).mahalanobis(x.double().numpy())
    np.testing.assert_allclose(score, expected, rtol=1e-8)
    assert float(score.mean()) == pytest.approx(6, rel=1e-3)


def test_auroc_equals_scikit_learn_with_ties() -> None:
    inside, outside = torch.randn(300).round(decimals=1), (torch.randn(200) + 0.5).round(decimals=1)
    ours = outliers.auroc(inside, outside)
    assert float(ours.value) == pytest.approx(roc_auc_score([0] * 300 + [1] * 200, torch.cat([inside, outside])))
    assert 0.01 < float(ours.standard_error) < 0.05


def test_outliers_score_higher() -> None:
    x, _ = digits_features()
    bank, inside, outside = x[:1000], x[1000:], x[1000:].flip(1)
    a, b = (outliers.knn_ood_score(q, bank, 10) for q in (inside, outside))
    assert float(outliers.auroc(a, b).value) > 0.95


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fidelity.prdc(torch.randn(5, 2), torch.randn(9, 2), 5), "more than 5 rows, got 5"),
        (lambda: fidelity.kernel_mmd(torch.randn(1, 2), torch.randn(9, 2)), "2 rows in each set"),
        (lambda: outliers.knn_ood_score(torch.randn(5, 2), torch.randn(9, 2), 10), "needs 10 rows"),
        (lambda: outliers.auroc(torch.zeros(0), torch.ones(2)), "got 0 and 2"),
        (
            lambda: outliers.mahalanobis_score(torch.randn(5, 2), torch.zeros(1, 2), torch.tensor([0]), torch.eye(2)),
            "no class has a row",
        ),
        (
            lambda: outliers.mahalanobis_score(
                torch.randn(5, 2), torch.zeros(1, 2), torch.tensor([9]), torch.zeros(2, 2)
            ),
            "singular",
        ),
    ],
)
def test_undefined_says_why(call, says: str) -> None:
    with pytest.raises(Undefined, match=says):
        call()


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 dimensions, fake rows 3"):
        fidelity.prdc(torch.randn(9, 2), torch.randn(9, 3))
