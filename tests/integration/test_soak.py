"""Short forms of ``make soak``: a kill, a full disk, two writers, and windows in a row."""

import pytest

from tests.native import soak


@pytest.mark.slow
@pytest.mark.parametrize(("part", "size"), [(soak.kills, 1), (soak.two_writers, 2), (soak.full_disk, 60)])
def test_what_a_long_run_meets(part, size) -> None:
    assert part(size)


def test_many_windows_in_a_row_take_no_more_memory() -> None:
    assert "40 windows" in soak.many_windows(40)
