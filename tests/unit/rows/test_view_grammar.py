"""The grammar of ``views=``: every way to write it, and what is refused."""

from typing import Any

import pytest

from lightning_featgeo import ConfigurationError
from lightning_featgeo.rows.view_grammar import parse_views


@pytest.mark.parametrize(
    ("views", "count", "stacked", "by_sample"),
    [
        ("auto", None, False, False),
        (None, None, False, False),
        (1, 1, True, False),
        (3, 3, True, False),
        ("v b", None, True, False),
        ("b v", None, True, True),
        ("2 b", 2, True, False),
        ("b 12", 12, True, True),
    ],
)
def test_what_is_written_is_understood(views: Any, count: int | None, stacked: bool, by_sample: bool) -> None:
    said = parse_views(views)
    assert (said.count, said.stacked, said.by_sample) == (count, stacked, by_sample)
    assert (said.is_auto, said.is_none) == (views == "auto", views is None)
    assert said.of_batch is None
    assert said.given == views


def test_a_callable_tells_the_view_of_each_row() -> None:
    said = parse_views(lambda batch: batch["view"])
    assert said.of_batch is not None
    assert said.of_batch({"view": [0, 1]}) == [0, 1]
    assert (said.is_auto, said.is_none, said.stacked) == (False, False, False)


@pytest.mark.parametrize("views", ["bv", "2b", "b", "v", "", "b  2", "-1 b", "auto ", 1.5, True, ("v", "b")])
def test_anything_else_lists_the_ways_there_are(views: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'use "auto", a number, "v b" or "2 b".*None \(every call'):
        parse_views(views)


@pytest.mark.parametrize("views", [0, -2, "0 b", "b 0"])
def test_a_call_holds_at_least_one_view(views: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least one view"):
        parse_views(views)
