"""Whose samples entered a network, told by its memory, its content or its likeness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_featgeo.rows.provenance import Origin, main_inputs, origin_of

X = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48)
ORDER = torch.randperm(48, generator=torch.Generator().manual_seed(1))
OTHERS = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(2))
NOISE = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def found(x: Tensor, *parts: Tensor) -> Origin:
    origin = origin_of([x], parts or (X, Y))
    assert origin is not None
    return origin


def samples(x: Tensor, *parts: Tensor) -> list[int]:
    origin = found(x, *parts)
    return list(range(origin.rows)) if origin.samples is None else origin.samples.tolist()


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        (lambda x: x, range(48)),
        (lambda x: x[12:20], range(12, 20)),
        (lambda x: x[::3], range(0, 48, 3)),
        (lambda x: x.split(16)[2], range(32, 48)),
        (lambda x: x.flatten(1), range(48)),
        (lambda x: x[:, 1], range(48)),
        (lambda x: x[7:8], [7]),
    ],
)
def test_slices_of_the_batch_are_told_by_their_memory(take: Callable[[Tensor], Tensor], expected: Any) -> None:
    origin = found(take(X))
    assert origin.how == "the batch's own memory"
    assert samples(take(X)) == list(expected)
    assert samples(take(X), Y, X) == list(expected)  # whichever part it is


def test_a_row_that_spans_several_samples_is_none_of_them() -> None:
    steps = torch.randn(16, 5, 7)
    assert origin_of([steps.transpose(0, 1)], [steps], by_content=False) is None


@pytest.mark.parametrize("order", [ORDER, ORDER[:11], ORDER.repeat_interleave(2), ORDER[:4].repeat(3), ORDER.flip(0)])
def test_copies_are_told_by_their_content(order: Tensor) -> None:
    for x in (X, X.to(memory_format=torch.channels_last), (X * 99).long(), X.flatten(1)):
        origin = found(x[order], x, Y)
        assert origin.how == "equal content"
        assert samples(x[order], x, Y) == order.tolist()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_changes_nothing(kind: torch.dtype) -> None:
    assert found(X.to(kind)).is_identity
    assert samples(X[ORDER].to(kind)) == ORDER.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (x - 0.4) / 0.3,
        lambda x: (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2, 3])[:, None, None],
    ],
)
def test_a_normalised_copy_is_told_by_correlation(change: Callable[[Tensor], Tensor]) -> None:
    assert found(change(X)).how == "equal up to a scale and a shift"
    assert samples(change(X)) == list(range(48))
    assert samples(change(X)[ORDER]) == ORDER.tolist()
    pixels = (X * 40 + 128).clamp(0, 255).byte()
    assert samples(pixels[ORDER].float() / 255, pixels) == ORDER.tolist()


def test_columns_of_a_table_have_scales_of_their_own() -> None:
    table = X.flatten(1)[:, :12]
    assert found((table - table.mean(0)) / table.std(0), table).is_identity


@pytest.mark.parametrize("strength", [0.05, 0.5])
def test_augmented_copies_resemble_their_samples(strength: float) -> None:
    origin = found(X + strength * NOISE)
    assert (origin.is_identity, origin.changed, origin.is_mixed) == (True, True, False)
    assert samples((X + strength * NOISE)[ORDER]) == ORDER.tolist()
    both = found(torch.cat([X, X + strength * NOISE]))
    assert both.samples is not None
    assert both.samples.tolist() == [*range(48)] * 2
    assert isinstance(both.piece, Tensor)
    assert both.piece.tolist() == [0] * 48 + [1] * 48
    some = X.clone()
    some[::3] += strength * NOISE[::3]
    assert found(some).is_identity


def test_what_is_no_sample_of_the_batch_is_unknown() -> None:
    assert origin_of([OTHERS], [X, Y]) is None
    assert origin_of([torch.randn(48, 5)], [X, Y]) is None
    assert origin_of([], [X]) is None
    assert origin_of([X], []) is None
    mixed = found(torch.cat([X, OTHERS]))
    assert mixed.samples is not None
    assert mixed.samples.tolist() == [*range(48), *[-1] * 48]
    replaced = X.clone()
    replaced[:10] = OTHERS[:10]
    assert samples(replaced) == [*[-1] * 10, *range(10, 48)]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_mixtures_of_two_samples_have_no_class(share: float) -> None:
    assert found(share * X + (1 - share) * X[ORDER]).is_mixed
    pasted = X.clone()
    pasted[:, :, :4, :6] = X[ORDER][:, :, :4, :6]
    assert found(pasted).is_mixed


def test_rows_of_few_values_are_never_told_apart_by_chance() -> None:
    marks = torch.randint(0, 2, (64, 3), generator=torch.Generator().manual_seed(0))
    assert origin_of([marks[torch.randperm(64)]], [marks]) is None
    assert found(marks.clone(), marks).is_identity  # all equal, in order


def test_pieces_of_a_sample_are_told_apart() -> None:
    views = torch.randn(16, 2, 9)
    flat = found(views.flatten(0, 1), views)
    assert flat.samples is not None
    assert flat.samples.tolist() == [i // 2 for i in range(32)]
    assert isinstance(flat.piece, Tensor)
    assert flat.piece.tolist() == [0, 1] * 16
    turned = found(views.transpose(0, 1).flatten(0, 1), views)
    assert turned.samples is not None
    assert turned.samples.tolist() == [*range(16)] * 2
    assert isinstance(turned.piece, Tensor)
    assert turned.piece.tolist() == [0] * 16 + [1] * 16
    assert found(views[:, 0], views).piece != found(views[:, 1], views).piece


def test_the_input_counts_and_not_what_stands_beside_it() -> None:
    step = torch.rand(48)
    assert main_inputs([step, X]) == [X]
    assert origin_of([OTHERS, Y], [X, Y]) is None  # a fake of the batch's classes
    assert origin_of([Y.clone(), OTHERS], [X, Y]) is None


def test_rows_taken_on_the_way() -> None:
    taken = found(X[::2]).taken(torch.tensor([3, 1]))
    assert taken.samples is not None
    assert (taken.samples.tolist(), taken.rows) == ([6, 2], 2)
