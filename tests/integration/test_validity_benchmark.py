"""The validity benchmark trains, goes on where it was, judges and draws."""

from pathlib import Path

from tests._helpers.processes import run_script

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUNS = "digits_long_tail/intact,digits_long_tail/tail_merges,digits_mlp_plain/intact,digits_mlp_plain/rate_doubles"


def test_the_validity_benchmark_trains_goes_on_where_it_was_and_judges(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        return run_script(BENCHMARKS / "validity.py", *args, "--runs", str(tmp_path / "runs.gz"))

    train = ("train", "--jobs", "1", "--seeds", "1", "--only")
    assert "1 runs in" in run(*train, "digits_mlp_plain/rate_doubles")
    assert "3 runs in" in run(*train, RUNS)
    tables = run("judge", "--out", str(tmp_path / "tables.md"))
    assert "| digits_mlp_plain | 0/1 |" in tables
    assert '"tail_merging"' in tables
    assert (tmp_path / "validity_trade.png").exists()
