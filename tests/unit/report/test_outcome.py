"""Which curves went with a metric: against SciPy, against shuffles counted one by one, and with the truth planted."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_featgeo.history import thinning
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.report import __main__, links, write_report
from lightning_featgeo.report.curves import panels
from lightning_featgeo.report.outcome import outcome_of
from tests._helpers.outcomes import METRIC, found, noise, run


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
def test_within_runs_a_curve_that_moves_first_is_found_with_its_lag(lag: int) -> None:
    made = []
    for i in range(6):
        moves, rest = noise(f"moves{i}", 30), noise(f"rest{i}", 30)
        curve = list(itertools.accumulate(moves))
        metric = [a + 0.2 * b for a, b in zip([0.0] * lag + curve[: 30 - lag], rest, strict=True)]
        curves = {"nc1": curve, "cdnv": list(itertools.accumulate(noise(f"c{i}", 30)))}
        more = [0.0, 0.0] if i == 0 else []  # a longer run: what they have in common is compared
        made.append(run(f"r{i}", {n: [*c, *more] for n, c in curves.items()}, [*metric, *more]))
    result, _, within = found(made)
    assert (within["nc1"].lag, result.runs_within) == (lag, 6)
    assert within["nc1"].rho > 0.8
    assert within["nc1"].chance <= 0.05 < within["cdnv"].chance
    assert within["nc1"].n == 6 * (29 - lag)


def test_what_all_learning_curves_share_is_no_link() -> None:
    """Curves and metrics that level off alike, each with noise of its own: two of twenty such sweeps at most."""
    stand_out = 0
    for trial in range(20):
        runs = []
        for i in range(6):
            shape = [1 - math.exp(-t / 8) for t in range(30)]
            curves = {
                name: [a + 0.02 * b for a, b in zip(shape, noise(f"{name}{trial}-{i}", 30), strict=True)]
                for name in ("nc1", "cdnv", "rankme")
            }
            metric = [a + 0.02 * b for a, b in zip(shape, noise(f"metric{trial}-{i}", 30), strict=True)]
            runs.append(run(f"r{i}", curves, metric))
        _, _, within = found(runs)
        assert len(within) == 3
        stand_out += min(link.chance for link in within.values()) <= links.CLEAR
    assert stand_out <= 2


def test_what_all_runs_have_in_common_is_no_part_of_a_correlation() -> None:
    shape = [1 - math.exp(-t / 8) for t in range(30)]
    runs = []
    for i in range(8):
        curve, metric = (
            [a + 0.002 * b for a, b in zip(shape, noise(f"{what}-{i}", 30), strict=True)]
            for what in ("curve", "metric")
        )
        assert spearmanr(np.diff(curve), np.diff(metric)).statistic > 0.6
        runs.append(run(f"r{i}", {"nc1": curve}, metric))
    assert abs(found(runs)[2]["nc1"].rho) < 0.3


def test_a_single_run_has_no_table_of_moves() -> None:
    moves = noise("single", 80)
    result, _, within = found([run("r", {"nc1": moves}, moves)])
    assert within == {}
    assert "In a single one, all that levels off goes with all that levels off" in links.within(result)


@pytest.mark.slow
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


def test_rounding_is_no_movement() -> None:
    """All runs alike to single precision, or each a multiple of the others: nothing moves in a way of its own."""
    shape = [math.log(t) * 1.3 for t in range(1, 15)]
    alike = [
        run(f"r{i}", {"nc1": [0.3 * v for v in shape]}, [float(np.float32(0.77 * v)) for v in shape]) for i in range(10)
    ]
    result, _, within = found(alike)
    assert within == {}
    assert links.within(result) == (
        "Within runs: from window to window, val/accuracy moves in fewer than 5 runs in a way of its own."
    )
    same = [run(f"r{i}", {"nc1": noise(f"n{i}", 14)}, [0.5] * 14) for i in range(10)]
    assert found(same)[2] == {}


def test_full_agreement_of_six_runs_is_not_certain() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)], "cdnv": [-float(i)]}, [i / 10]) for i in range(6)]
    _, across, _ = found(runs)
    assert (across["nc1"].rho, across["nc1"].high) == (1.0, 1.0)
    assert 0.5 < across["nc1"].low < 0.8
    assert (across["cdnv"].rho, across["cdnv"].low, across["cdnv"].high) == (-1.0, -1.0, -across["nc1"].low)


def test_curves_that_stand_apart_say_by_what_and_an_outcome_called_like_a_curve_has_an_axis() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)]}, [i / 10]) for i in range(12)]
    for i, one in enumerate(runs):
        one.history.records = [dataclasses.replace(r, counts={"seen": 500 + 100 * (i % 2)}) for r in one.records]
        one.history.log_metrics({"nc1": float(i)}, 1.0, 0)
    result = outcome_of(runs, panels(runs), "nc1")
    names = [links.row(link, result.curves[link.panel])["curve"] for link in result.across]
    assert len(set(names)) == 2
    assert any("600 instead of 500" in name for name in names)
    axes = [axis["axis"] for axis in links.lines(result, [r.name for r in runs])["axes"]]
    assert axes == ["nc1", "featgeo/val/nc1", "nc1 (outcome)"]


def test_every_form_has_the_same_numbers_of_long_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page draws fewer windows than it judges: a lag is of windows that follow each other."""
    monkeypatch.setattr(thinning, "MOST", 64)
    for i in range(5):
        history = History(tmp_path / f"{i}.jsonl")
        history.describe({"name": f"run {i}"})
        moves = noise(f"long{i}", 200)
        for t, value in enumerate(itertools.accumulate(moves)):
            history.append(Record(t, "val", None, t + 1.0, t, {"nc1": value}, facts={"dim": 8}, seconds=0.1 + i))
            history.log_metrics({"m": moves[t - 2] if t > 1 else 0.0}, t + 1.0, t)
    page = write_report(tmp_path, tmp_path / "page.html", quiet=True, outcome="m").read_text(encoding="utf-8")
    assert __main__.main([str(tmp_path), "--outcome", "m", "--json", "--quiet"]) == 0
    (link,) = json.loads(capsys.readouterr().out)["outcome"]["within_runs"]
    assert f"<td>{link['rho']:+.2f} (".replace("-", "−") in page
    assert f"<td>{link['n']}</td>" in page
