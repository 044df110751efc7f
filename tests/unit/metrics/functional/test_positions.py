"""Tokens by position against two-way analysis of variance in NumPy and scikit-learn's measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from lightning_featgeo import GeometryMetric
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.metrics.accumulators.positions import BINS, EXACT, bin_of

NAMES = ["position_share", "context_share", "position_context_cosine", "token_similarity", "positional_units"]


def tokens(sequences: int = 60, length: int = 12, d: int = 20, offset: float = 0.0) -> Tensor:
    """(c, t, d) with something of the position, of the sequence, and of neither."""
    g = torch.Generator().manual_seed(0)
    place, context = torch.randn(length, d, generator=g), 0.7 * torch.randn(sequences, 1, d, generator=g)
    return offset + place + context + 0.5 * torch.randn(sequences, length, d, generator=g)


def measured(x: Tensor, batch: int = 7) -> dict[str, float]:
    metric = GeometryMetric(NAMES)
    for part in torch.arange(len(x)).split(batch):
        metric.update(x[part].flatten(0, 1), sample_index=part.repeat_interleave(x.shape[1]))
    window = metric.window()
    assert not window.gaps
    return window.values


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_shares_are_those_of_a_two_way_analysis_of_variance(offset: float) -> None:
    x = tokens(offset=offset)
    ours, rows = measured(x), x.double().numpy()
    mean = rows.mean((0, 1))
    total = ((rows - mean) ** 2).sum()
    place, context = rows.mean(0) - mean, rows.mean(1) - mean
    assert ours["position_share"] == pytest.approx(len(rows) * (place**2).sum() / total, rel=1e-9)
    assert ours["context_share"] == pytest.approx(rows.shape[1] * (context**2).sum() / total, rel=1e-9)
    cosines = np.abs(cosine_similarity(place, context))
    assert ours["position_context_cosine"] == pytest.approx(cosines.mean(), rel=1e-6 if not offset else 1e-3)
    alike = [cosine_similarity(one)[~np.eye(len(one), dtype=bool)].mean() for one in rows]
    assert ours["token_similarity"] == pytest.approx(np.mean(alike), rel=1e-9)


def test_units_that_fire_by_position_are_counted_by_their_mutual_information() -> None:
    x = tokens(200, 8) + 2 * torch.linspace(-1, 1, 20)
    at = np.tile(np.arange(8), 200)
    told = [mutual_info_score(at, unit > 0) for unit in x.flatten(0, 1).T.numpy()]
    assert 0 < np.mean(np.array(told) > 0.05) < 1
    assert measured(x)["positional_units"] == pytest.approx(np.mean(np.array(told) > 0.05))


def test_sequences_of_other_lengths_and_padding() -> None:
    x = tokens(40, 9)
    keep = torch.arange(9) < torch.randint(1, 10, (40, 1), generator=torch.Generator().manual_seed(1))
    metric = GeometryMetric(NAMES)
    index = torch.arange(40)[:, None].expand(40, 9)
    for part in torch.arange(40).split(11):
        chosen = keep[part]
        metric.update(x[part][chosen], sample_index=index[part][chosen])
    ours = metric.compute()
    rows, of, at = x[keep].double().numpy(), index[keep].numpy(), torch.arange(9).expand(40, 9)[keep].numpy()
    spread = ((rows - rows.mean(0)) ** 2).sum()
    for name, groups in (("position_share", at), ("context_share", of)):
        own = [rows[groups == g] for g in set(groups)]
        between = sum(len(part) * ((part.mean(0) - rows.mean(0)) ** 2).sum() for part in own)
        assert float(ours[name]) == pytest.approx(between / spread, rel=1e-9)
    several = [rows[of == c] for c in set(of) if (of == c).sum() > 1]
    alike = [cosine_similarity(one)[~np.eye(len(one), dtype=bool)].mean() for one in several]
    assert float(ours["token_similarity"]) == pytest.approx(np.mean(alike), rel=1e-9)


def test_tokens_of_one_sequence_that_are_all_the_same() -> None:
    g = torch.Generator().manual_seed(2)
    same = torch.randn(30, 1, 16, generator=g).expand(30, 10, 16)
    metric = GeometryMetric(NAMES)
    metric.update(same.flatten(0, 1), sample_index=torch.arange(30).repeat_interleave(10))
    window = metric.window()
    ours = window.values
    assert "fewer than two positions differ" in str(window.gaps["position_context_cosine"])
    assert ours["token_similarity"] == pytest.approx(1)
    assert ours["context_share"] == pytest.approx(1)
    assert ours["position_share"] == pytest.approx(0, abs=1e-12)


def test_rows_that_are_no_tokens_leave_these_signals_out() -> None:
    metric = GeometryMetric([*NAMES, "effective_rank"])
    with pytest.raises(ConfigurationError, match='pool="tokens"'):
        metric.update(torch.randn(50, 8))


def test_every_position_has_a_bin_and_later_ones_share() -> None:
    p = torch.arange(0, 70_000)
    bins = bin_of(p)
    assert torch.equal(bins[:EXACT], p[:EXACT])
    assert bool((bins.diff() >= 0).all())
    assert int(bins.max()) == BINS - 1
    assert torch.equal(bins[:32_768].unique(), torch.arange(BINS))  # none is left out
    widths = torch.bincount(bins[:32_768])
    assert widths[EXACT:].tolist() == [8 * 2 ** (i // 16) for i in range(BINS - EXACT)]
