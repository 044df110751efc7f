"""A window against a reference: fidelity, outliers, the vote from a reference bank, and what is said without one."""

import oracles
import pytest
import torch
from data import digits_features, long_tailed
from torch import Tensor

from lightning_featgeo import ConfigurationError, GeometryMetric
from lightning_featgeo.metrics.catalog import CATALOG, resolve

ALL = ("fidelity", "ood", "knn_accuracy", "effective_rank")


def halves() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x, y = digits_features()
    x = x[:, x.std(0) > 1e-3]
    return (x[:1100], y[:1100]), (x[1100:] * 1.05 + 0.02, y[1100:])


def metrics(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], signals=ALL, classes: int = 10):
    reference, window = (GeometryMetric(signals, num_classes=classes) for _ in range(2))
    for metric, (x, y) in ((reference, train), (window, val)):
        for start in range(0, len(x), 200):
            metric.update(x[start : start + 200], y[start : start + 200])
    return reference, window


def test_every_reference_signal_equals_the_library_that_people_cite() -> None:
    train, val = halves()
    reference, window = metrics(train, val)
    ours = window.window(reference=reference)
    assert not ours.gaps
    a, b = (v[0].double().numpy() for v in (train, val))
    truth = oracles.compared(a, train[1].numpy(), b, val[1].numpy())
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
    assert set(window.window().gaps) == set(resolve(["fidelity", "ood"]))
    assert window.window().gaps["frechet_distance"] == "no reference was given"
    assert window.window().values["knn_accuracy"] != window.window(reference=reference).values["knn_accuracy"]
    every = GeometryMetric("all", num_classes=10)
    every.update(*val)
    assert every.left_out["kernel_mmd"].startswith("needs a reference")
    plain = GeometryMetric(["effective_rank"])
    plain.update(train[0])
    assert "the reference keeps no bank" in window.window(reference=plain).gaps["kernel_mmd"]
    empty = GeometryMetric(ALL, num_classes=10)
    assert set(window.window(reference=empty).gaps) == set(resolve(["fidelity", "ood"]))
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
        window = GeometryMetric([name], num_classes=10, has_reference=True)
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
