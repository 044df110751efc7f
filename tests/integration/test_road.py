"""The road from hook to curve stays short: who reads the code walks it. Counted, so the same on any machine."""

from pathlib import Path

import pytest
import road

FILES, MOVES = 20, 120  # of a window's close, with one signal


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_close_of_a_window_runs_through_few_files(tmp_path: Path) -> None:
    close = road.measure(str(tmp_path))["close"]
    assert len(close.entries) <= FILES, sorted(close.entries)
    assert close.moves <= MOVES
