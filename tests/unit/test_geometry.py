"""GeometryMetric: choosing signals, bad input, gaps instead of NaN, merging, checkpoints."""

import io
import warnings

import pytest
import torch
from torch import Tensor, nn

from lightning_featgeo import ConfigurationError, GeometryMetric
from lightning_featgeo.metrics import CATALOG, Estimate, Signal, register
from lightning_featgeo.metrics.catalog import PRESETS, resolve
from lightning_featgeo.metrics.plan import bank_capacity
from lightning_featgeo.rows.rows import build_rows
from tests._helpers.data import PLAIN, digits_features, head

CLASS_SIGNALS = {name for name in PLAIN if "labels" in CATALOG[name].requires}
TAIL = {"tail_min_angle", "class_volume_tail_gap"}  # three classes, or equal ones, have no tail
SUBSPACES = {"class_subspace_affinity"}  # of five directions: not in four dimensions
# A power law isn't fitted to four eigenvalues, there is no window before the first.
NOT_HERE = {"alpha_req", "alpha_req_r2", "neighbor_churn"} | TAIL | SUBSPACES


def test_auto_tells_the_kind_of_run_and_why() -> None:
    x, y = torch.randn(60, 8), torch.arange(60) % 3
    sample, view = torch.arange(60) % 30, (torch.arange(60) >= 30).long()
    head = torch.nn.Linear(8, 3)

    def chosen(labels=None, classes=None, views=False, tokens=False, **kwargs):
        metric = GeometryMetric(num_classes=classes, **kwargs)
        metric.tokens = tokens
        metric.update(x, labels, sample if views else None, view if views else None)
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
    ("arguments", "says"),
    [
        ({"k": 1}, "k must be at least 2"),
        ({"knn_vote_k": 0}, "knn_vote_k must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"bank_size": 1}, "bank_size"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        GeometryMetric("all", **arguments)


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
    assert metric.left_out.keys() == {"knn_accuracy", "tolerance", "alignment", "robustness_index"}
    assert metric.left_out["tolerance"] == "needs class labels and the first batch has none; pass labels"
    assert metric.left_out["alignment"].startswith("needs two views")
    metric = GeometryMetric("all")
    metric.update(torch.randn(50, 4), torch.arange(50) % 2)
    assert set(metric.left_out) == CLASS_SIGNALS | set(CATALOG) - PLAIN - {"neighbor_churn"}
    with pytest.raises(ConfigurationError, match="none of the signals"):
        GeometryMetric("neural_collapse").update(torch.randn(50, 4))


def finite(metric: GeometryMetric) -> tuple[set[str], dict[str, str]]:
    """Names with values, and gaps; fails if anything is neither, both, or not finite."""
    window = metric.window()
    assert all(torch.isfinite(torch.tensor(v)) for v in window.values.values())
    assert all(torch.isfinite(torch.tensor(v)) for v in window.standard_errors.values())
    assert all(len(reason) > 5 for reason in window.gaps.values())
    assert set(window.values) | set(window.gaps) == {*(metric.signals or ()), "n_samples"}
    assert not set(window.values) & set(window.gaps)
    return set(window.values), dict(window.gaps)


def everything(x: Tensor, y: Tensor, classes: int = 3) -> tuple[set[str], dict[str, str]]:
    metric = GeometryMetric("all", num_classes=classes, head=head(classes, x.shape[1]))
    metric.update(x, y)
    return finite(metric)


CASES = {
    "one row": (torch.randn(1, 4), torch.tensor([0])),
    "two rows": (torch.randn(2, 4), torch.tensor([0, 1])),
    "one class": (torch.randn(50, 4), torch.zeros(50, dtype=torch.int64)),
    "empty class": (torch.randn(50, 4), torch.arange(50) % 2),
    "one row a class": (torch.randn(3, 4), torch.arange(3)),
    "fewer rows than k": (torch.randn(12, 4), torch.arange(12) % 3),
    "identical rows": (torch.full((50, 4), 2.5), torch.arange(50) % 3),
    "zero rows": (torch.zeros(50, 4), torch.arange(50) % 3),
    "d = 1": (torch.randn(50, 1), torch.arange(50) % 3),
    "float16": (torch.randn(50, 4).half(), torch.arange(50) % 3),
    "bfloat16": (torch.randn(50, 4).bfloat16(), torch.arange(50) % 3),
    "float64": (torch.randn(50, 4).double(), torch.arange(50) % 3),
    "integers": (torch.randint(-9, 9, (50, 4)), torch.arange(50) % 3),
    "booleans": (torch.rand(50, 4) > 0.5, torch.arange(50) % 3),
    "huge": (1e30 * torch.randn(50, 4), torch.arange(50) % 3),
    "tiny": (1e-38 * torch.randn(50, 4), torch.arange(50) % 3),
    "unlabelled": (torch.randn(50, 4), torch.full((50,), -100)),
    "a line": (torch.arange(50.0)[:, None].expand(50, 4), torch.arange(50) % 3),
}


@pytest.mark.parametrize("case", CASES)
def test_never_nan_never_a_crash(case: str) -> None:
    values, _ = everything(*CASES[case])
    assert "n_samples" in values
    if case in ("float16", "bfloat16", "float64", "integers", "huge"):
        assert values == PLAIN - NOT_HERE


def test_what_is_a_gap_and_why() -> None:
    assert everything(*CASES["identical rows"])[1]["effective_rank"].startswith("the features have no spread")
    values, gaps = everything(*CASES["zero rows"])
    assert "feature_std" in values  # every ReLU dead: this is what must be seen
    assert gaps["mean_resultant"] == "every row is zero: no row has a direction"
    one_class = set(everything(*CASES["one class"])[1]) - NOT_HERE
    assert one_class == CLASS_SIGNALS - {"knn_accuracy", "coding_rate_reduction", "tolerance"} - NOT_HERE
    assert set(everything(*CASES["unlabelled"])[1]) - NOT_HERE == CLASS_SIGNALS - NOT_HERE
    assert "id_mle" in everything(*CASES["fewer rows than k"])[1]
    assert "1 classes" not in str(everything(*CASES["empty class"])[1])


def test_labels_out_of_range_make_a_gap_that_names_them() -> None:
    _, gaps = everything(torch.randn(50, 4), torch.arange(50) % 5)
    assert set(gaps) - NOT_HERE == CLASS_SIGNALS - NOT_HERE
    assert "20 labels are not below num_classes=3 (largest: 4)" in gaps["nc1"]


def test_nan_and_inf_rows_are_dropped_and_counted() -> None:
    x, y = digits_features()
    dirty = x.clone()
    dirty[5, 3], dirty[77, 0] = torch.nan, -torch.inf
    clean = torch.ones(len(x), dtype=torch.bool)
    clean[[5, 77]] = False
    ours, expected = (GeometryMetric("all", num_classes=10, head=head(10, 96)) for _ in range(2))
    ours.update(dirty, y)
    expected.update(x[clean], y[clean], sample_index=torch.arange(len(x))[clean])
    for name, value in expected.compute().items():
        assert float(ours.compute()[name]) == pytest.approx(float(value), rel=1e-12)
    assert ours.window().counts["nonfinite"] == 2


def test_empty_batches_count_for_nothing_and_no_rows_is_all_gaps() -> None:
    metric = GeometryMetric(["effective_rank"])
    assert metric.window().gaps == {"effective_rank": "no rows arrived"}
    metric.update(torch.zeros(0, 4))
    assert "every row was left out" in metric.window().gaps["effective_rank"]
    metric.update(torch.randn(9, 4))
    assert metric.window().values["n_samples"] == 9


def test_batch_size_one_equals_one_batch() -> None:
    x, y = digits_features()
    one, all_ = GeometryMetric("classifier", num_classes=10), GeometryMetric("classifier", num_classes=10)
    for row, label in zip(x[:300].split(1), y[:300].split(1), strict=True):
        one.update(row, label)
    all_.update(x[:300], y[:300])
    for name, value in all_.compute().items():
        assert float(one.compute()[name]) == pytest.approx(float(value), rel=1e-10)


def test_two_views_as_views_change_nothing_and_as_rows_would() -> None:
    x, y = digits_features()
    single, views = GeometryMetric("all", num_classes=10, head=head(10, 96)), None
    single.update(x, y)
    views = GeometryMetric("all", num_classes=10, head=head(10, 96))
    index = torch.arange(len(x))
    views.update(x, y, sample_index=index, view=0)
    views.update(x + 0.01, y, sample_index=index, view=1)
    stacked = GeometryMetric("all", num_classes=10, head=head(10, 96))
    stacked.update(
        torch.cat([x, x + 0.01]), y.repeat(2), sample_index=index.repeat(2), view=torch.arange(2 * len(x)) // len(x)
    )
    for name, value in single.compute().items():
        assert float(views.compute()[name]) == pytest.approx(float(value), rel=1e-12)
        assert float(stacked.compute()[name]) == pytest.approx(float(value), rel=1e-12)


def test_rows_of_one_sample_are_never_neighbours() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(500, 8), torch.randint(0, 10, (500,))
    twice, labels = x.repeat_interleave(2, 0) + 1e-4 * torch.randn(1000, 8), y.repeat_interleave(2)
    aware, naive = (GeometryMetric(["knn_accuracy", "id_two_nn"], num_classes=10, knn_vote_k=1) for _ in range(2))
    aware.update(twice, labels, sample_index=torch.arange(500).repeat_interleave(2))
    naive.update(twice, labels)
    assert float(aware.compute()["knn_accuracy"]) < 0.2
    assert float(naive.compute()["knn_accuracy"]) > 0.9


def test_memory_after_10_and_1000_batches_is_what_was_announced() -> None:
    x, y = digits_features()
    metric = GeometryMetric("all", num_classes=10, head=head(10, 96))
    metric.update(x[:8], y[:8])
    announced = metric.memory_bytes
    for batches in (10, 1000):
        for _ in range(batches):
            metric.update(x[:8], y[:8])
        assert metric.memory_bytes == announced


def test_checkpoint_and_merge_equal_the_whole() -> None:
    x, y = digits_features()
    index = torch.arange(len(x))
    whole, a, b = (GeometryMetric("all", num_classes=10, head=head(10, 96)) for _ in range(3))
    whole.update(x, y, sample_index=index)
    a.update(x[:500], y[:500], sample_index=index[:500])
    b.update(x[500:], y[500:], sample_index=index[500:])
    file = io.BytesIO()
    torch.save(b.checkpoint(), file)
    file.seek(0)
    restored = GeometryMetric("all", num_classes=10, head=head(10, 96))
    restored.merge_state(torch.load(file, weights_only=True))
    a.merge_state(restored)
    a.merge_state(GeometryMetric("all", num_classes=10))  # one that saw nothing
    for name, value in whole.compute().items():
        assert float(a.compute()[name]) == pytest.approx(float(value), rel=1e-10)
    assert a.window().counts == whole.window().counts


def test_merging_refuses_other_settings_and_other_things() -> None:
    a, b = GeometryMetric(["feature_std"]), GeometryMetric(["feature_std"], seed=1)
    a.update(torch.randn(5, 3))
    b.update(torch.randn(5, 3))
    with pytest.raises(ValueError, match="cannot merge"):
        a.merge_state(b)
    with pytest.raises(ValueError, match="takes a GeometryMetric"):
        a.merge_state({})


def test_reset_keeps_memory_and_forgets_rows() -> None:
    metric = GeometryMetric(["effective_rank", "id_two_nn"])
    x = torch.randn(100, 5)
    metric.update(x + 7)
    memory = metric.memory_bytes
    metric.reset()
    metric(x)  # forward accumulates too
    fresh = GeometryMetric(["effective_rank", "id_two_nn"])
    fresh.update(x)
    assert metric.memory_bytes == memory
    for name, value in fresh.compute().items():
        assert float(metric.compute()[name]) == pytest.approx(float(value), rel=1e-12)


def test_inside_inference_mode_autocast_and_a_cast_parent() -> None:
    x, y = digits_features()
    expected = GeometryMetric("classifier", num_classes=10)
    expected.update(x, y)
    parent = nn.Module()
    parent.metric = GeometryMetric("classifier", num_classes=10)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        parent.metric.update(x[:900].clone(), y[:900])
    parent.to(torch.bfloat16)
    parent.metric.update(x[900:], y[900:])
    for name, value in expected.compute().items():
        assert float(parent.metric.compute()[name]) == pytest.approx(float(value), rel=1e-10)
    assert parent.state_dict() == {}


def test_no_random_number_is_drawn() -> None:
    x, y = digits_features()
    before = torch.random.get_rng_state()
    metric = GeometryMetric("all", num_classes=10, head=head(10, 96))
    metric.update(x, y)
    metric.compute()
    assert torch.equal(before, torch.random.get_rng_state())


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
    assert bank_capacity("auto", 32768) == 2048
    assert bank_capacity(77, 5) == 77


def test_compute_before_update_says_so_and_gives_no_number() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert float(GeometryMetric(["feature_std"]).compute()["n_samples"]) == 0


def test_nc3_and_nc4_without_a_head_are_gaps() -> None:
    x, y = digits_features()
    for classifier, says in ((None, "no linear head is known"), (nn.ReLU(), "no linear head is known")):
        metric = GeometryMetric(["nc3", "nc4"], num_classes=10, head=classifier)
        metric.update(x, y)
        assert says in metric.window().gaps["nc3"]


def test_a_failed_decomposition_is_a_gap_of_its_signal_alone() -> None:
    metric = GeometryMetric(["effective_rank", "dead_fraction"])
    metric.update(1e200 * torch.randn(50, 4, dtype=torch.float64))  # its scatter overflows float64
    values, gaps = finite(metric)
    assert "dead_fraction" in values
    assert set(gaps) == {"effective_rank"}


def test_a_value_does_not_depend_on_which_other_signals_are_chosen() -> None:
    x, y = digits_features()
    x = x.clone()
    x[0] += 1e5  # an outlier is the first row of its class, and so the shift of all that follow
    alone, together = (GeometryMetric(names, num_classes=10) for names in (["nc1"], ["nc1", "effective_rank"]))
    for metric in (alone, together):
        for part in torch.arange(len(x)).split(1):
            metric.update(x[part], y[part])
    assert float(alone.compute()["nc1"]) == float(together.compute()["nc1"])


def test_counters_move_with_the_metric() -> None:
    metric = GeometryMetric(["feature_std"])
    metric.update(torch.randn(5, 3))
    metric.to("meta")
    assert metric.state_device.type == "meta"
    assert metric.accumulators["directions"].sums.device.type == "meta"


def test_what_closing_takes_is_announced_and_follows_the_configuration() -> None:
    def closing(signals: list[str], dim: int, classes: int | None = None, bank: int = 100) -> int:
        metric = GeometryMetric(signals, num_classes=classes, bank_size=bank)
        metric.update(torch.randn(20, dim), None if classes is None else torch.arange(20) % classes)
        return metric.closing_bytes

    assert closing(["feature_std"], 30) == 0
    assert closing(["effective_rank"], 300) >= 3 * 8 * 300**2
    assert closing(["id_two_nn"], 30, bank=1000) > closing(["id_two_nn"], 30, bank=100) > 0
    assert closing(["nc1"], 30, classes=5000) > closing(["nc1"], 30, classes=50)
