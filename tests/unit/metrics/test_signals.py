"""Every signal against an independent float64 formula or another library, and where it has no value."""

import math

import numpy as np
import pytest
import skdim
import torch
from torch import Tensor

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics import CATALOG
from lightning_featgeo.metrics.functional import density, dimension, neural_collapse, spectrum, spread, votes
from tests._helpers import oracles
from tests._helpers.data import (
    PLAIN,
    curved_manifold,
    digits,
    digits_features,
    far_from_origin,
    head,
    long_tailed,
    more_classes_than_dimensions,
    nearly_collapsed,
    rank_five,
)


def compare(x: Tensor, y: Tensor, batch: int = 128) -> dict[str, float]:
    classifier = head(int(y.max()) + 1, x.shape[1])
    metric = GeometryMetric("all", num_classes=int(y.max()) + 1, head=classifier)
    for start in range(0, len(x), batch):
        metric.update(x[start : start + batch], y[start : start + batch])
    ours = metric.window()
    weight, bias = (p.detach().double().numpy() for p in (classifier.weight, classifier.bias))
    order = metric.accumulators["bank"].compute().samples  # of ties, and of classes too large, the first ones count
    truth = oracles.every_signal(x[order].double().numpy(), y[order].numpy(), weight, bias)
    assert set(truth) == PLAIN
    earlier = {name for name in ours.gaps if CATALOG[name].requires & {"earlier", "sketches", "past"}}
    assert set(ours.gaps) - earlier == {name for name, value in truth.items() if value is None}
    return {
        name: abs(ours.values[name] - value) / abs(value) if value else abs(ours.values[name])
        for name, value in truth.items()
        if value is not None
    }


# the oracle's scalar minimiser stops at 1e-8; a compiled scan sums its kernels' terms from fp32 products
ROUNDED = {"id_gride_1", "id_gride_2", "id_gride_4", "id_gride_8", "uniformity", "effective_kde_points"}
VOTES = {"label_disagreement"}  # of cosines that are right to 1e-7, over a temperature of 0.07
ORDERED = {"map_at_k", "verification_auroc"}  # by cosines, some of which differ by less than that


@pytest.mark.slow
@pytest.mark.parametrize("make", [digits, digits_features])
def test_on_real_features(make) -> None:
    wrong = compare(*make())
    assert max(v for name, v in wrong.items() if name not in ROUNDED | VOTES | ORDERED) < 1e-12
    assert max(wrong[name] for name in ROUNDED) < 1e-7
    assert max(wrong[name] for name in VOTES | ORDERED) < 1e-5


@pytest.mark.slow
def test_at_mean_1000_and_std_1() -> None:
    wrong = compare(*far_from_origin())
    small_difference = wrong.pop("coding_rate_reduction")  # ΔR is 1e-5 of R here
    assert small_difference < 1e-6
    assert max(v for name, v in wrong.items() if name not in ROUNDED | VOTES | ORDERED) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_at_nc1_near_1e_8(offset: float) -> None:
    wrong = compare(*nearly_collapsed(offset))
    assert max(wrong[name] for name in ("nc1", "nc1_ratio", "nc2_equinorm", "nc2_equiangle", "cdnv", "nc3")) < 1e-10
    assert max(wrong.values()) < 1e-4  # rankme at mean 1000: 50 singular values of 1e-8 of the first


@pytest.mark.parametrize("make", [long_tailed, more_classes_than_dimensions, curved_manifold])
@pytest.mark.slow
def test_on_other_kinds_of_data(make) -> None:
    wrong = compare(*make())
    assert max(v for name, v in wrong.items() if name not in ROUNDED | VOTES | ORDERED) < 1e-9
    assert max(wrong[name] for name in ROUNDED) < 1e-7
    assert max(wrong[name] for name in VOTES | ORDERED) < 1e-5


@pytest.mark.slow
def test_on_rank_five_data_in_2048_dimensions() -> None:
    x = rank_five()[0][:800]
    metric = GeometryMetric(["effective_rank", "rankme", "stable_rank"])
    for part in x.split(256):
        metric.update(part)
    rows = x.double().numpy()
    truth = oracles.rank_signals(rows, oracles.singular_values(rows))
    values = metric.compute()
    assert truth.keys() == values.keys() - {"n_samples"}
    for name, value in truth.items():
        assert abs(float(values[name]) - value) < 1e-4


def test_two_nn_equals_scikit_dimension() -> None:
    x, _ = digits()
    ours = dimension.id_two_nn(torch.tensor(oracles.distances(x.double().numpy(), 2)))
    theirs = skdim.id.TwoNN().fit(x.double().numpy()).dimension_
    assert float(ours.value) == pytest.approx(theirs, rel=1e-9)


def test_two_nn_and_mle_find_the_dimension_of_a_plane() -> None:
    x = (torch.rand(2000, 3) @ torch.randn(3, 20)).double().numpy()
    r = torch.tensor(oracles.distances(x, 20))
    for estimate in (dimension.id_two_nn(r), dimension.id_mle(r)):
        assert abs(float(estimate.value) - 3) < 0.3
        assert 0 < float(estimate.standard_error) < 0.3


def test_standard_errors_match_the_spread_over_draws() -> None:
    draws: dict[str, list[tuple[float, float]]] = {"id_two_nn": [], "id_mle": []}
    for seed in range(60):
        x = torch.rand(400, 2, generator=torch.Generator().manual_seed(seed)).double().numpy()
        r = torch.tensor(oracles.distances(x, 20))
        for name, estimate in (("id_two_nn", dimension.id_two_nn(r)), ("id_mle", dimension.id_mle(r))):
            draws[name].append((float(estimate.value), float(estimate.standard_error)))
    for name, pairs in draws.items():
        values, errors = np.array(pairs).T
        assert 0.4 < errors.mean() / values.std(ddof=1) < 2.0, name


@pytest.mark.parametrize("copies", [2, 3])
def test_duplicates_are_never_fatal_and_barely_move_a_dimension(copies: int) -> None:
    x = torch.randn(2000, 5)
    clean, dirty = GeometryMetric(["id_two_nn", "id_mle"]), GeometryMetric(["id_two_nn", "id_mle"])
    clean.update(x)
    dirty.update(torch.cat([x, *[x[:7]] * (copies - 1)]))
    before, after = clean.window(), dirty.window()
    for name in ("id_two_nn", "id_mle"):
        assert after.values[name] == pytest.approx(before.values[name], rel=0.01)
    assert after.counts["duplicates"] == 7 * copies


def test_known_values() -> None:
    assert float(spectrum.effective_rank(torch.ones(7))) == pytest.approx(7)
    assert float(spectrum.stable_rank(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(2)
    assert float(spectrum.participation_ratio(torch.eye(6).double())) == pytest.approx(6)
    simplex = torch.eye(5).double() - 0.2
    counts = torch.full((5,), 10)
    assert float(neural_collapse.nc2_equiangle(simplex, counts)) == pytest.approx(0, abs=1e-12)
    assert float(neural_collapse.nc2_equinorm(simplex, counts)) == pytest.approx(0, abs=1e-12)
    assert float(neural_collapse.nc3(simplex, counts, simplex * 3)) == pytest.approx(0, abs=1e-12)
    assert density.log_unit_ball_volume(2) == pytest.approx(math.log(math.pi))
    assert density.log_unit_ball_volume(3) == pytest.approx(math.log(4 / 3 * math.pi))


def test_log_density_of_a_uniform_square_is_near_zero() -> None:
    metric = GeometryMetric(["knn_log_density"], neighbors=Neighbors(k=50))
    metric.update(torch.rand(4000, 2))
    assert abs(metric.window().values["knn_log_density"]) < 0.1


COINCIDING = torch.ones(3, 4).double()
COUNTS = torch.tensor([5, 5, 5])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: spectrum.effective_rank(torch.zeros(4)), "no spread"),
        (lambda: spectrum.rankme(torch.zeros(0)), "no spread"),
        (lambda: spectrum.top_eigenvalue_share(torch.zeros(4)), "no spread"),
        (lambda: spectrum.participation_ratio(torch.zeros(2, 2)), "no spread"),
        (lambda: spread.feature_std(1, torch.ones(2), torch.ones(2)), "at least 2 rows"),
        (lambda: spread.mean_resultant(0, torch.zeros(2)), "every row is zero"),
        (lambda: dimension.id_two_nn(torch.full((9, 2), torch.inf)), "0 of 9 rows"),
        (lambda: dimension.id_two_nn(torch.ones(9, 2)), "same distance"),
        (lambda: dimension.id_two_nn(torch.ones(9, 1)), "2 neighbours"),
        (lambda: dimension.id_mle(torch.ones(9, 4)), "same distance"),
        (lambda: dimension.id_mle(torch.zeros(9, 4)), "two are distinct"),
        (lambda: dimension.id_mle(torch.zeros(9, 1)), "at least 2 neighbours"),
        (lambda: density.log_densities(torch.ones(9, 1), 3), "at least 2 neighbours"),
        (lambda: density.knn_log_density(torch.ones(1)), "fewer than 2 rows"),
        (lambda: density.uniformity(torch.zeros(3), torch.zeros(3, dtype=torch.int64)), "two rows"),
        (
            lambda: votes.knn_accuracy(torch.ones(0, 1), torch.ones(0, 1, dtype=torch.int64), torch.arange(0)),
            "no labelled row has a direction",
        ),
        (
            lambda: votes.knn_accuracy(
                torch.full((2, 1), -torch.inf), torch.ones(2, 1, dtype=torch.int64), torch.tensor([1, 1])
            ),
            "no neighbour from another sample",
        ),
        (lambda: neural_collapse.nc1(COINCIDING, COUNTS, torch.eye(4).double()), "coincide"),
        (lambda: neural_collapse.nc1_ratio(COINCIDING, COUNTS, torch.ones(3).double()), "coincide"),
        (lambda: neural_collapse.nc2_equinorm(COINCIDING, COUNTS), "coincide"),
        (lambda: neural_collapse.nc2_equiangle(COINCIDING, COUNTS), "no angle"),
        (lambda: neural_collapse.cdnv(COINCIDING, COUNTS, torch.ones(3).double()), "coincide"),
        (lambda: neural_collapse.nc3(COINCIDING, COUNTS, torch.ones(3, 4)), "coincide"),
        (lambda: neural_collapse.nc3(COINCIDING, COUNTS, torch.ones(2, 4)), "head's weight is"),
        (lambda: neural_collapse.cdnv(COINCIDING, torch.tensor([5, 1, 0]), torch.ones(3).double()), "2 classes"),
    ],
)
def test_undefined_values_say_why(call, says: str) -> None:
    with pytest.raises(Undefined, match=says):
        call()


def test_nc1_is_never_negative_and_classes_with_one_row_are_left_out() -> None:
    means = torch.randn(4, 6).double()
    x = means[[0] * 5 + [1] * 5 + [2] * 5 + [3]]
    metric = GeometryMetric(["nc1", "cdnv", "nc2_equiangle"], num_classes=6)
    metric.update(x, torch.tensor([0] * 5 + [1] * 5 + [2] * 5 + [3]))
    three = GeometryMetric(["nc1", "cdnv", "nc2_equiangle"], num_classes=3)
    three.update(x[:15], torch.tensor([0] * 5 + [1] * 5 + [2] * 5))
    ours, expected = metric.window().values, three.window().values
    assert ours["nc1"] >= 0
    assert ours["nc2_equiangle"] == pytest.approx(expected["nc2_equiangle"], rel=1e-12)
