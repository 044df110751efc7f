"""Which curves went with a metric: against SciPy, against shuffles counted one by one, and with the truth planted."""

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.report import ReportError, __main__, links, outcome, write_report
from lightning_featgeo.report.curves import panels
from lightning_featgeo.report.outcome import Link, Outcome, outcome_of
from lightning_featgeo.report.runs import Run

METRIC = "val/accuracy"


def run(name: str, curves: dict[str, list[float]], metric: list[float], dim: int = 8) -> Run:
    """NaN in a curve: a window without a value."""
    history = History()
    for i, value in enumerate(metric):
        values = {signal: float(curve[i]) for signal, curve in curves.items() if math.isfinite(curve[i])}
        history.append(Record(i, "val", None, i + 1.0, 10 * i, values, facts={"layer": "fc", "dim": dim}))
        history.log_metrics({METRIC: value}, i + 1.0, 10 * i)
    return Run(name, Path(name), history)


def found(runs: list[Run]) -> tuple[Outcome, dict[str, Link], dict[str, Link]]:
    result = outcome_of(runs, panels(runs), METRIC)
    by_signal = [{result.curves[link.panel].signal: link for link in each} for each in (result.across, result.within)]
    return result, by_signal[0], by_signal[1]


def noise(seed: str, n: int) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.gauss(0, 1) for _ in range(n)]


def test_correlations_across_runs_are_scipys_with_ties_and_missing_runs() -> None:
    x = [1.0, 2.0, 2.0, 5.0, math.nan, 4.0, 7.0, 3.0]
    y = [0.3, 0.1, 0.4, 0.9, 0.8, 0.4, 0.7, 0.2]
    runs = [run(f"r{i}", {"nc1": [0.0, x[i]], "rankme": [1.0, -(x[i] ** 3)]}, [0.0, y[i]]) for i in range(8)]
    runs[4] = run("r4", {"cdnv": [0.0, 1.0]}, [0.0, y[4]])  # without these curves
    _, across, _ = found(runs)
    kept = [i for i in range(8) if i != 4]
    expected = spearmanr([x[i] for i in kept], [y[i] for i in kept]).statistic
    assert (across["nc1"].n, across["nc1"].lag) == (7, None)
    assert across["nc1"].rho == pytest.approx(expected, abs=1e-12)
    assert across["rankme"].rho == pytest.approx(-expected, abs=1e-12)
    z, wide = math.atanh(expected), 1.959964 * math.sqrt((1 + expected**2 / 2) / 4)
    assert (across["nc1"].low, across["nc1"].high) == pytest.approx((math.tanh(z - wide), math.tanh(z + wide)))
    assert "cdnv" not in across  # one run


def test_chance_counts_shuffles_in_which_any_curve_is_as_close() -> None:
    curves = {name: noise(name, 6) for name in ("nc1", "cdnv", "rankme")}
    y = noise("y", 6)
    runs = [run(f"r{i}", {n: [0.0, c[i]] for n, c in curves.items()}, [0.0, y[i]]) for i in range(6)]
    _, across, _ = found(runs)
    best = [
        max(abs(spearmanr(c, [y[i] for i in order]).statistic) for c in curves.values())
        for order in itertools.permutations(range(6))
    ]
    for name, link in across.items():
        expected = np.mean(np.array(best) >= abs(spearmanr(curves[name], y).statistic) - 1e-9)
        assert link.chance == pytest.approx(expected, abs=0.02)  # 9,999 of them, drawn at random


def test_across_runs_the_curve_that_drives_the_outcome_is_found_and_the_others_are_not() -> None:
    runs = []
    for i in range(20):
        drive, others = noise(f"drive{i}", 1)[0], {f"own_{j}": noise(f"{j}-{i}", 3) for j in range(30)}
        accuracy = 0.7 + 0.1 * drive + 0.01 * noise(f"rest{i}", 1)[0]
        curve = [1.0, 2.0, 10 + drive]
        runs.append(run(f"r{i}", {"effective_rank": curve, **others}, [0.1, 0.2, accuracy], dim=8 + i))
    result, across, _ = found(runs)
    assert len(across) == 31
    assert across["effective_rank"].rho > 0.9
    assert across["effective_rank"].chance <= 0.001
    assert min(link.chance for name, link in across.items() if name != "effective_rank") > 0.05
    assert links.across(result) == "Across 20 runs: 1 of 31 curves stands out."
    assert "8 to 27 dimensions" in result.note  # a sweep over widths is one curve


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("runs", [1, 4])
def test_within_runs_a_curve_that_moves_first_is_found_with_its_lag(lag: int, runs: int) -> None:
    made = []
    for i in range(runs):
        moves, rest = noise(f"moves{i}", 60), noise(f"rest{i}", 60)
        curve = list(itertools.accumulate(moves))
        metric = [0.0] * lag + curve[: 60 - lag]
        metric = [a + 0.2 * b for a, b in zip(metric, rest, strict=True)]
        made.append(run(f"r{i}", {"nc1": curve, "cdnv": list(itertools.accumulate(noise(f"c{i}", 60)))}, metric))
    result, _, within = found(made)
    assert (within["nc1"].lag, result.runs_within) == (lag, runs)
    assert within["nc1"].rho > 0.85
    assert within["nc1"].chance <= 0.05 < within["cdnv"].chance
    assert within["nc1"].n == runs * (59 - lag)


def test_curves_that_only_rise_together_are_not_linked() -> None:
    rising = [i / 10 + 0.05 * x for i, x in enumerate(noise("a", 50))]
    metric = [i / 20 + 0.05 * x for i, x in enumerate(noise("b", 50))]
    assert spearmanr(rising, metric).statistic > 0.9
    _, _, within = found([run("r", {"nc1": rising}, metric)])
    assert within["nc1"].chance > 0.05
    assert abs(within["nc1"].rho) < 0.5


def test_few_windows_can_never_stand_out() -> None:
    moves = noise("few", outcome.LEAST_MOVES + 1)
    _, _, within = found([run("r", {"nc1": moves}, moves)])
    assert within["nc1"].rho > 0.99
    assert within["nc1"].chance > 0.05  # there are only so many ways to turn it around


def test_too_few_runs_and_windows_are_said() -> None:
    result, across, within = found([run(f"r{i}", {"nc1": [1.0, i]}, [0.0, float(i)]) for i in range(4)])
    assert (across, within) == ({}, {})
    assert links.across(result).startswith("Across runs: 4 runs have logged val/accuracy; it takes 5")
    assert links.within(result).startswith("Within runs: none has 17 windows")
    constant = [run(f"r{i}", {"nc1": [1.0, i]}, [0.0, 0.5]) for i in range(9)]
    assert not found(constant)[1]  # an outcome that is always the same


def test_a_metric_that_was_not_logged_is_an_error_with_those_that_were() -> None:
    runs = [run("r", {"nc1": [1.0]}, [0.5])]
    with pytest.raises(ReportError, match=r"no run has logged 'val/acuracy'\. Did you mean 'val/accuracy'"):
        outcome_of(runs, panels(runs), "val/acuracy")
    bare = Run("b", Path("b"), History())
    with pytest.raises(ReportError, match="hold no metric of the runs' own"):
        outcome_of([bare], [], METRIC)


def test_every_form_of_the_report_has_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "val/<b>|acc"
    for i in range(6):
        history = History(tmp_path / f"{i}.jsonl")
        history.describe({"name": f"run {i}"})
        history.append(Record(0, "val", None, 1.0, 5, {"nc1": float(i)}, facts={"dim": 8}))
        history.log_metrics({name: i / 10}, 1.0, 5)
        history.end("finished")
    page = write_report(tmp_path, tmp_path / "page.html", quiet=True, outcome=name).read_text(encoding="utf-8")
    assert "What went with val/&lt;b&gt;|acc" in page
    assert "<b>|acc" not in page
    assert "Add <code>--outcome" in write_report(tmp_path, tmp_path / "page.html", quiet=True).read_text("utf-8")
    assert __main__.main([str(tmp_path), "--outcome", name, "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)["outcome"]
    assert (told["metric"], told["runs"], told["across_runs"][0]["rho"]) == (name, 6, 1.0)
    assert __main__.main([str(tmp_path), "--outcome", name, "--markdown", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "| featgeo/val/nc1 | +1.00 (" in printed
    assert "acc" in printed.splitlines()[0]
    assert __main__.main([str(tmp_path), "--outcome", "other", "--quiet"]) == 2
    assert "no run has logged 'other'" in capsys.readouterr().err


def test_the_lines_of_all_runs_go_from_lowest_to_highest() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)], "cdnv": [3.0 - i]}, [i / 10]) for i in range(5)]
    result, _, _ = found(runs)
    drawn = links.lines(result, [r.name for r in runs])
    assert [axis["axis"] for axis in drawn["axes"]] == ["nc1", "cdnv", METRIC]
    assert drawn["axes"][1] == {"axis": "cdnv", "low": "-1", "high": "3"}
    last = [p for p in drawn["points"] if p["run"] == "r4"]
    assert [(p["place"], p["outcome"]) for p in last] == [(1.0, 0.4), (0.0, 0.4), (1.0, 0.4)]
