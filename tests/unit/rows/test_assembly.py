"""Rows know their sample, view and label, whatever way the model calls its encoder."""

import pytest
import torch
from torch import Tensor

from lightning_featgeo import ConfigurationError, GeometryMetric, Tokens
from lightning_featgeo.metrics import CATALOG
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.rows.labels import LabelReader
from tests._helpers.data import digits_features, head

Y = torch.tensor([3, 1, 2, 0])
BATCH = (torch.arange(36.0).reshape(4, 9).sin(), Y)
F = torch.arange(4.0)[:, None].expand(4, 2)


def parts(calls: list[Tensor], batch=BATCH, labels="auto", **kwargs):
    made = RowAssembler(labels=LabelReader(labels), **kwargs).assemble(calls, batch, 100)
    found, size, labelled = made.parts, made.samples, "labels" in made.present
    return [part.rows for part in found], size, labelled


def test_one_call_is_one_view() -> None:
    (rows,), size, labelled = parts([F])
    assert (size, labelled) == (4, True)
    assert rows.sample.tolist() == [100, 101, 102, 103]
    assert rows.view.tolist() == [0] * 4
    assert torch.equal(rows.label, Y)


def test_two_calls_are_two_views_of_the_same_samples() -> None:
    (a, b), _, _ = parts([F, F])
    found = RowAssembler().assemble([F, F], BATCH, 0).parts
    assert [part.may_hold_first_view for part in found] == [True, False]
    assert torch.equal(a.sample, b.sample)
    assert torch.equal(a.label, b.label)
    assert (a.view.tolist(), b.view.tolist()) == ([0] * 4, [1] * 4)


def test_stacked_views_are_told_by_size_or_number() -> None:
    for kwargs in ({}, {"views": 2}):
        (rows,), _, _ = parts([torch.cat([F, F])], **kwargs)
        assert rows.sample.tolist() == [100, 101, 102, 103] * 2
        assert rows.view.tolist() == [0] * 4 + [1] * 4
        assert torch.equal(rows.label, Y.repeat(2))


def test_pieces_of_a_batch_are_not_views() -> None:
    (a, b), size, _ = parts([F[:3], F[3:]])
    assert size == 4
    assert torch.cat([a.sample, b.sample]).tolist() == [100, 101, 102, 103]
    assert torch.equal(torch.cat([a.label, b.label]), Y)
    assert b.view.tolist() == [0]


def test_views_none_means_new_samples_each_call() -> None:
    (_, b), size, _ = parts([F, F], views=None)
    assert size == 8
    assert b.sample.tolist() == [104, 105, 106, 107]
    assert b.label.tolist() == [-1] * 4


def test_views_from_a_callable() -> None:
    (rows,), _, _ = parts([torch.cat([F, F])], views=lambda batch: torch.tensor([1] * 4 + [0] * 4))
    assert (rows.view == 0).tolist() == [False] * 4 + [True] * 4
    with pytest.raises(ConfigurationError, match=r"one integer a row, 4 in all"):
        parts([F], views=lambda batch: torch.tensor([1]))


def test_rows_that_are_no_multiple_of_the_labels_are_unlabelled_and_that_is_stated() -> None:
    assembler = RowAssembler()
    (part,) = assembler.assemble([torch.randn(7, 2)], BATCH, 0).parts
    rows = part.rows
    assert rows.label.tolist() == [-1] * 7
    assert rows.sample.unique().numel() == 7
    assert "7 rows can't be divided by the batch's 4 samples" in str(assembler.notes)


def test_tokens_share_their_sample_and_take_its_label_or_their_own() -> None:
    x = torch.randn(4, 3, 5)
    (rows,), _, _ = parts([x], pool="tokens")
    assert torch.equal(rows.label, Y.repeat_interleave(3))
    assert rows.position.tolist() == [0, 1, 2] * 4
    own = torch.arange(12).reshape(4, 3)
    (rows,), _, _ = parts([x], {"input": x, "labels": own})
    assert torch.equal(rows.label, own.reshape(-1))
    assembler = RowAssembler()
    assert not assembler.assemble([F], {"input": x, "labels": own}, 0).present
    assert "not one class a row" in str(assembler.notes)


def test_masks_reach_the_pooling() -> None:
    x, mask = torch.randn(4, 3, 5), torch.tensor([[1, 0, 0]] * 4)
    (rows,), _, _ = parts([x], {"input": x, "attention_mask": mask, "labels": Y}, pool="tokens")
    assert int(rows.keep.sum()) == 4
    (rows,), _, _ = parts([x], {"input": x, "attention_mask": mask, "labels": Y})
    torch.testing.assert_close(rows.features, x[:, 0])


def test_empty_calls_and_batches_pass() -> None:
    (rows,), size, labelled = parts([torch.zeros(0, 2)], (torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64)))
    assert (len(rows), size, labelled) == (0, 0, True)
    assert parts([], BATCH) == ([], 4, False)


@pytest.mark.parametrize("how", ["calls", "stacked"])
@pytest.mark.slow
def test_single_view_signals_of_two_views_equal_those_of_one(how: str) -> None:
    x, y = digits_features()
    results = []
    for views in (1, 2):
        metric = GeometryMetric("all", num_classes=10, head=head(10, 96))
        assembler, samples = RowAssembler(), 0
        for start in range(0, len(x), 100):
            a, labels = x[start : start + 100], y[start : start + 100]
            other = a + 0.05 * torch.randn_like(a)
            calls = [a] if views == 1 else ([a, other] if how == "calls" else [torch.cat([a, other])])
            made = assembler.assemble(calls, (a, labels), samples)
            for part in made.parts:
                metric.update_rows(part.rows, made.present)
            samples += made.samples
        results.append(metric.window().values)
    of_views = {name for name, row in CATALOG.items() if "views" in row.requires}
    assert results[1].keys() - results[0].keys() == of_views
    assert results[0] == pytest.approx({name: results[1][name] for name in results[0]}, rel=1e-12)


def test_views_can_lie_sample_by_sample() -> None:
    (rows,), _, _ = parts([F.repeat_interleave(2, 0)], views="b v")
    assert rows.sample.tolist() == [100, 100, 101, 101, 102, 102, 103, 103]
    assert rows.view.tolist() == [0, 1] * 4
    assembler = RowAssembler()
    assembler.assemble([torch.cat([F, F])], BATCH, 0)
    assert 'views="b v"' in str(assembler.notes)
    (rows,), _, _ = parts([F], (BATCH[0], Y[:, None]))  # labels of shape (b, 1)
    assert torch.equal(rows.label, Y)


def test_of_each_sequence_only_so_many_tokens_count_and_always_the_same() -> None:
    x, mask = torch.randn(6, 9, 4), torch.ones(6, 9)
    mask[0, 2:] = 0  # two real tokens only
    batch = {"x": x, "attention_mask": mask, "labels": torch.arange(6)}

    def kept(first: int, rows: slice = slice(None), seed: int = 0) -> torch.Tensor:
        assembler = RowAssembler("tokens", tokens=Tokens(per_sequence=3), seed=seed)
        part = {name: value[rows] for name, value in batch.items()}
        return assembler.assemble([x[rows]], part, first).parts[0].rows.keep.reshape(-1, 9)

    whole = kept(0)
    assert whole.sum(dim=1).tolist() == [2, 3, 3, 3, 3, 3]
    assert torch.equal(torch.cat([kept(0, slice(0, 2)), kept(2, slice(2, 6))]), whole)  # in any batches
    assert not torch.equal(kept(0, seed=7), whole)


def test_skipped_tokens_that_are_none_are_told_of() -> None:
    assembler = RowAssembler(tokens=Tokens(skip=1))
    assembler.assemble([torch.randn(4, 5)], (torch.randn(4, 2), torch.arange(4)), 0)
    assert any("Tokens(skip=1)" in note for note in assembler.notes)


def test_crops_of_another_size_show_the_same_samples_whatever_is_said() -> None:
    calls = [torch.cat([F, F]), torch.cat([F] * 4)]
    for views in ("auto", 2, "2 b"):
        for batch in (BATCH, (BATCH[0],)):
            two, four = parts(calls, batch, views=views)[0]
            assert two.sample.tolist() == [100, 101, 102, 103] * 2
            assert four.sample.tolist() == [100, 101, 102, 103] * 4
            assert four.view.tolist() == [view for view in (2, 3, 4, 5) for _ in range(4)]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_batch_that_holds_each_sample_twice(labelled: bool) -> None:
    x, y = torch.randn(4, 9), torch.tensor([3, 1, 2, 0])
    one_after_another = (torch.cat([x, x]), torch.cat([y, y]))[: 1 + labelled]
    by_sample = (x.repeat_interleave(2, 0), y.repeat_interleave(2))[: 1 + labelled]
    for views, batch, call in (
        (2, one_after_another, torch.cat([F, F])),
        ("2 b", one_after_another, torch.cat([F, F])),
        ("b 2", by_sample, F.repeat_interleave(2, 0)),
    ):
        (rows,), size, _ = parts([call], batch, views=views)
        assert size == 4
        assert [s - 100 for s in rows.sample.tolist()] == call[:, 0].tolist()
        assert sorted(rows.view.tolist()) == [0] * 4 + [1] * 4
        if labelled:
            assert torch.equal(rows.label, y[rows.sample - 100])


@pytest.mark.parametrize("labelled", [True, False])
def test_crops_of_a_batch_that_holds_each_sample_twice(labelled: bool) -> None:
    """As DINO's loaders give them: global crops of all samples in one tensor, local ones in another."""
    batch = (torch.randn(8, 9), torch.randn(16, 5), *([torch.cat([Y, Y])] if labelled else []))
    (two, four), size, _ = parts(
        [torch.cat([F, F]), torch.cat([F] * 4)], batch, views=2, labels=2 if labelled else None
    )
    assert size == 4
    assert two.sample.tolist() == [100, 101, 102, 103] * 2
    assert four.sample.tolist() == [100, 101, 102, 103] * 4


def test_a_batch_that_does_not_tell_its_size_leaves_it_to_the_first_call() -> None:
    (two, four), _, _ = parts([torch.cat([F, F]), torch.cat([F] * 4)], (torch.randn(5, 3),), views=2)
    assert two.sample.tolist() == [100, 101, 102, 103] * 2
    assert four.sample.tolist() == [100, 101, 102, 103] * 4


def test_views_that_are_said_and_are_not_there_are_refused() -> None:
    for views, number in (("b v", "'b 2'"), ("v b", "'2 b'")):
        with pytest.raises(ConfigurationError, match=f"say so with views={number}"):
            parts([F], views=views)
    with pytest.raises(ConfigurationError, match="with labels of their own"):
        parts([F], views=2)  # labels 3, 1, 2, 0 are no two halves that are the same


def test_time_first_is_refused_without_labels_too() -> None:
    with pytest.raises(ConfigurationError, match="axis 1 seems to be the batch"):
        parts([torch.zeros(7, 4, 5)], (torch.randn(4, 9),))
    (rows,), _, _ = parts([torch.zeros(8, 4, 5)], (torch.randn(4, 9),))  # two views of four tokens
    assert rows.sample.tolist() == [100, 101, 102, 103] * 2
