"""A GeometryMetric on hard input: a value or a gap with its reason, never NaN."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics import CATALOG
from lightning_featgeo.metrics.catalog import resolve
from tests._helpers.data import CLASS_SIGNALS, PLAIN, digits_features, head

TAIL = {"tail_min_angle", "class_volume_tail_gap", "nc_count_slope"}  # three classes, or equal ones, have no tail


SUBSPACES = {"class_subspace_affinity"}  # of five directions: not in four dimensions


# A power law isn't fitted to four eigenvalues, there is no window before the first.
EARLIER = {name for name, row in CATALOG.items() if row.requires & {"earlier", "sketches", "past"}}
NOT_HERE = {"alpha_req", "alpha_req_r2", "id_mst"} | EARLIER | TAIL | SUBSPACES  # of fewer than 64 rows, no tree


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
    "one row": lambda: (torch.randn(1, 4), torch.tensor([0])),
    "two rows": lambda: (torch.randn(2, 4), torch.tensor([0, 1])),
    "one class": lambda: (torch.randn(50, 4), torch.zeros(50, dtype=torch.int64)),
    "empty class": lambda: (torch.randn(50, 4), torch.arange(50) % 2),
    "one row a class": lambda: (torch.randn(3, 4), torch.arange(3)),
    "fewer rows than k": lambda: (torch.randn(12, 4), torch.arange(12) % 3),
    "identical rows": lambda: (torch.full((50, 4), 2.5), torch.arange(50) % 3),
    "zero rows": lambda: (torch.zeros(50, 4), torch.arange(50) % 3),
    "d = 1": lambda: (torch.randn(50, 1), torch.arange(50) % 3),
    "float16": lambda: (torch.randn(50, 4).half(), torch.arange(50) % 3),
    "bfloat16": lambda: (torch.randn(50, 4).bfloat16(), torch.arange(50) % 3),
    "float64": lambda: (torch.randn(50, 4).double(), torch.arange(50) % 3),
    "integers": lambda: (torch.randint(-9, 9, (50, 4)), torch.arange(50) % 3),
    "booleans": lambda: (torch.rand(50, 4) > 0.5, torch.arange(50) % 3),
    "huge": lambda: (1e30 * torch.randn(50, 4), torch.arange(50) % 3),
    "tiny": lambda: (1e-38 * torch.randn(50, 4), torch.arange(50) % 3),
    "unlabelled": lambda: (torch.randn(50, 4), torch.full((50,), -100)),
    "a line": lambda: (torch.arange(50.0)[:, None].expand(50, 4), torch.arange(50) % 3),
}


@pytest.mark.parametrize("case", CASES)
def test_never_nan_never_a_crash(case: str) -> None:
    values, _ = everything(*CASES[case]())
    assert "n_samples" in values
    if case in ("float16", "bfloat16", "float64", "integers", "huge"):
        assert values == PLAIN - NOT_HERE


WITH_ONE = {
    "knn_accuracy", "label_disagreement", "coding_rate_reduction", "tolerance", "map_at_k", "class_rank",
    "class_rank_lowest", "neighbor_purity", "energy_score", "prediction_entropy", "margin_density",
    *(f"recall_at_{k}" for k in (1, 5, 10)),
}  # fmt: skip  # that one class gives


def test_what_is_a_gap_and_why() -> None:
    assert everything(*CASES["identical rows"]())[1]["effective_rank"].startswith("the features have no spread")
    values, gaps = everything(*CASES["zero rows"]())
    assert "feature_std" in values  # every ReLU dead: this is what must be seen
    assert gaps["mean_resultant"] == "every row is zero: no row has a direction"
    one_class = set(everything(*CASES["one class"]())[1]) - NOT_HERE
    assert one_class == CLASS_SIGNALS - WITH_ONE - NOT_HERE
    assert set(everything(*CASES["unlabelled"]())[1]) - NOT_HERE == CLASS_SIGNALS - NOT_HERE
    assert "id_mle" in everything(*CASES["fewer rows than k"]())[1]
    assert "1 classes" not in str(everything(*CASES["empty class"]())[1])


def test_labels_out_of_range_make_a_gap_that_names_them() -> None:
    _, gaps = everything(torch.randn(50, 4), torch.arange(50) % 5)
    assert set(gaps) - NOT_HERE == CLASS_SIGNALS - NOT_HERE
    assert "20 labels are not below num_classes=3 (largest: 4)" in gaps["nc1"]


@pytest.mark.slow
def test_nan_and_inf_rows_are_dropped_and_counted() -> None:
    x, y = digits_features()
    dirty = x.clone()
    dirty[5, 3], dirty[77, 0] = torch.nan, -torch.inf
    clean = torch.ones(len(x), dtype=torch.bool)
    clean[[5, 77]] = False
    ours, expected = (GeometryMetric("all", num_classes=10, head=head(10, 96)) for _ in range(2))
    ours.update(dirty, y)
    expected.update(x[clean], y[clean], sample_index=torch.arange(len(x))[clean])
    ours_values = ours.compute()
    codes = resolve("codes")  # −∞ bars an entry from being chosen: the row counts
    for name, value in expected.compute().items():
        assert name in codes or float(ours_values[name]) == pytest.approx(float(value), rel=1e-12)
    assert ours.window().counts["nonfinite"] == 2


def test_empty_batches_count_for_nothing_and_no_rows_is_all_gaps() -> None:
    metric = GeometryMetric(["effective_rank"])
    assert metric.window().gaps == {"effective_rank": "no rows arrived"}
    metric.update(torch.zeros(0, 4))
    assert "every row was left out" in metric.window().gaps["effective_rank"]
    metric.update(torch.randn(9, 4))
    assert metric.window().values["n_samples"] == 9


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
