"""A GeometryMetric's state: order of batches, views, merging, checkpoints, reset, memory, devices."""

import io

import pytest
import torch
from torch import nn

from lightning_featgeo import GeometryMetric, Neighbors
from tests._helpers.data import digits_features, head
from tests._helpers.typed import unchecked


def test_batch_size_one_equals_one_batch() -> None:
    x, y = digits_features()
    one, all_ = GeometryMetric("classifier", num_classes=10), GeometryMetric("classifier", num_classes=10)
    for row, label in zip(x[:300].split(1), y[:300].split(1), strict=True):
        one.update(row, label)
    all_.update(x[:300], y[:300])
    one_values = one.compute()
    for name, value in all_.compute().items():
        assert float(one_values[name]) == pytest.approx(float(value), rel=1e-10)


@pytest.mark.parametrize("rows", [20, 32, 64, 128, 200])
def test_a_vote_of_few_rows_is_no_vote_of_everybody(rows: int) -> None:
    """With 200 voters among fewer rows a class, short of the row that is left out, lost every vote: 0.0."""
    torch.manual_seed(0)
    labels = torch.arange(rows) % 4
    near = 3 + torch.nn.functional.one_hot(labels, 16) + 0.05 * torch.randn(rows, 16)  # told apart, at small angles
    metric = GeometryMetric(["knn_accuracy"], num_classes=4)
    metric.update(near, labels)
    assert float(metric.compute()["knn_accuracy"]) == 1.0


def test_classes_of_one_row_each_have_no_vote() -> None:
    metric = GeometryMetric(["knn_accuracy"], num_classes=8)
    metric.update(torch.randn(8, 4), torch.arange(8))
    assert "two labelled rows" in metric.window().gaps["knn_accuracy"]


@pytest.mark.slow
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
    views_values = views.compute()
    stacked_values = stacked.compute()
    for name, value in single.compute().items():
        assert float(views_values[name]) == pytest.approx(float(value), rel=1e-12)
        assert float(stacked_values[name]) == pytest.approx(float(value), rel=1e-12)


def test_rows_of_one_sample_are_never_neighbours() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(500, 8), torch.randint(0, 10, (500,))
    twice, labels = x.repeat_interleave(2, 0) + 1e-4 * torch.randn(1000, 8), y.repeat_interleave(2)
    aware, naive = (
        GeometryMetric(["knn_accuracy", "id_two_nn"], num_classes=10, neighbors=Neighbors(knn_k=1)) for _ in range(2)
    )
    aware.update(twice, labels, sample_index=torch.arange(500).repeat_interleave(2))
    naive.update(twice, labels)
    assert float(aware.compute()["knn_accuracy"]) < 0.2
    assert float(naive.compute()["knn_accuracy"]) > 0.9


@pytest.mark.slow
def test_memory_after_10_and_1000_batches_is_what_was_announced() -> None:
    x, y = digits_features()
    metric = GeometryMetric("all", num_classes=10, head=head(10, 96))
    metric.update(x[:8], y[:8])
    announced = metric.memory_bytes
    for batches in (10, 1000):
        with unchecked():
            for _ in range(batches):
                metric.update(x[:8], y[:8])
        assert metric.memory_bytes == announced


@pytest.mark.slow
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
    a_values = a.compute()
    for name, value in whole.compute().items():
        assert float(a_values[name]) == pytest.approx(float(value), rel=1e-10)
    assert a.window().counts == whole.window().counts


def test_merging_refuses_other_settings_and_other_things() -> None:
    a, b = GeometryMetric(["feature_std"]), GeometryMetric(["feature_std"], neighbors=Neighbors(seed=1))
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
    metric_values = metric.compute()
    for name, value in fresh.compute().items():
        assert float(metric_values[name]) == pytest.approx(float(value), rel=1e-12)


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
    cast_values = parent.metric.compute()
    for name, value in expected.compute().items():
        assert float(cast_values[name]) == pytest.approx(float(value), rel=1e-10)
    assert parent.state_dict() == {}


def test_no_random_number_is_drawn() -> None:
    x, y = digits_features()
    before = torch.random.get_rng_state()
    metric = GeometryMetric("all", num_classes=10, head=head(10, 96))
    metric.update(x, y)
    metric.compute()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_a_value_does_not_depend_on_which_other_signals_are_chosen() -> None:
    x, y = (part[:400].clone() for part in digits_features())
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
        metric = GeometryMetric(signals, num_classes=classes, neighbors=Neighbors(bank_size=bank))
        metric.update(torch.randn(20, dim), None if classes is None else torch.arange(20) % classes)
        return metric.closing_bytes

    assert closing(["feature_std"], 30) == 0
    assert closing(["effective_rank"], 300) >= 3 * 8 * 300**2
    assert closing(["id_two_nn"], 30, bank=1000) > closing(["id_two_nn"], 30, bank=100) > 0
    assert closing(["nc1"], 30, classes=5000) > closing(["nc1"], 30, classes=50)
