"""The validity benchmark trains, goes on where it was, and judges."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_validity_benchmark_trains_goes_on_where_it_was_and_judges(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        command = [sys.executable, str(BENCHMARKS / "validity.py"), *args, "--runs", str(tmp_path / "runs.gz")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    train = ("train", "--jobs", "1", "--seeds", "1", "--only")
    assert "1 runs in" in run(*train, "simsiam_no_stop_gradient")
    assert "1 runs in" in run(*train, "simsiam,simsiam_no_stop_gradient")
    tables = run("judge", "--tuning")
    assert '| "collapse" | simsiam_no_stop_gradient | 1/1' in tables
    assert "| simsiam | 0/1 = 0%" in tables
    assert "featgeo alarm: total collapse" in tables
