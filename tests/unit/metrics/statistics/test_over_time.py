"""A window against an earlier one, sample by sample: drift, compatibility, and where the rows can't be paired."""

import math

import pytest
import torch
from torch import Tensor

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.callbacks.checkpointing import Saved
from lightning_featgeo.errors import GapKind
from lightning_featgeo.metrics.catalog import CATALOG, PRESETS, resolve
from lightning_featgeo.metrics.earlier import NOTHING, Earlier
from lightning_featgeo.metrics.functional.drift import cka_drift, procrustes_drift, unit_match
from lightning_featgeo.metrics.functional.same_samples import Pair
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.watch.plan import WindowPlan
from tests._helpers import oracles
from tests._helpers.data import digits, digits_features, far_from_origin, long_tailed
from tests._helpers.histories import record
from tests._helpers.interrupted import interrupted, uninterrupted
from tests._helpers.processes import on_ranks

OVER_TIME = resolve("over_time")
PREVIOUS = [name for name in OVER_TIME if not name.endswith(("_first", "_best"))]


def moved(x: Tensor, by: float, seed: int = 0) -> Tensor:
    """The same samples a little later: turned a little, stretched, and noisier."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.eye(x.shape[1]) + by * torch.randn(x.shape[1], x.shape[1], generator=generator) / x.shape[1] ** 0.5
    return x @ turn + by * x.std() * torch.randn(x.shape, generator=generator)


def windows(*features: Tensor, labels: Tensor, signals=OVER_TIME, **settings) -> list[GeometryMetric]:
    """Values of each window of one metric; the first one is the best."""
    metric = GeometryMetric(signals, num_classes=int(labels.max()) + 1, **settings)
    found = []
    for x in features:
        metric.reset()
        for part in torch.arange(len(x)).split(300):
            metric.update(x[part], labels[part], part)
        found.append(metric.window())
        if len(found) == 1:
            metric.last_was_best()
    return found


@pytest.mark.parametrize("make", [digits, digits_features, far_from_origin, long_tailed])
@pytest.mark.slow
def test_every_signal_equals_its_oracle(make) -> None:
    first, y = make()
    second, third = moved(first - first.mean(0), 0.2) + first.mean(0), moved(first - first.mean(0), 0.5, seed=1)
    found = windows(first, second, third, labels=y, neighbors=Neighbors(knn_k=50))
    metric = GeometryMetric(["id_mle"])
    metric.update(first, y)
    order = metric.accumulators["bank"].compute().samples
    rows = [x[order].double().numpy() for x in (first, second, third)]
    voters = min(50, len(y) // len(y.unique()))
    for earlier, suffix in ((rows[1], ""), (rows[0], "_first"), (rows[0], "_best")):
        truth = oracles.over_time(rows[2], earlier, y[order].numpy(), voters)
        for name, value in truth.items():
            if name + suffix not in OVER_TIME:
                continue
            votes = 2e-3 if name.startswith("compat") else 1e-9  # of cosines that are right to 1e-7
            assert found[2].values[name + suffix] == pytest.approx(value, rel=1e-6, abs=votes), name
    assert {gap.kind for gap in found[0].gaps.values()} == {GapKind.NO_EARLIER}
    assert set(found[0].gaps) == set(OVER_TIME)
    assert found[1].values["cka_drift"] == found[1].values["cka_drift_first"]


def test_what_leaves_a_drift_at_zero_and_what_does_not() -> None:
    x, y = digits_features()
    alive = x[:, x.std(0) > 1e-3]
    turn = torch.linalg.qr(torch.randn(alive.shape[1], alive.shape[1])).Q
    order = torch.randperm(alive.shape[1])
    same, turned, permuted = windows(alive, alive, labels=y)[1], windows(alive, 3 * alive @ turn, labels=y)[1], None
    permuted = windows(alive, alive[:, order], labels=y)[1]
    for name in ("cka_drift", "procrustes_drift", "rsa_drift"):
        for found in (same, turned, permuted):
            assert found.values[name] == pytest.approx(0, abs=1e-6), name
    assert turned.values["anchor_drift"] == pytest.approx(0, abs=1e-6)
    assert same.values["unit_match"] == pytest.approx(1) == permuted.values["unit_match"]
    assert turned.values["unit_match"] < 0.8  # though the subspaces are the same
    assert same.values["class_drift"] == same.values["compatibility"] == 0
    assert same.values["compatible_pairs"] == 1
    assert permuted.values["compatibility"] < -0.3  # an index can't be asked any more


def test_fewer_rows_than_dimensions_give_the_same() -> None:
    x = torch.randn(60, 200, dtype=torch.float64)
    then = x + 0.3 * torch.randn_like(x)
    wide, narrow = Pair(x, then), Pair(*torch.cat([x, then]).split(60))
    basis = torch.linalg.qr(torch.cat([x, then]).T).Q  # both lie in 120 dimensions
    turned = Pair(x @ basis @ torch.linalg.qr(torch.randn(120, 120).double()).Q, then @ basis)
    for signal in (cka_drift, procrustes_drift):
        assert float(signal(wide)) == pytest.approx(float(signal(narrow)), abs=1e-12)
        assert signal(turned) >= 0
    assert float(cka_drift(wide)) == pytest.approx(1 - oracles.cka(x.numpy(), then.numpy()), abs=1e-10)
    with pytest.raises(ValueError, match="up to 1,024 units"):
        unit_match(Pair(torch.randn(9, 1025), torch.randn(9, 1025)))


def test_where_rows_cannot_be_paired_the_gap_says_so() -> None:
    x, y = torch.randn(200, 5), torch.arange(200) % 3
    metric = GeometryMetric("over_time", num_classes=3)
    metric.update(x, y, torch.arange(200))
    metric.window()
    metric.reset()
    metric.update(x[:100], y[:100], torch.arange(100))
    assert "100 of 100 were in it" in metric.window().gaps["cka_drift"]
    metric.reset()
    metric.update(x, y, torch.arange(200) // 2)  # tokens
    assert "several rows each" in metric.window().gaps["cka_drift"]
    nobody_knows = Policy(keeps_samples=False, tolerated=frozenset({"earlier"}))
    shuffled = GeometryMetric(["cka_drift", "feature_std"], policy=nobody_knows)
    shuffled.update(x)
    assert shuffled.window().gaps["cka_drift"].kind is GapKind.NOT_PAIRED
    flat = windows(x, torch.ones_like(x), labels=y)[1]
    assert "no spread" in flat.gaps["cka_drift"]
    assert all(math.isfinite(value) for value in flat.values.values())


def test_other_samples_in_the_same_places_are_told_by_their_labels() -> None:
    x, y = torch.randn(300, 5), torch.randint(0, 4, (300,))
    metric = GeometryMetric("over_time", num_classes=4)
    for labels in (y, torch.where(torch.rand(300) < 0.03, 0, y), y.roll(7)):  # a few are corrected; others are drawn
        metric.reset()
        metric.update(x, labels, torch.arange(300))
        found = metric.window()
        if labels is not y and "cka_drift" not in found.gaps:
            assert found.values["cka_drift"] == 0
    assert "the loader draws new ones" in found.gaps["cka_drift"]


def test_the_error_of_a_compatibility_is_of_the_same_queries() -> None:
    x, y = digits()
    found = windows(x, x, moved(x, 0.2), labels=y, signals=["compatibility"])
    assert (found[1].values["compatibility"], found[1].standard_errors["compatibility"]) == (0, 0)
    drawn = []
    for seed in range(12):
        some = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:900]
        drawn.append(windows(x[some], moved(x, 0.2)[some], labels=y[some], signals=["compatibility"])[1])
    values = torch.tensor([one.values["compatibility"] for one in drawn])
    errors = torch.tensor([one.standard_errors["compatibility"] for one in drawn])
    assert 0.4 < float(errors.mean() / values.std()) < 2.5


def test_after_a_resume_without_its_rows_the_first_window_is_not_another_one() -> None:
    x = torch.randn(200, 5)
    metric = GeometryMetric(["cka_drift", "cka_drift_first"], earlier=Earlier(is_late=True))
    for shift in (0.0, 0.3):
        metric.reset()
        metric.update(x + shift * x.flip(0), sample_index=torch.arange(200))
        found = metric.window()
        assert found.gaps["cka_drift_first"].kind is GapKind.LOST
    assert found.values["cka_drift"] > 0
    assert Earlier.of(metric.earlier.state()).is_late


def test_only_what_is_read_is_kept_and_counted() -> None:
    x = torch.randn(500, 64)
    sizes = {}
    for signals in (["id_mle"], ["id_mle", "cka_drift"], ["id_mle", "cka_drift", "rsa_drift_first"]):
        metric = GeometryMetric(signals)
        metric.update(x, sample_index=torch.arange(500))
        metric.window()
        sizes[len(signals)] = metric.memory_bytes
        assert set(metric.earlier.rows) == {"previous", "first"} & metric.kept_windows
    bank = metric.bank_size * (64 * 4 + 8)
    assert sizes[2] - sizes[1] == sizes[3] - sizes[2] == bank


def _one_of(size: int) -> list[dict[str, float]]:
    rank = 0
    if size > 1:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
    x, y = digits()
    metric = GeometryMetric([*PRESETS["drift"], "compatible_pairs"], num_classes=10)
    found = []
    for features in (x, moved(x, 0.1), moved(x, 0.3)):
        metric.reset()
        index = torch.arange(len(x))[rank::size]
        metric.update(features[index], y[index], index)
        found.append(dict(metric.window().values))
    return found


def test_processes_agree() -> None:
    alone, both = _one_of(1), on_ranks(2, _one_of, 2)
    assert both[0] == both[1]
    for one, other in zip(alone, both[0], strict=True):
        assert other == pytest.approx(one, rel=1e-9, abs=1e-12)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_earlier_rows(tmp_path) -> None:
    settings = {"signals": ["feature_std", "cka_drift", "cka_drift_first", "neighbor_churn"], "stages": "val"}
    whole = [record.values for record in uninterrupted(settings=settings).history]
    again = [record.values for record in interrupted(tmp_path, False, 6, every=None, settings=settings).history]
    assert whole[-1].keys() >= {"cka_drift", "cka_drift_first"}
    for one, other in zip(whole, again, strict=True):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-9)


def test_a_stage_that_had_no_window_before_the_checkpoint_begins_with_its_first_one() -> None:
    records = [record(0, stage="train")]
    saved = Saved(windows=1, records=records, layers=["net"])
    assert saved.earlier_of(WindowPlan("train", "train"), 0).is_late
    assert not saved.earlier_of(WindowPlan("val", "val"), 0).is_late


def test_nothing_is_kept_for_signals_that_pair_no_windows() -> None:
    metric = GeometryMetric(["id_mle"])
    metric.update(torch.randn(50, 3))
    metric.window()
    assert metric.earlier is NOTHING


def test_the_preset_is_made_of_signals_that_are_there() -> None:
    assert set(PRESETS["drift"]) <= set(CATALOG)
    assert {CATALOG[name].direction for name in PREVIOUS} == {"none", "higher"}
