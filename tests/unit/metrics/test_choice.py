"""Which signals a GeometryMetric computes: presets, groups, settings that are refused, signals of one's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_featgeo import ConfigurationError, GeometryMetric, Neighbors
from lightning_featgeo.metrics import CATALOG, Estimate, Signal, register
from lightning_featgeo.metrics.catalog import PRESETS, resolve
from lightning_featgeo.metrics.plan import bank_capacity
from lightning_featgeo.rows.rows import build_rows
from tests._helpers.data import CLASS_SIGNALS, PLAIN, digits_features, head


def test_auto_tells_the_kind_of_run_and_why() -> None:
    x, y = torch.randn(60, 8), torch.arange(60) % 3
    sample, view = torch.arange(60) % 30, (torch.arange(60) >= 30).long()
    head = torch.nn.Linear(8, 3)

    def chosen(labels=None, classes=None, views=False, tokens=False, **kwargs):
        metric = GeometryMetric(num_classes=classes, **kwargs)
        targets = labels if labels is not None and labels.is_floating_point() else None
        classes_given = None if targets is not None else labels
        given = {
            "labels": classes_given,
            "targets": targets,
            "views": view if views else None,
            "tokens": tokens or None,
        }
        rows = build_rows(x, classes_given, sample if views else None, view if views else None, targets=targets)
        metric.update_rows(rows, frozenset(name for name, value in given.items() if value is not None))
        return metric.preset.split(":")[0], metric.signals

    assert chosen(y, 3) == ("classifier", PRESETS["classifier"])
    assert chosen(y, 3, views=True, head=head)[0] == "classifier"  # two forwards of a classifier are no two views
    assert chosen(y, 3, views=True) == ("self_supervised", PRESETS["self_supervised"])
    assert chosen(views=True) == ("self_supervised", PRESETS["self_supervised"][:-1])
    assert chosen(y) == chosen() == ("self_supervised", (*PRESETS["self_supervised"][:4], "id_two_nn"))
    assert chosen(torch.randn(60, 2)) == ("regressor", PRESETS["regressor"])
    assert chosen(y, 3, tokens=True) == ("tokens", PRESETS["tokens"])
    assert resolve("embeddings") == PRESETS["embeddings"]


def test_auto_takes_eight_for_a_classifier_and_five_without_labels() -> None:
    x, y = digits_features()
    labelled, unlabelled = GeometryMetric(num_classes=10), GeometryMetric(num_classes=10)
    labelled.update(x, y)
    unlabelled.update(x)
    assert set(labelled.compute()) == {*PRESETS["classifier"], "n_samples"}
    assert len(PRESETS["classifier"]) == 8
    plain = set(PRESETS["self_supervised"]) - {"alignment", "lidar", "knn_accuracy"}
    assert set(unlabelled.compute()) == {*plain, "n_samples"}
    assert unlabelled.preset == "self_supervised: no labels were found; if there are some, name them with labels="


def test_only_the_needed_accumulators_run() -> None:
    metric = GeometryMetric(["feature_std"])
    metric.update(torch.randn(10, 4))
    assert list(metric.accumulators) == ["directions"]
    cheap = GeometryMetric(["participation_ratio", "dead_fraction"])
    cheap.update(torch.randn(10, 4))
    assert sorted(cheap.accumulators) == ["moments", "units"]
    means_only = GeometryMetric(["nc2_equiangle", "cdnv"], num_classes=2)
    means_only.update(torch.randn(10, 4), torch.arange(10) % 2)
    assert means_only.accumulators["moments"].memory_bytes == 3 * (12 * 4 + 16)  # no d×d state where none is read
    assert set(means_only.compute()) == {"nc2_equiangle", "cdnv", "n_samples"}


@pytest.mark.parametrize(
    ("signals", "says"),
    [
        ("efective_rank", "Did you mean 'effective_rank'"),
        (["nc1", "id_twonn"], "Did you mean 'id_two_nn'"),
        (["zzz"], "Known:"),
        ([], "signals is empty"),
    ],
)
def test_unknown_signals_are_refused_with_near_misses(signals, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        GeometryMetric(signals)


def test_groups_resolve_in_order_without_repeats() -> None:
    assert resolve(["nc1", "neural_collapse"])[0] == "nc1"
    assert set(resolve("neural_collapse")) >= {
        "nc1",
        "nc1_ratio",
        "nc2_equinorm",
        "nc2_equiangle",
        "nc3",
        "nc4",
        "cdnv",
    }
    assert resolve("all") == tuple(CATALOG)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Neighbors(k=1), "k must be at least 2"),
        (lambda: Neighbors(knn_k=0), "knn_k must be at least 1"),
        (lambda: Neighbors(bank_size=1), "bank_size must be 'auto' or at least 2 rows"),
        (lambda: GeometryMetric("all", num_classes=0), "num_classes must be at least 1"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.update(torch.randn(4)), "must be .rows, dimensions."),
        (lambda m: m.update(torch.randn(4, 2, 2)), "pool or flatten"),
        (lambda m: m.update(torch.randn(4, 2), torch.zeros(3, dtype=torch.int64)), "labels must be 4 integers"),
        (lambda m: m.update(torch.randn(4, 2), torch.zeros(3)), "targets must be 4 real numbers"),
        (lambda m: m.update(torch.randn(4, 2), groups=torch.zeros(3, dtype=torch.int64)), "groups must be 4 integers"),
        (lambda m: m.update(torch.randn(4, 2), sample_index=torch.zeros(2, dtype=torch.int64)), "sample_index must"),
        (lambda m: m.update(torch.randn(4, 2), view=torch.zeros(2, dtype=torch.int64)), "view must be"),
        (lambda m: m.update(torch.randn(4, 0)), "0 dimensions"),
        (lambda m: m.update(torch.randn(4, 2, dtype=torch.complex64)), "complex"),
        (lambda m: [m.update(torch.randn(4, 2)), m.update(torch.randn(4, 3))], "2 dimensions in the first batch"),
        (lambda m: build_rows(torch.randn(4, 2), keep=torch.ones(4)), "keep must be 4 booleans"),
    ],
)
def test_bad_batches_are_refused_with_words(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call(GeometryMetric(["feature_std"]))


def test_class_signals_without_labels_or_classes_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="nc1 needs class labels"):
        GeometryMetric(["nc1"], num_classes=3).update(torch.randn(4, 2))
    with pytest.raises(ConfigurationError, match="give num_classes"):
        GeometryMetric(["nc1"]).update(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))


def test_groups_leave_out_what_a_run_cannot_compute_and_say_so() -> None:
    metric = GeometryMetric("density")
    metric.update(torch.randn(50, 4))
    assert "knn_accuracy" not in metric.compute()
    assert metric.left_out.keys() == {
        "knn_accuracy",
        "label_disagreement",
        "neighbor_purity",
        "tolerance",
        "alignment",
        "robustness_index",
    }
    assert metric.left_out["tolerance"] == (
        "needs class labels and the first batch has none, or none that are one a row; pass labels (of "
        "tokens or pixels: as (samples, places))"
    )
    assert metric.left_out["alignment"].startswith("needs two views")
    metric = GeometryMetric("all")
    metric.update(torch.randn(50, 4), torch.arange(50) % 2)
    without_labels = {name for name, row in CATALOG.items() if "labels" not in row.requires}
    over_time = {name for name, row in CATALOG.items() if row.requires & {"earlier", "sketches", "past"}}
    assert set(metric.left_out) == CLASS_SIGNALS | set(CATALOG) - PLAIN - (over_time & without_labels)
    with pytest.raises(ConfigurationError, match="none of the signals"):
        GeometryMetric("neural_collapse").update(torch.randn(50, 4))


def test_a_signal_is_added_with_a_function_and_a_row() -> None:
    def feature_norm(covariance: Tensor) -> Estimate:
        return Estimate(covariance.diagonal().sum().sqrt())

    row = Signal(
        "test_norm", feature_norm, ("covariance",), "none", "1", "[0, ∞)", "a test", ("spectrum",),
    )  # fmt: skip
    register(row)
    try:
        metric = GeometryMetric("spectrum")
        metric.update(torch.randn(500, 4))
        assert float(metric.compute()["test_norm"]) == pytest.approx(2, rel=0.1)
        with pytest.raises(ConfigurationError, match="exists already"):
            register(row)
    finally:
        del CATALOG["test_norm"]
    for name, needs, says in (
        ("Test", ("covariance",), "lower-case"),
        ("test", ("covarianze",), "no statistic 'covarianze'"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            register(Signal(name, feature_norm, needs, "none", "1", "", "a test", ()))


def test_the_bank_is_smaller_where_features_are_large() -> None:
    assert bank_capacity("auto", 512) == 4096
    assert bank_capacity("auto", 32768) == 512
    assert bank_capacity(77, 5) == 77


def test_minima_and_maxima_of_units_are_kept_only_for_signals_that_read_them() -> None:
    def largest_activation(unit_maximum: Tensor) -> Tensor:
        return unit_maximum.max()

    def smallest_activation(unit_minimum: Tensor) -> Tensor:
        return unit_minimum.min()

    x = torch.randn(500, 4)
    everyday = GeometryMetric([n for n in PLAIN if n != "outlier_max"], num_classes=3, head=head(3, 4))
    everyday.update(x, torch.arange(500) % 3)
    assert set(everyday.accumulators["units"].tensors()) == {"count", "active"}
    functions = {"test_largest": largest_activation, "test_smallest": smallest_activation}
    for name, function in functions.items():
        need = next(iter(function.__annotations__))
        register(Signal(name, function, (need,), "none", "1", "(−∞, ∞)", "a test", ()))
    try:
        metric = GeometryMetric(list(functions))
        for part in x.split(64):
            metric.update(part)
        assert float(metric.compute()["test_largest"]) == float(x.max())
        assert float(metric.compute()["test_smallest"]) == float(x.min())
    finally:
        for name in functions:
            del CATALOG[name]
