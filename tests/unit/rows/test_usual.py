"""The usual batch is read like the one before it, with the same rows as if it were read in full; any other is not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.rows.assembled import Assembled
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.rows.waiting import PlainRows, Waiting, joined

N = 12


def assembler(**settings: Any) -> RowAssembler:
    return RowAssembler(labels=LabelReader(num_classes=4, **settings))


def batch_of(kind: str, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(N, 6, generator=generator), torch.randint(0, 4, (N,), generator=generator)
    y[0] = -100
    return {"tuple": (x, y), "list": [x, y], "dict": {"x": x, "label": y}}[kind]


def entered(batch: Any) -> Tensor:
    return batch["x"] if isinstance(batch, dict) else batch[0]


def read(
    made: RowAssembler, batch: Any, features: Tensor, first: int, x: Tensor | None = None, **more: Any
) -> Assembled:
    call = Call(features, entered=(entered(batch) if x is None else x,))
    return made.assemble([replace(call, **more)], batch, first)


def same(one: Rows, other: Rows) -> bool:
    names = Rows.__dataclass_fields__
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
@pytest.mark.parametrize("shape", [(N, 5), (N, 3, 4, 4)], ids=["vectors", "maps"])
def test_the_same_rows_as_when_it_is_read_in_full(kind: str, shape: tuple[int, ...]) -> None:
    made, plain = assembler(), 0
    for number in range(5):
        batch, features = batch_of(kind, number), torch.randn(*shape)
        found = read(made, batch, features, number * N)
        anew = read(assembler(), batch, features, number * N)  # its first batch: in full
        assert isinstance(anew.parts[0].given, Rows)
        plain += isinstance(found.parts[0].given, PlainRows)
        assert same(found.parts[0].rows, anew.parts[0].rows)
        assert (found.samples, found.present) == (anew.samples, anew.present) == (N, {"labels"})
    assert plain == 4  # all but the first


def test_samples_are_numbered_over_ranks() -> None:
    ranks = Ranks.alone()
    ranks.size, ranks.rank = 3, 2
    made = assembler()
    for number in range(3):
        batch = batch_of("tuple", number)
        found = made.assemble([Call(torch.randn(N, 5), entered=(batch[0],))], batch, number * N, ranks)
    assert isinstance(found.parts[0].given, PlainRows)
    assert found.parts[0].rows.sample.tolist() == [3 * (2 * N + i) + 2 for i in range(N)]


def test_an_ignored_class_has_no_label() -> None:
    made = assembler(ignore_index=2)
    for number in range(2):
        batch = batch_of("tuple", number)
        found = read(made, batch, torch.randn(N, 5), 0)
    wanted = [-1 if y in (2, -100) else y for y in batch[1].tolist()]
    assert isinstance(found.parts[0].given, PlainRows)
    assert found.parts[0].rows.label.tolist() == wanted


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("another tensor entered", {"x": torch.randn(N, 6)}),
        ("rows were taken", {"rows": torch.arange(N).flip(0)}),
        ("rows were reordered", {"is_reordered": True}),
        ("a shorter sequence", {"real": torch.ones(N, 3, dtype=torch.bool)}),
    ],
)
def test_another_batch_is_read_in_full(what: str, more: dict[str, Any]) -> None:
    made = assembler()
    read(made, batch_of("tuple", 0), torch.randn(N, 5), 0)
    found = read(made, batch_of("tuple", 1), torch.randn(N, 5), N, **more)
    assert not found.parts or isinstance(found.parts[0].given, Rows), what


def test_batches_of_other_forms_are_read_in_full() -> None:
    x, y = batch_of("tuple", 1)
    for other in ((x, y, torch.ones(N)), (x, y.float()), (x[:, :3], y), {"x": x, "label": y}, [x, y], (x, y.tolist())):
        made = assembler()
        read(made, batch_of("tuple", 0), torch.randn(N, 5), 0)
        found = read(made, other, torch.randn(N, 5), N)
        assert isinstance(found.parts[0].given, Rows)


def test_repeats_at_the_end_of_a_loader_are_left_out() -> None:
    made = assembler()
    for number in range(3):
        batch = batch_of("tuple", number)
        call = Call(torch.randn(N, 5), entered=(batch[0],))
        found = made.assemble([call], batch, number * N, None, [int, int, (3).__rsub__][number])
    assert found.parts[0].rows.keep.sum() == N - 3


def test_two_calls_are_no_usual_batch() -> None:
    made = assembler()
    read(made, batch_of("tuple", 0), torch.randn(N, 5), 0)
    batch = batch_of("tuple", 1)
    calls = [Call(torch.randn(N, 5), entered=(batch[0],)) for _ in range(2)]
    assert all(isinstance(part.given, Rows) for part in made.assemble(calls, batch, N).parts)


def test_labels_that_are_changed_later_are_not() -> None:
    """A batch whose memory is used again (a static buffer) must not change rows that wait."""
    made = assembler()
    batch = batch_of("tuple", 0)
    read(made, batch, torch.randn(N, 5), 0)
    found = read(made, batch, torch.randn(N, 5), N)
    before = batch[1].clamp(min=-1).tolist()
    batch[1].fill_(3)
    assert found.parts[0].rows.label.tolist() == before


def test_plain_rows_are_joined_as_full_ones_are() -> None:
    parts = [
        PlainRows(torch.randn(n, 3), torch.arange(n) % 2, -100, first, 1, 0) for n, first in ((4, 0), (3, 4), (2, 7))
    ]
    apart = [*parts[:2], replace(parts[2], first=20)]  # a batch was missed
    for given in (parts, apart, [*parts, parts[0].full()]):
        assert same(joined(given), joined([one.full() if isinstance(one, PlainRows) else one for one in given]))
    assert joined(apart).sample.tolist() == [0, 1, 2, 3, 4, 5, 6, 20, 21]


def test_no_more_waits_than_the_limit_allows() -> None:
    waiting = Waiting(limit=300)
    rows = PlainRows(torch.randn(2, 5), None, -100, 0, 1, 0)  # 2 · (20 + 48) bytes
    assert waiting.admits(rows)
    waiting.add(rows)
    waiting.add(rows)
    assert not waiting.admits(rows)
    assert not waiting.admits(replace(rows, features=torch.randn(1, 2).double()))  # of another type
    found = waiting.take()
    assert found is not None
    assert len(found) == 4
    assert waiting.take() is None
