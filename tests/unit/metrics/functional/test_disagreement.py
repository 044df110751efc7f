"""Wrong labels: neighbours tell them, low density does not."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from lightning_featgeo import GeometryMetric
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.functional.disagreement import disagreements, label_disagreement, suspects
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.sinks import tables
from tests._helpers.data import digits


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_among_digits(seed: int) -> None:
    x, y = digits()
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(y), generator=generator) < 0.2
    given = torch.where(wrong, (y + torch.randint(1, 10, y.shape, generator=generator)) % 10, y)
    metric = GeometryMetric(["label_disagreement", "knn_log_density"], num_classes=10, policy=Policy(details=Details()))
    metric.update(x, given)
    found = metric.window()
    statistics = metric._statistics()
    votes = statistics.vote_similarities, statistics.vote_labels, statistics.row_labels
    shares = disagreements(*votes)
    right_order = wrong[statistics.row_samples]
    assert roc_auc_score(right_order, shares) > 0.98
    assert found.values["label_disagreement"] == pytest.approx(float(shares.mean()))
    lonely = -statistics.log_density
    assert roc_auc_score(wrong[statistics.samples], lonely) < 0.6  # as good as chance
    listed = found.curves["suspect_samples"]
    assert len(listed) == 20
    assert wrong[listed].all()
    assert torch.equal(found.curves["suspect_labels"], given[listed])
    assert float((found.curves["suspect_voted"] == y[listed]).double().mean()) > 0.8
    table = tables.suspect_labels(found.curves, None, {}, True)
    assert table is not None
    assert table.columns[1:] == [
        "position in the data set",
        "label",
        "class of its neighbours",
        "votes for other classes",
    ]
    assert [row[4] for row in table.rows] == sorted((row[4] for row in table.rows), reverse=True)
    assert tables.suspect_labels({}, None, {}, True) is None


def test_nothing_is_suspect_where_a_rows_own_class_wins() -> None:
    similarities = torch.tensor([[0.9, 0.9, 0.1], [0.9, 0.5, 0.1]])
    labels, own = torch.tensor([[0, 0, 1], [1, 1, 0]]), torch.tensor([0, 0])
    found = suspects(similarities, labels, own, torch.tensor([7, 8]))
    assert found["suspect_samples"].tolist() == [8]
    assert found["suspect_voted"].tolist() == [1]
    weights = torch.exp(similarities.double() / 0.07)
    right = torch.stack([weights[0, 2] / weights[0].sum(), weights[1, :2].sum() / weights[1].sum()])
    torch.testing.assert_close(disagreements(similarities, labels, own), right)
    estimate = label_disagreement(similarities, labels, own)
    assert float(estimate.standard_error) == pytest.approx(float(right.std() / 2**0.5))
    assert estimate.n == 2


def test_without_neighbours_there_is_no_share() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(Undefined, match="no labelled row"):
        disagreements(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), none)
    with pytest.raises(Undefined, match="no neighbour"):
        disagreements(torch.full((1, 1), -torch.inf), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1).long())
