"""Which outermost call made what: looked up once a step, however many layers ask."""

import pytest
import torch
from torch import Tensor

from lightning_featgeo import _compat
from lightning_featgeo.capture.entries import Entered, Entries


def a_chain(length: int) -> tuple[list[Entered], list[Tensor]]:
    """Calls that each take what the one before gave, with an activation between them: as a loop over blocks does."""
    x, calls, given = torch.randn(3, 4), [], []
    weight = torch.randn(4, 4, requires_grad=True)
    at = x
    for number in range(length):
        out = at @ weight
        calls.append(Entered(10 * number, number, [at], 10.0 * number + 5, [out]))
        given.append(at)
        at = torch.relu(out) if number % 2 else out
    return calls, given


def test_a_chain_of_calls_began_with_the_first() -> None:
    calls, _ = a_chain(9)
    entries = Entries(calls)
    assert entries.derived(calls[0]) is None
    assert [entries.derived(one) for one in calls[1:]] == calls[:-1]
    assert all(entries.origin(one) is calls[0] for one in calls)
    assert entries.first_hand(but=-1) == calls[:1]
    assert entries.first_hand(but=0) == []


def test_what_lies_inside_a_call_and_what_between_two() -> None:
    calls, _ = a_chain(3)
    entries = Entries(calls)
    assert [entries.holding(order) for order in (0, 3, 5, 7, 10, 26)] == [
        calls[0], calls[0], calls[0], None, calls[1], None
    ]  # fmt: skip


def test_the_maker_is_the_last_call_that_was_over_by_then() -> None:
    calls, _ = a_chain(4)
    entries, out = Entries(calls), calls[1].gave[0]
    place, node = _compat.address(out), out.grad_fn
    assert entries.maker(place, None, 16) is calls[1]
    assert entries.maker(None, node, 16) is calls[1]
    assert entries.maker(None, torch.relu(out).grad_fn, 16) is calls[1]  # through the graph
    assert entries.maker(place, node, 15) is calls[0]  # not over yet: what its input was made by
    assert entries.maker(None, None, 16) is None


def test_many_layers_cost_no_more_than_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places that are asked for: a few a call, not a few for every pair of calls."""
    asked = []
    real = _compat.address
    monkeypatch.setattr(_compat, "address", lambda x: asked.append(1) or real(x))
    for length in (20, 80):
        asked.clear()
        calls, _ = a_chain(length)
        entries = Entries(calls)
        for one in calls:
            entries.first_hand(but=one.module)
            entries.origin(one)
        assert len(asked) <= 3 * length
