"""Votes from every row of a reference: scikit-learn's neighbours over all of them, however they come."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from lightning_featgeo import ConfigurationError, GeometryMetric, Neighbors
from lightning_featgeo.metrics.accumulators.voters import VoterAccumulator
from lightning_featgeo.rows.rows import build_rows
from tests._helpers.data import digits_features

NAMES = ["knn_accuracy", "label_disagreement", "recall_at_1", "recall_at_10", "map_at_k"]


def voted(queries: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor, k: int, t: float) -> NDArray[np.int64]:
    """Wu et al.'s weighted vote over all rows, by scikit-learn."""
    distances, places = NearestNeighbors(n_neighbors=k, metric="cosine").fit(rows.numpy()).kneighbors(queries.numpy())
    weights, classes = np.exp((1 - distances) / t), labels.numpy()[places]
    table = np.stack([np.where(classes == c, weights, 0).sum(1) for c in range(10)], axis=1)
    return table.argmax(1)


@pytest.mark.parametrize(("k", "t"), [(30, 0.07), (200, 0.1), (5, 0.02)])
def test_all_rows_vote_as_scikit_learn_says(k: int, t: float) -> None:
    x, y = digits_features()
    x = x.double()
    neighbors = Neighbors(knn_k=k, knn_t=t, bank_size=300)
    asked = GeometryMetric(NAMES, num_classes=10, has_reference=True, neighbors=neighbors)
    asked.update(x[:300], y[:300])
    reference = GeometryMetric("n_samples", num_classes=10, serve=NAMES, neighbors=neighbors)
    reference.votes_on([asked])
    for part in torch.arange(300, 1797).split(97):
        reference.update(x[part], y[part])
    result = asked.window(reference=reference)
    kept = asked.bank.compute()
    expected = voted(kept.rows, x[300:], y[300:], min(k, 149), t) == kept.labels.numpy()
    assert result.values["knn_accuracy"] == pytest.approx(expected.mean(), abs=1e-12)
    assert not result.gaps
    whole = GeometryMetric("n_samples", num_classes=10, serve=NAMES, neighbors=Neighbors(knn_k=k, bank_size=2000))
    whole.update(x[300:], y[300:])
    assert result.values == pytest.approx(asked.window(reference=whole).values, rel=1e-9)


@pytest.mark.slow
def test_however_they_come_and_whoever_has_them() -> None:
    x, y = digits_features()
    x = torch.cat([x, x[:200]])  # copies: ties
    y = torch.cat([y, (y[:200] + 1) % 10])
    queries = torch.nn.functional.normalize(x[:50].double(), dim=1)

    def told(*parts: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        made = VoterAccumulator([queries], 20, 10)
        made._block = block
        for part in parts:
            made.update(build_rows(x[part], y[part], part))
        return made.compute()

    every = torch.arange(len(x))
    distances, labels = told(every, block=10_000)
    named = VoterAccumulator([queries], 20, 10)
    named.update(build_rows(x, y, every * 2**42 + 2**62))  # by a hash of their ids
    assert torch.equal(named.compute()[1], labels)
    shuffled = torch.randperm(len(x))
    for other in (told(*shuffled.split(83), block=150), told(*every.split(7), block=1)):
        assert torch.equal(other[1], labels)
        assert torch.allclose(other[0], distances, rtol=1e-12, atol=1e-15)
    one, two = VoterAccumulator([queries], 20, 10), VoterAccumulator([queries], 20, 10)
    one.update(build_rows(x[:700], y[:700], every[:700]))
    two.update(build_rows(x[700:], y[700:], every[700:]))
    two.search()
    one.merge_state(two)
    assert torch.equal(one.compute()[1], labels)
    assert torch.equal(one.class_counts, torch.bincount(y))


def test_rows_without_class_or_direction_do_not_vote_and_few_leave_places_empty() -> None:
    made = VoterAccumulator([torch.eye(4, dtype=torch.float64)[:2], torch.zeros(0, 4)], 3, 5)
    x = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [0, 1, 0, 0], [9, 9, 9, 9]])
    made.update(build_rows(x, torch.tensor([1, 4, -1, 2, 7]), torch.arange(5)))
    distances, labels = made.compute()
    assert labels.tolist() == [[4, 2, -1], [2, 4, -1]]
    assert distances[0].tolist() == pytest.approx([0.0, 2**0.5, np.inf])
    assert made.class_counts.tolist() == [0, 0, 1, 0, 1]
    assert made.voted_on(torch.eye(4)[:2]) == slice(0, 2)
    assert made.voted_on(torch.eye(4)[2:]) is None


def test_a_window_that_was_not_voted_on_is_a_gap_and_the_next_window_begins_anew() -> None:
    x, y = digits_features()
    asked, late = (GeometryMetric(["knn_accuracy"], num_classes=10, has_reference=True) for _ in range(2))
    asked.update(x[:300], y[:300])
    late.update(x[300:500], y[300:500])
    reference = GeometryMetric("n_samples", num_classes=10, serve=["knn_accuracy"])
    reference.votes_on([asked, GeometryMetric(["knn_accuracy"], num_classes=10)])  # the second has seen no row
    reference.update(x[500:], y[500:])
    assert "have not voted on this window" in str(late.window(reference=reference).gaps["knn_accuracy"])
    with pytest.raises(ValueError, match="a vote is under way"):
        reference.checkpoint()
    with pytest.raises(ValueError, match="a vote is under way"):
        reference.merge_state(late)
    with pytest.raises(ConfigurationError, match="comes before the rows that vote"):
        reference.votes_on([late])
    before = asked.window(reference=reference).values["knn_accuracy"]
    reference.reset()
    reference.update(x[500:], y[500:])
    assert asked.window(reference=reference).values["knn_accuracy"] == pytest.approx(before)  # 1,297 rows fit the bank
    wants_all = GeometryMetric(
        ["knn_accuracy"], num_classes=10, has_reference=True, neighbors=Neighbors(reference_rows="all")
    )
    wants_all.update(x[:300], y[:300])
    assert "have not voted on this window" in str(wants_all.window(reference=reference).gaps["knn_accuracy"])
    empty = GeometryMetric("n_samples", num_classes=10, serve=["knn_accuracy"])
    empty.votes_on([asked])
    empty.update(x[:4], torch.full((4,), -1))
    assert "no labelled rows" in str(asked.window(reference=empty).gaps["knn_accuracy"])
    with pytest.raises(ConfigurationError, match="give num_classes="):
        GeometryMetric("n_samples").votes_on([asked])


@pytest.mark.parametrize("wrong", [{"knn_t": 0.0}, {"knn_t": float("inf")}, {"knn_k": 0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Neighbors(**wrong)
