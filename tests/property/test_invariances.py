"""Invariances of every signal that has them, and monotony where a definition promises it."""

from collections.abc import Iterator
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.metrics.catalog import CATALOG, resolve
from tests._helpers.data import PLAIN
from tests._helpers.typed import unchecked

pytestmark = pytest.mark.no_cover  # many examples of what other tests cover
SEEDS = st.integers(0, 10_000)
EXAMPLES = settings(max_examples=8, deadline=None)

# by what leaves them as they are: r rotation, t translation, s scale, a any invertible linear map
INVARIANT_TO = {
    "rts": (
        "effective_rank participation_ratio participation_ratio_corrected stable_rank top_eigenvalue_share "
        "condition_number spectral_spread pcs_90 pcs_99 id_two_nn id_two_nn_mle id_mle id_gride_1 id_gride_2 "
        "id_gride_4 id_gride_8 hubness nc1 nc1_ratio nc2_equinorm nc2_equiangle gnc2 cdnv tail_min_angle nrc1 "
        "fidelity_precision fidelity_recall fidelity_density fidelity_coverage fidelity_sym_precision "
        "fidelity_sym_recall robustness_index nearest_mean_accuracy linear_probe_accuracy linear_probe_r2 "
        "own_class_cosine class_variance_share class_rank class_rank_lowest neighbor_purity local_dimension_q50 "
        "local_dimension_q95 id_mst dse dsmi distance_correlation group_variance_share authenticity gaussian_auroc "
        "gaussian_low_variance_share label_sharpness kde_bandwidth dse_collision cluster_count cluster_noise "
        "gaussian_auroc_shrunk"
    ),
    "rs": (
        "rankme mean_resultant coding_rate coding_rate_reduction uniformity tolerance vmf_kappa vmf_log_density "
        "effective_kde_points knn_accuracy label_disagreement class_subspace_affinity nc2_equinorm_orthogonal "
        "nc2_equiangle_orthogonal "
        "alignment knn_ood_score knn_ood_auroc recall_at_1 recall_at_5 recall_at_10 map_at_k verification_auroc "
        "pair_recall_at_1 pair_recall_at_5 pair_recall_at_10 pair_auroc feature_norm_cv modality_gap macro_std nc5 "
        "opis pair_overlap group_recall_at_1 group_recall_at_5 group_recall_at_10 group_map_at_10"
    ),
    "rt": (
        "knn_log_density knn_entropy frechet_distance lidar class_volume_tail_gap gaussian_log_density "
        "mixture_log_density dse_bandwidth"
    ),
    "t": "alpha_req",
    "at": "mahalanobis mahalanobis_auroc chi2_fraction",
}
CLASSES = 9


@pytest.fixture(autouse=True, scope="module")
def _shapes_are_the_same_in_every_example() -> Iterator[None]:
    with unchecked():
        yield


OVER_TIME = {name for name, row in CATALOG.items() if row.requires & {"earlier", "sketches", "past"}}
WITH_THE_HEAD = {name for name, row in CATALOG.items() if "head" in row.requires}
OF_TOKENS = {name for name, row in CATALOG.items() if "places" in row.requires}
OF_MIXTURES = {name for name, row in CATALOG.items() if "mixtures" in row.requires}
BETWEEN_LAYERS = {name for name, row in CATALOG.items() if row.requires & {"layers", "anchor"}}  # of two metrics
EVERYTHING = ("all", "alignment", "lidar")


def data_for(seed: int, n: int = 260, d: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features, a second view, labels with a tail, targets and groups."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.tensor([80, 60, 40, 25, 18, 13, 10, 8, 6])
    y = torch.repeat_interleave(torch.arange(CLASSES), counts)[torch.randperm(n, generator=g)]
    means = torch.randn(CLASSES, d, generator=g, dtype=torch.float64)
    x = 2 * means[y] + torch.randn(n, d, generator=g, dtype=torch.float64) * torch.arange(1, d + 1)
    other = x + 0.3 * torch.randn(n, d, generator=g, dtype=torch.float64)
    return x, other, y, torch.rand(n, 2, generator=g), torch.randint(0, 3, (n,), generator=g)


def values_of(x: Tensor, other: Tensor, y: Tensor, t: Tensor, group: Tensor, order: Tensor, batch: int = 50):
    """Every signal there is on these rows: labels, views, groups and a reference in one metric, targets in another."""
    settings_ = {"num_classes": CLASSES, "neighbors": Neighbors(knn_k=30), "has_reference": True}
    reference, metric = GeometryMetric("all", **settings_), GeometryMetric("all", **settings_)
    targets, others = (GeometryMetric(["regression", "linear_probe_r2"]) for _ in range(2))
    for part in order.split(batch):
        reference.update(x[part] * 1.1 + 0.2 * other[part], y[part], part, 0, groups=group[part])
        metric.update(x[part], y[part], part, 0, groups=group[part])
        metric.update(other[part], y[part], part, 1, groups=group[part])
        targets.update(x[part], t[part], part)
        others.update(other[part], t[part], part)
    return {**metric.window(reference=reference).values, **targets.window(reference=others).values}


@EXAMPLES
@given(seed=SEEDS, batch=st.integers(9, 90))
def test_order_and_batches_of_rows_change_nothing(seed: int, batch: int) -> None:
    data = data_for(seed)
    order = torch.randperm(260, generator=torch.Generator().manual_seed(seed + 1))
    straight = values_of(*data, order=torch.arange(260))
    shuffled = values_of(*data, order=order, batch=batch)
    # what those data can't have: an earlier window, a head, a power law in eight eigenvalues
    none = {*OVER_TIME, *WITH_THE_HEAD, *BETWEEN_LAYERS, *OF_TOKENS, *OF_MIXTURES, "alpha_req", "alpha_req_r2"}
    assert straight.keys() == CATALOG.keys() - none
    assert shuffled == pytest.approx(straight, rel=1e-7, abs=1e-10)


@EXAMPLES
@given(seed=SEEDS)
@pytest.mark.parametrize("kind", INVARIANT_TO)
def test_what_leaves_a_signal_as_it_is(kind: str, seed: int) -> None:
    names = INVARIANT_TO[kind].split()
    assert set(names) <= set(CATALOG)
    x, other, y, t, group = data_for(seed, d=8)
    if kind == "t":  # a power law needs more eigenvalues
        g = torch.Generator().manual_seed(seed)
        x, other = (torch.randn(260, 30, generator=g, dtype=torch.float64) * torch.arange(1, 31) for _ in range(2))
    d = x.shape[1]
    g = torch.Generator().manual_seed(seed + 1)
    change = torch.randn(d, d, generator=g, dtype=torch.float64)
    change = change if "a" in kind else torch.linalg.qr(change).Q if "r" in kind else torch.eye(d).double()
    scale = 3.7 if "s" in kind else 1.0
    offset = 11.0 if "t" in kind else 0.0
    before = values_of(x, other, y, t, group, torch.arange(260))
    if kind in ("rts", "rt", "t", "at"):  # the reference is made of both, so that it moves along
        after = moved(x, other, y, t, group, scale * change, offset)
    else:
        after = values_of(scale * x @ change, scale * other @ change, y, t, group, torch.arange(260))
    assert {n: after[n] for n in names} == pytest.approx({n: before[n] for n in names}, rel=1e-6, abs=1e-9)


def moved(x: Tensor, other: Tensor, y: Tensor, t: Tensor, group: Tensor, change: Tensor, offset: float):
    """``values_of`` with features, views and reference all mapped by x·change + offset."""
    settings_ = {"num_classes": CLASSES, "neighbors": Neighbors(knn_k=30), "has_reference": True}
    reference, metric = GeometryMetric("all", **settings_), GeometryMetric("all", **settings_)
    targets, others = (GeometryMetric(["regression", "linear_probe_r2"]) for _ in range(2))
    index = torch.arange(len(x))
    reference.update((x * 1.1 + 0.2 * other) @ change + offset, y, index, 0, groups=group)
    metric.update(x @ change + offset, y, index, 0, groups=group)
    metric.update(other @ change + offset, y, index, 1, groups=group)
    targets.update(x @ change + offset, t, index)
    others.update(other @ change + offset, t, index)
    return {**metric.window(reference=reference).values, **targets.window(reference=others).values}


@EXAMPLES
@given(seed=SEEDS)
def test_densities_move_with_the_scale_as_they_must(seed: int) -> None:
    x = data_for(seed)[0]
    small, large = (GeometryMetric(["knn_log_density", "knn_entropy"]) for _ in range(2))
    small.update(x)
    large.update(10 * x)
    shift = 8 * torch.tensor(10.0).double().log()
    a, b = small.window().values, large.window().values
    assert b["knn_log_density"] == pytest.approx(a["knn_log_density"] - float(shift), rel=1e-9)
    assert b["knn_entropy"] == pytest.approx(a["knn_entropy"] + float(shift), rel=1e-9)


def curve(signal: str, steps, reference=None) -> list[float]:
    """One signal over windows, each (features, labels)."""
    found = []
    for x, y in steps:
        metric = GeometryMetric([signal], num_classes=CLASSES)
        for view, rows in enumerate(x if isinstance(x, tuple) else (x,)):
            metric.update(rows, y, torch.arange(len(rows)), view)
        found.append(metric.window(reference=reference).values[signal])
    return found


def rising(values: list[float]) -> bool:
    return all(b > a for a, b in pairwise(values))


@EXAMPLES
@given(seed=SEEDS)
def test_monotone_where_the_definition_promises_it(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(270) % CLASSES
    means, noise = (torch.randn(s, 12, generator=g, dtype=torch.float64) for s in (CLASSES, 270))
    noise = noise - (torch.zeros(CLASSES, 12).double().index_add_(0, y, noise) / 30)[y]  # class means stay put
    for signal in ("nc1", "nc1_ratio", "cdnv"):  # more spread within classes
        assert rising(curve(signal, [(means[y] + w * noise, y) for w in (0.1, 0.3, 1.0)])), signal
    white = torch.linalg.qr(noise - noise.mean(0)).Q
    stretched = [(white * torch.tensor([w] + [1.0] * 11), y) for w in (1.0, 2.0, 5.0)]
    for signal in ("top_eigenvalue_share", "spectral_spread", "condition_number"):  # one direction takes more
        assert rising(curve(signal, stretched)), signal
    for signal in ("effective_rank", "participation_ratio", "stable_rank"):
        assert rising(curve(signal, stretched)[::-1]), signal
    gathered = [(noise + w * torch.ones(12), y) for w in (0.0, 1.0, 3.0, 10.0)]
    for signal in ("mean_resultant", "uniformity", "vmf_kappa"):  # towards one point of the sphere
        assert rising(curve(signal, gathered)), signal
    assert rising(curve("feature_std", gathered)[::-1])
    other = torch.randn(270, 12, generator=g, dtype=torch.float64)
    assert rising(curve("alignment", [((noise, noise + w * other), y) for w in (0.01, 0.1, 0.5)]))
    reference = GeometryMetric(["frechet_distance", "mahalanobis"], num_classes=CLASSES)
    reference.update(noise, y)
    assert rising(curve("frechet_distance", [(noise + w, y) for w in (0.0, 0.5, 2.0)], reference))
    assert rising(curve("gaussian_log_density", [(noise * w, y) for w in (1.0, 2.0, 4.0)], reference)[::-1])


def test_every_signal_of_one_window_is_covered_here_or_says_why_not() -> None:
    covered = {name for names in INVARIANT_TO.values() for name in names.split()}
    per_coordinate = {  # the axes mean something
        "best_unit_auroc", "feature_std", "dead_fraction", "firing_rate", "outlier_dims", "outlier_max",
        "unit_kurtosis", "unit_redundancy", "code_perplexity", "unused_codes", "largest_code_share", "routing_entropy",
        "conditional_shift", "unit_shift",
    }  # fmt: skip
    like_their_mean = {name for name in PLAIN if name.startswith("knn_log_density_q")} | {"alpha_req_r2"}
    counted = {"n_samples", "numerical_rank", "feature_norm"}  # a length follows the scale
    others = (
        {"kernel_mmd", "id_ratio"} | OVER_TIME | BETWEEN_LAYERS | OF_TOKENS | OF_MIXTURES
    )  # a fixed kernel; two dimensions over each other; two windows
    assert covered | per_coordinate | WITH_THE_HEAD | like_their_mean | counted | others == set(resolve("all"))
