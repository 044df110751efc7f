"""Which calls of a batch count, and as what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.assembler import USUAL_ROLE, Assembled, Role, RowAssembler
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.labels import LabelReader

X = torch.randn(32, 9, generator=torch.Generator().manual_seed(0))
X2 = X + 0.1 * torch.randn(32, 9, generator=torch.Generator().manual_seed(1))
FAKES = torch.randn(32, 9, generator=torch.Generator().manual_seed(2))
Y = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(3))
F = torch.arange(32.0)[:, None] + torch.tensor([0.0, 0.25])  # a row's first number is its sample
CLASSIFIER, TRAINS = Role(is_classifier=True), Role(trains=True)


def call(x: Tensor, features: Tensor | None = None, **told: Any) -> Call:
    return Call(F[: len(x)] if features is None else features, entered=(x,), **told)


def assembled(*calls: Call, batch: Any = (X, Y), role: Role = USUAL_ROLE, times: int = 1, **kwargs: Any) -> Assembled:
    reader = LabelReader(num_classes=4)
    made = RowAssembler(labels=reader, role=role, **kwargs)
    for _ in range(times):
        found = made.assemble(list(calls), batch, 0)
    found.__dict__["made"] = made
    return found


def rows(found: Assembled) -> dict[str, list[int]]:
    kept = [part.rows.keep for part in found.parts]
    columns = {
        name: [value for part, keep in zip(found.parts, kept, strict=True) for value in getattr(part.rows, name)[keep]]
        for name in ("sample", "view", "label")
    }
    return {name: [int(v) for v in values] for name, values in columns.items()}


def notes(found: Assembled) -> str:
    return str(found.__dict__["made"].notes)


def test_labels_follow_a_sorted_batch() -> None:
    order = Y.argsort(stable=True)
    found = rows(assembled(call(X[order]), times=5))
    assert found["sample"] == order.tolist()
    assert found["label"] == Y[order].tolist()


def test_a_fake_beside_real_samples_is_left_out() -> None:
    found = assembled(call(FAKES), call(X), call(FAKES))
    assert rows(found) == {"sample": [*range(32)], "view": [0] * 32, "label": Y.tolist()}
    assert "are left out" in notes(found)
    stacked = assembled(call(torch.cat([X, FAKES]), torch.cat([F, F])))
    assert rows(stacked)["sample"] == [*range(32)]
    assert "views" not in stacked.present


def test_chunks_are_no_views_and_chunks_run_twice_count_once() -> None:
    first = [call(part, F[i * 8 : i * 8 + 8], with_gradient=False) for i, part in enumerate(X.split(8))]
    again = [call(part, F[i * 8 : i * 8 + 8], with_gradient=True) for i, part in enumerate(X.split(8))]
    found = assembled(*first, *again, role=TRAINS)
    assert rows(found)["sample"] == [*range(32)]
    assert rows(found)["label"] == Y.tolist()
    assert "views" not in found.present


@pytest.mark.parametrize("changed", [False, True])
def test_a_batch_that_is_evaluated_again_counts_once(changed: bool) -> None:
    x = X2 if changed else X
    found = assembled(call(x), call(x, F + 7, state=1), call(x, F + 9, state=2), role=TRAINS)
    assert len(found.parts) == 1
    assert "several times" in notes(found)


def test_two_inputs_of_a_batch_are_views_and_so_is_dropout() -> None:
    two = assembled(call(X), call(X2), batch=[X, X2])
    assert rows(two)["view"] == [0] * 32 + [1] * 32
    assert rows(two)["sample"] == [*range(32)] * 2
    assert "views" in two.present
    dropout = assembled(call(X), call(X, F + 0.5), batch=[X], role=TRAINS)
    assert rows(dropout)["view"] == [0] * 32 + [1] * 32
    same = assembled(call(X), call(X), batch=[X], role=TRAINS)
    assert rows(same)["view"] == [0] * 32  # the same features twice are one view


def test_of_a_classifier_the_first_call_counts() -> None:
    for second in (X2, FAKES):
        found = assembled(call(X), call(second), role=CLASSIFIER)
        assert rows(found)["sample"] == [*range(32)]
        assert "views" not in found.present
    augmented = assembled(call(X), call(X2))
    assert "views" in augmented.present


def test_samples_of_another_loader_have_no_labels_here() -> None:
    batch = {"labelled": [X, Y], "unlabelled": [FAKES]}
    for calls in ((call(X), call(FAKES)), (call(torch.cat([X, FAKES]), torch.cat([F, F])),)):
        found = assembled(*calls, batch=batch)
        assert rows(found) == {"sample": [*range(32)], "view": [0] * 32, "label": Y.tolist()}
        assert "another loader (unlabelled)" in notes(found)
    found = assembled(call(X), call(FAKES), batch=[X, FAKES], role=Role(several_loaders=True))
    assert rows(found)["sample"] == [*range(32)]


def test_negatives_are_no_views() -> None:
    found = assembled(call(X), call(X2), call(FAKES), batch=(X, X2, FAKES, Y))
    assert rows(found)["sample"] == [*range(32)]
    assert "do not resemble each other" in notes(found)
    crops = assembled(call(X), call(X2), call(X2 + 0.05), batch=(X, X2, X2 + 0.05, Y))
    assert max(rows(crops)["view"]) == 2


def test_mixtures_count_without_a_class() -> None:
    mixed = 0.7 * X + 0.3 * X.flip(0)
    found = assembled(call(mixed), times=5)
    assert rows(found)["label"] == [-1] * 32
    assert "mixtures of samples" in notes(found)


def test_the_loss_decides_between_calls() -> None:
    found = assembled(call(X, reached=False), call(X2, F + 3, reached=True), role=TRAINS)
    assert [float(part.rows.features[0, 0]) for part in found.parts] == [3.0]


def test_features_that_are_several_a_sample_are_refused_with_lines() -> None:
    with pytest.raises(ConfigurationError, match="3 a sample") as error:
        assembled(call(X, F.repeat(3, 1)))
    for line in ("views='v b'", "views='b v'", "views=None"):
        assert f"FeatureGeometryMonitor({line})" in str(error.value)
    assert len(rows(assembled(call(X, F.repeat(3, 1)), views="v b"))["sample"]) == 96


def test_rows_taken_between_modules_take_their_labels_along() -> None:
    order = torch.randperm(32, generator=torch.Generator().manual_seed(5))
    found = rows(assembled(call(X, rows=order)))
    assert (found["sample"], found["label"]) == (order.tolist(), Y[order].tolist())
    some = rows(assembled(call(X, F[:10], rows=order[:10])))
    assert some["label"] == Y[order[:10]].tolist()
    unknown = assembled(call(X, is_reordered=True))
    assert rows(unknown)["label"] == [-1] * 32


def test_why_rows_are_believed_is_said_and_so_is_a_change() -> None:
    made = RowAssembler(labels=LabelReader(num_classes=4))
    made.assemble([call(X)], (X, Y), 0)
    assert made.evidence.summary == "known by the batch's own memory"
    assert made.evidence.changed == ""
    made.assemble([call(FAKES)], (X, Y), 0)
    assert made.evidence.changed.startswith("taken in order (not verified")
    assert assembled(call(FAKES)).__dict__["made"].evidence.summary.startswith("taken in order (not verified")


def test_graphs_have_labels_of_their_own() -> None:
    found = assembled(call(X), batch={"x": X, "y": Y[:8]})
    assert rows(found)["label"] == [-1] * 32
    assert found.samples == 32
    assert "of something else" in notes(found)


def test_values_are_compared_in_the_first_batches_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bool] = []
    from lightning_featgeo.rows import evidence

    real = evidence.origin_of
    monkeypatch.setattr(evidence, "origin_of", lambda entered, parts, by: read.append(by) or real(entered, parts, by))
    made = RowAssembler(labels=LabelReader(num_classes=4))
    for _ in range(130):
        made.assemble([call(X.clone())], (X, Y), 0)
    assert [i for i, by in enumerate(read) if by] == [0, 1, 2, 64, 128]
    read.clear()
    made.assemble([call(X[:20].clone())], (X[:20], Y[:20]), 0)  # a batch of another size
    assert read == [True]
    read.clear()
    moved = RowAssembler(labels=LabelReader(num_classes=4))
    for _ in range(8):
        moved.assemble([call(X.flip(0))], (X, Y), 0)
    assert read == [True] * 8  # where it once was not in order: always


@pytest.mark.parametrize("beside", [(), (torch.ones(32),)], ids=["alone", "with a mask"])
@pytest.mark.parametrize("first", [X, X.clone()], ids=["the batch itself", "a copy of it"])
def test_a_step_that_begins_to_mix_or_to_shuffle_is_noticed_at_once(first: Tensor, beside: tuple[Tensor, ...]) -> None:
    order = torch.randperm(32, generator=torch.Generator().manual_seed(9))
    for later, labels in ((0.6 * X + 0.4 * X[order], [-1] * 32), (X[order], Y[order].tolist())):
        made = RowAssembler(labels=LabelReader(num_classes=4))
        for _ in range(7):
            found = made.assemble([Call(F, entered=(first, *beside))], (X, Y), 0)
            assert rows(found)["label"] == Y.tolist()
        for _ in range(3):
            found = made.assemble([Call(F, entered=(later, *beside))], (X, Y), 0)
            assert rows(found)["label"] == labels


def test_a_small_batch_after_mixtures_has_no_labels_unless_it_is_known() -> None:
    """Few rows may not tell a mixture: what can't be told is not labelled, once mixtures were seen."""
    order = torch.randperm(32, generator=torch.Generator().manual_seed(9))
    made = RowAssembler(labels=LabelReader(num_classes=4))
    for _ in range(3):
        found = made.assemble([Call(F, entered=(0.6 * X + 0.4 * X[order],))], (X, Y), 0)
        assert rows(found)["label"] == [-1] * 32
    for n in (6, 3):
        few = X[:n]
        found = made.assemble([Call(F[:n], entered=(0.6 * few + 0.4 * few.roll(1, 0),))], (few, Y[:n]), 96)
        assert rows(found)["label"] == [-1] * n
        found = made.assemble([Call(F[:n], entered=(few,))], (few, Y[:n]), 102)
        assert rows(found)["label"] == Y[:n].tolist()


@pytest.mark.parametrize("n", [4, 6, 7, 32])
def test_a_second_view_of_few_samples_is_one_too(n: int) -> None:
    """A loader's last batch: the samples, and changed copies of them behind."""
    made = RowAssembler(labels=LabelReader(num_classes=4), role=Role(has_views=True))
    few = X[:n]
    copies = few + 0.1 * torch.randn(n, X.shape[1], generator=torch.Generator().manual_seed(n))
    found = made.assemble([Call(torch.randn(2 * n, 5), entered=(torch.cat([few, copies]),))], (few, Y[:n]), 0)
    assert rows(found)["view"] == [0] * n + [1] * n
    assert rows(found)["sample"] == [*range(n), *range(n)]


def test_few_other_samples_are_no_views() -> None:
    for seed in range(1, 41):
        others = torch.randn(6, X.shape[1], generator=torch.Generator().manual_seed(seed))
        made = RowAssembler(labels=LabelReader(num_classes=4), role=Role(has_views=True))
        found = made.assemble([Call(torch.randn(12, 5), entered=(torch.cat([X[:6], others]),))], (X[:6], Y[:6]), 0)
        assert rows(found)["sample"][:6] == [*range(6)]
        assert rows(found)["view"] == [0] * 6


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_batch_too_small_to_tell_has_its_views_where_larger_ones_had(n: int, together: bool) -> None:
    def stacked(x: Tensor, copies: Tensor) -> Tensor:
        return torch.stack([x, copies], dim=1 if together else 0).flatten(0, 1)

    def read(made: RowAssembler, m: int) -> dict[str, list[int]]:
        call = Call(torch.randn(2 * m, 5), entered=(stacked(X[:m], X2[:m]),))
        return rows(made.assemble([call], (X[:m], Y[:m]), 0))

    made = RowAssembler(labels=LabelReader(num_classes=4), role=Role(has_views=True))
    samples = [i for i in range(n) for _ in range(2)] if together else [*range(n), *range(n)]
    assert sorted(read(made, 32)["view"]) == [0] * 32 + [1] * 32
    found = read(made, n)
    assert found["sample"] == samples
    assert found["view"] == ([0, 1] * n if together else [0] * n + [1] * n)
    alone = RowAssembler(labels=LabelReader(num_classes=4), role=Role(has_views=True))
    assert len(read(alone, n)["view"]) == n  # nothing has told it: the samples themselves, and no guess
