"""The validity benchmark trains, goes on where it was, and judges."""

from pathlib import Path

from tests._helpers.processes import run_script

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_validity_benchmark_trains_goes_on_where_it_was_and_judges(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        return run_script(BENCHMARKS / "validity.py", *args, "--runs", str(tmp_path / "runs.gz"))

    train = ("train", "--jobs", "1", "--seeds", "1", "--only")
    assert "1 runs in" in run(*train, "simsiam_no_stop_gradient")
    assert "1 runs in" in run(*train, "simsiam,simsiam_no_stop_gradient")
    tables = run("judge", "--tuning")
    assert '| "collapse" | simsiam_no_stop_gradient | 1/1' in tables
    assert "| simsiam | 0/1 = 0%" in tables
    assert "featgeo alarm: total collapse" in tables
