"""The road from hook to curve stays short: who reads the code walks it. Counted, so the same on any machine."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "road.py"
FILES, MOVES = 20, 120  # of a window's close, with one signal


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_close_of_a_window_runs_through_few_files(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("road", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    road = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(road)
    close = road.measure(str(tmp_path))["close"]
    assert len(close.entries) <= FILES, sorted(close.entries)
    assert close.moves <= MOVES
