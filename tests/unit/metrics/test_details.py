"""Tables of a window against NumPy and scikit-learn: classes, lonely rows, matrices."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from lightning_featgeo import GeometryMetric, Neighbors
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.metrics.details import Details, of_classes
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.sinks import tables
from lightning_featgeo.watch.sample_ids import SPARE, SampleIds

COUNTS = (90, 60, 40, 20, 0, 10)  # a head and a tail, and a class without rows


@pytest.fixture(scope="module")
def window():
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(COUNTS)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(6, 8, generator=generator, dtype=torch.float64) * 2
    rows = centres[labels] + torch.randn(len(labels), 8, generator=generator, dtype=torch.float64)
    metric = GeometryMetric("classifier", num_classes=6, policy=Policy(strict=True, details=Details(matrix=3, rows=30)))
    metric.update(rows, labels)
    return rows.numpy(), labels.numpy(), metric.window().curves


def test_classes(window) -> None:
    rows, labels, curves = window
    there = [0, 1, 2, 3, 5]
    means = np.stack([rows[labels == c].mean(0) for c in there])
    centred = means - means.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    assert curves["class_counts"].tolist() == list(COUNTS)
    assert curves["class_parts"].tolist() == [2, 1, 1, 1, -1, 0]
    for place, c in enumerate(there):
        own = rows[labels == c]
        assert float(curves["class_spread"][c]) == pytest.approx(np.sqrt(((own - own.mean(0)) ** 2).sum(1).mean()))
        assert int(curves["class_nearest"][c]) == there[cosines[place].argmax()]
        assert float(curves["class_angle"][c]) == pytest.approx(np.degrees(np.arccos(cosines[place].max())))
    for name in ("class_spread", "class_angle", "class_accuracy"):
        assert torch.isnan(curves[name][4])
    assert int(curves["class_nearest"][4]) == -1
    chosen = sorted(sorted(range(5), key=lambda i: -cosines[i].max())[:3])
    assert curves["matrix_classes"].tolist() == [there[i] for i in chosen]
    np.fill_diagonal(cosines, 1)
    assert curves["class_cosines"].numpy() == pytest.approx(cosines[np.ix_(chosen, chosen)])


def test_accuracy_of_each_class(window) -> None:
    """Leave-one-out, as many neighbours as a class has on average, weight exp(cos/0.07): counted by hand."""
    rows, labels, curves = window
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    near = np.argsort(-similarity, axis=1)[:, : min(200, len(rows) // len(np.unique(labels)))]
    votes = np.zeros((len(rows), 6))
    for i in range(len(rows)):
        np.add.at(votes[i], labels[near[i]], np.exp(similarity[i, near[i]] / 0.07))
    right = votes.argmax(1) == labels
    for c in (0, 1, 2, 3, 5):
        assert float(curves["class_accuracy"][c]) == pytest.approx(right[labels == c].mean())


def test_lonely_rows(window) -> None:
    rows, labels, curves = window
    distances, _ = NearestNeighbors(n_neighbors=21).fit(rows).kneighbors(rows)
    radius = distances[:, -1]
    expected = np.argsort(-radius)[:20]
    assert curves["low_samples"].tolist() == expected.tolist()
    assert curves["low_labels"].tolist() == labels[expected].tolist()
    within = distances[expected, 1:]
    inverse = np.log(within[:, -1:] / within).sum(1) / 19
    assert curves["low_dimension"].numpy() == pytest.approx(1 / inverse, rel=1e-5)
    ball = np.pi**4 / 24  # of the unit ball in 8 dimensions
    density = np.log(19 / (len(rows) - 1) / (ball * radius[expected] ** 8))
    assert curves["low_log_density"].numpy() == pytest.approx(density, rel=1e-5)


def test_tables_are_sorted_and_named(window) -> None:
    _, _, curves = window
    names = ["a|b", "<b>", "![c](http://tracker/c.png)", "[d](javascript:alert(1))", "e", "f"]
    table = tables.class_table(curves, names)
    assert {row[0] for row in table.rows} == {*names} - {"e"}
    assert [row[7] for row in table.rows] == sorted(row[7] for row in table.rows)
    text = table.markdown()
    assert "a\\|b" in text
    assert "&lt;b>" in text
    assert "!\\[c\\](http" in text
    assert "](" not in text.replace("\\](", "")
    lonely = tables.lowest_rows(curves, names, {int(s): f"id{s}" for s in curves["low_samples"]}, True)
    assert lonely.columns[1] == "sample id"
    assert all(row[1].startswith("id") for row in lonely.rows)
    assert tables.lowest_rows(curves, None, {}, True).columns[1] == "position in the data set"
    assert tables.lowest_rows(curves, None, {}, False).columns[1] == "order of arrival"
    assert tables.lowest_rows({}, None, {}, True) is None
    assert tables.class_table({}, None) is None


def test_one_class_and_means_that_coincide_leave_gaps() -> None:
    one = of_classes(torch.ones(2, 3).double(), torch.tensor([5, 0]), torch.ones(2).double(), None, 20)
    assert one["class_nearest"].tolist() == [-1, -1]
    assert len(one["matrix_classes"]) == 1
    same = of_classes(torch.ones(3, 3).double(), torch.tensor([5, 5, 5]), torch.ones(3).double(), None, 20)
    assert torch.isnan(same["class_angle"]).all()
    assert tables.cosines(one, None, "") is None


def test_drift_of_each_class() -> None:
    x, y = torch.randn(300, 8), torch.arange(300) % 3
    metric = GeometryMetric(["nc1", "class_drift"], num_classes=4, policy=Policy(details=Details()))
    for shift in (0.0, 2.0):
        metric.reset()
        metric.update(x + shift * (y == 1)[:, None], y, torch.arange(300))
        found = metric.window()
    moved = found.curves["class_drift"]
    assert moved[0] == moved[2] == 0
    assert float(moved[1]) == pytest.approx(2 * 8**0.5 / 8**0.5, rel=0.1)  # over √8, the spread of eight dimensions
    assert bool(moved[3].isnan())
    assert found.values["class_drift"] == pytest.approx(float(moved[:3].mean()), rel=1e-9)
    table = tables.class_table(found.curves, None)
    assert table is not None
    assert min(table.rows, key=lambda row: row[1])[table.columns.index("drift")] == 0


def test_ids_are_kept_in_bounded_memory() -> None:
    metric = GeometryMetric(["id_two_nn"], neighbors=Neighbors(bank_size=10))
    ids = SampleIds("name")
    for batch in range(30):
        metric.update(torch.randn(8, 4))
        ids.add({"name": [f"s{8 * batch + i}" for i in range(8)]}, 8 * batch, 8, Ranks.alone(), [metric])
        assert len(ids._known) <= SPARE * 10 + 8
    kept = dict(metric.accumulators)["bank"].samples
    assert ids.of(kept, Ranks.alone()) == {int(s): f"s{int(s)}" for s in kept}
    ids.clear()
    assert ids.of(kept, Ranks.alone()) == {}


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"id": ["a"]}, "no such key"),
        ({"name": ["a", "b"]}, "each of the batch's 8 samples needs one id"),
        ({"name": "abcdefgh"}, "each of the batch's 8 samples needs one id"),
    ],
)
def test_ids_that_do_not_fit_cost_only_themselves(batch: dict, said: str) -> None:
    ids = SampleIds("name")
    with pytest.warns(FeatureGeometryWarning, match=said):
        ids.add(batch, 0, 8, Ranks.alone(), [])
    ids.add(batch, 8, 8, Ranks.alone(), [])  # said once a window
    assert ids.of(torch.arange(16), Ranks.alone()) == {}


@pytest.mark.parametrize("given", [np.array(["a", "b"]), ("a", "b"), torch.tensor([7, 8]), ["a", None]])
def test_ids_come_as_arrays_tuples_tensors_or_not_at_all(given) -> None:
    metric = GeometryMetric(["id_two_nn"], neighbors=Neighbors(bank_size=10))
    metric.update(torch.randn(2, 4))
    ids = SampleIds(0)
    ids.add([given], 0, 2, Ranks.alone(), [metric])
    found = ids.of(torch.arange(2), Ranks.alone())
    assert found in ({0: "a", 1: "b"}, {0: "7", 1: "8"}, {0: "a"})
    assert len(found) == sum(name is not None for name in given)
