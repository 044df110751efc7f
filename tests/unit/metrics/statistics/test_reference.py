"""A window against a reference: fidelity, outliers, the vote from a reference bank, and what is said without one."""

import pytest
import torch
from torch import Tensor

from lightning_featgeo import ConfigurationError, GeometryMetric
from lightning_featgeo.metrics.catalog import CATALOG, resolve
from lightning_featgeo.metrics.functional import fidelity
from tests._helpers import oracles
from tests._helpers.data import digits_features, head, long_tailed

ALL = ("fidelity", "ood", "knn_accuracy", "unit_shift", "effective_rank")


def halves() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x, y = digits_features()
    x = x[:, x.std(0) > 1e-3]
    return (x[:1100], y[:1100]), (x[1100:] * 1.05 + 0.02, y[1100:])


def metrics(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], signals=ALL, classes: int = 10):
    scores = head(classes, train[0].shape[1])
    reference, window = (GeometryMetric(signals, num_classes=classes, head=scores) for _ in range(2))
    for metric, (x, y) in ((reference, train), (window, val)):
        for start in range(0, len(x), 200):
            metric.update(x[start : start + 200], y[start : start + 200])
    return reference, window


@pytest.mark.slow
def test_every_reference_signal_equals_the_library_that_people_cite() -> None:
    train, val = halves()
    reference, window = metrics(train, val)
    ours = window.window(reference=reference)
    assert not ours.gaps
    a, b = (v[0].double().numpy() for v in (train, val))
    weight, bias = (p.detach().double().numpy() for p in head(10, a.shape[1]).parameters())
    truth = oracles.compared(a, train[1].numpy(), b, val[1].numpy())
    truth |= oracles.against(a, train[1].numpy(), b, weight, bias)
    for name, value in truth.items():
        assert ours.values[name] == pytest.approx(value, rel=1e-7), name
    assert truth.keys() == {n for n in resolve(ALL) if n not in ("effective_rank", "n_samples")}


def test_equal_distributions_read_as_the_definitions_say() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4000, 6), torch.arange(4000) % 4
    reference, window = metrics((x[:2000], y[:2000]), (x[2000:], y[2000:]), classes=4)
    values = window.window(reference=reference).values
    assert values["fidelity_density"] == pytest.approx(1, abs=0.05)
    assert values["fidelity_coverage"] == pytest.approx(1 - 2**-5, abs=0.02)
    assert values["chi2_fraction"] == pytest.approx(0.01, abs=0.01)
    assert values["mahalanobis"] == pytest.approx(1, abs=0.1)
    assert values["knn_ood_auroc"] == pytest.approx(0.5, abs=0.03)
    assert values["mahalanobis_auroc"] == pytest.approx(0.5, abs=0.03)
    assert abs(values["kernel_mmd"]) < 0.05
    shifted = window.window(reference=metrics((x[:2000] + 4, y[:2000]), (x, y), classes=4)[0]).values
    assert shifted["knn_ood_auroc"] > 0.9
    assert shifted["chi2_fraction"] > 0.9
    assert shifted["fidelity_precision"] < 0.2


def test_without_a_reference_there_is_a_reason_in_its_place() -> None:
    train, val = halves()
    reference, window = metrics(train, val)
    assert set(window.window().gaps) == set(resolve(["fidelity", "ood", "knn_accuracy", "unit_shift"]))
    assert window.window().gaps["frechet_distance"] == "no reference was given"
    assert "knn_accuracy" in window.window(reference=reference).values  # never the vote of another bank in its place
    every = GeometryMetric("all", num_classes=10)
    every.update(*val)
    assert every.left_out["kernel_mmd"].startswith("needs a reference")
    plain = GeometryMetric(["effective_rank"])
    plain.update(train[0])
    assert "the reference keeps no bank" in window.window(reference=plain).gaps["kernel_mmd"]
    empty = GeometryMetric(ALL, num_classes=10)
    assert set(window.window(reference=empty).gaps.values()) == {"the reference has seen no rows"}
    empty.update(train[0][:0], train[1][:0])
    assert "has seen no rows" in window.window(reference=empty).gaps["kernel_mmd"]
    narrow = GeometryMetric(ALL, num_classes=10)
    narrow.update(train[0][:, :5], train[1])
    assert "5 dimensions" in window.window(reference=narrow).gaps["frechet_distance"]


def test_serve_keeps_what_others_read_and_nothing_more() -> None:
    train, val = halves()
    reference = GeometryMetric("n_samples", num_classes=10, has_reference=False, serve=["fidelity_recall"])
    reference.update(*train)
    assert list(reference.accumulators) == ["bank"]
    assert set(reference.compute()) == {"n_samples"}
    for name in resolve(["fidelity", "ood", "knn_accuracy", "tail_min_angle"]):
        reference = GeometryMetric("n_samples", num_classes=10, has_reference=False, serve=[name])
        window = GeometryMetric([name], num_classes=10, has_reference=True, head=head(10, train[0].shape[1]))
        reference.update(*train)
        window.update(*val)
        if name != "tail_min_angle":  # ten equal classes have no tail
            assert name in window.window(reference=reference).values
            assert "reference" in CATALOG[name].requires or name == "knn_accuracy"


def test_voters_may_have_classes_that_the_window_has_not() -> None:
    (x, y), (z, _) = halves()
    reference, window = metrics((x, y), (z[:200], torch.zeros(200, dtype=torch.int64)), ["knn_accuracy"])
    truth = oracles.compared(x.double().numpy(), y.numpy(), z[:200].double().numpy(), torch.zeros(200).numpy())
    assert window.window(reference=reference).values["knn_accuracy"] == pytest.approx(truth["knn_accuracy"])
    assert 0 < truth["knn_accuracy"] < 0.5


def test_head_and_tail_are_told_by_the_reference_where_the_window_is_balanced() -> None:
    x, y = long_tailed()
    balanced = torch.cat([(y == c).nonzero()[:12, 0] for c in range(9)])
    reference, window = metrics((x, y), (x[balanced], y[balanced]), ["tail_min_angle"], classes=9)
    assert "no tail" in window.window().gaps["tail_min_angle"]
    assert window.window(reference=reference).values["tail_min_angle"] > 0


def test_a_named_reference_signal_is_an_error_where_a_reference_is_ruled_out() -> None:
    metric = GeometryMetric(["kernel_mmd"], has_reference=False)
    metric.update(torch.randn(9, 3))
    assert metric.left_out["kernel_mmd"].startswith("needs a reference")
    with pytest.raises(ConfigurationError, match="unknown signal 'kernel_mdm'"):
        GeometryMetric(serve=["kernel_mdm"])


def test_rows_on_the_edge_of_a_ball_are_outside_whatever_round_off_says() -> None:
    lattice = torch.cartesian_prod(*[torch.arange(3.0)] * 4)
    r = torch.cdist(lattice.double(), lattice.double(), compute_mode="donot_use_mm_for_euclid_dist").square().round()
    limit = r.clone().fill_diagonal_(torch.inf).sort(dim=1).values[:, 4]
    exact = float((r < limit[None, :]).sum(dim=1).double().mean() / 5)
    assert float(fidelity.prdc(lattice, lattice.clone())["density"]) == pytest.approx(exact)
    for x in (torch.randn(400, 16), 1e4 + torch.randn(400, 16), torch.randn(400, 7).double()):
        same = fidelity.prdc(x, x.clone())
        assert float(same["density"]) == 1  # itself and k−1 others, and not the k-th, on the edge
        assert float(same["coverage"]) == 1


def test_metrics_with_the_same_signals_can_be_compared() -> None:
    (x, y), (z, w) = halves()
    for signals in (["mahalanobis"], "ood", "fidelity", ["frechet_distance"]):
        reference, window = metrics((x, y), (z, w), signals)
        assert not window.window(reference=reference).gaps
    means_only = GeometryMetric(["cdnv"], num_classes=10)
    means_only.update(x, y)
    _, window = metrics((x, y), (z, w), ["ood", "frechet_distance", "effective_rank"])
    gaps = window.window(reference=means_only).gaps
    assert gaps["frechet_distance"].startswith("the reference keeps no covariance")
    assert "effective_rank" not in gaps


def test_collapsed_classes_keep_their_mahalanobis_distance() -> None:
    torch.manual_seed(0)
    y = torch.arange(800) % 4
    means, noise = 3 * torch.randn(4, 6).double(), torch.randn(800, 6).double()
    read = []
    for spread in (1.0, 1e-5, 1e-7):
        reference, window = metrics(
            (means[y] + spread * noise, y), (means[y] + spread * noise.flip(0), y), ["mahalanobis"], classes=4
        )
        read.append(window.window(reference=reference).values["mahalanobis"])
    assert read[1] == pytest.approx(read[2], rel=1e-6)


def test_outlier_scores_do_not_depend_on_the_scale() -> None:
    train, val = halves()
    read = []
    for scale in (1.0, 1e-18, 1e18):
        pair = [(x.double() * scale, y) for x, y in (train, val)]
        reference, window = metrics(*pair, ["knn_ood_score", "knn_ood_auroc"])
        read.append(window.window(reference=reference).values)
    assert read[0] == pytest.approx(read[1], rel=1e-9)
    assert read[0] == pytest.approx(read[2], rel=1e-9)


def test_one_row_is_enough_for_a_vote_and_too_few_for_a_covariance() -> None:
    train, (x, y) = halves()
    reference, window = metrics(train, (x[:1], y[:1]), ["knn_accuracy", "frechet_distance"])
    result = window.window(reference=reference)
    assert result.values["knn_accuracy"] in (0.0, 1.0)
    assert "a covariance needs 2 rows" in result.gaps["frechet_distance"]
    unlabelled = GeometryMetric(["knn_accuracy", "frechet_distance"], num_classes=10)
    unlabelled.update(train[0], torch.full_like(train[1], -1))
    assert "no labelled rows" in window.window(reference=unlabelled).gaps["knn_accuracy"]
