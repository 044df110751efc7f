"""Which curves went with a metric: against SciPy, against shuffles counted one by one, and with the truth planted."""

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_featgeo.history import thinning
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.report import ReportError, __main__, links, write_report
from lightning_featgeo.report.curves import panels
from lightning_featgeo.report.outcome import Outcome, outcome_of
from lightning_featgeo.report.ranks import Link
from lightning_featgeo.report.runs import Run

METRIC = "val/accuracy"


def run(
    name: str, curves: dict[str, list[float]], metric: list[float], dim: int = 8, epochs: list[float] | None = None,
    copied: str | None = None,
) -> Run:  # fmt: skip
    """NaN in a curve: a window without a value. ``copied``: the run whose records it began with."""
    history = History()
    seconds = random.Random(copied or name).random()
    for i, value in enumerate(metric):
        values = {signal: float(curve[i]) for signal, curve in curves.items() if math.isfinite(curve[i])}
        epoch = i + 1.0 if epochs is None else epochs[i]
        facts = {"layer": "fc", "dim": dim}
        history.append(Record(i, "val", None, epoch, 10 * i, values, facts=facts, seconds=seconds))
        history.log_metrics({METRIC: value}, epoch, 10 * i)
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


def test_a_run_that_another_goes_on_with_is_no_run_of_its_own() -> None:
    runs = [run(f"r{i}", {"nc1": noise(f"n{i}", 4)}, noise(f"m{i}", 4)) for i in range(4)]
    longer = [run(f"on{i}", {"nc1": noise(f"n{i}", 6)[:6]}, noise(f"m{i}", 6), copied=f"r{i}") for i in range(4)]
    result, across, _ = found([*runs, *longer])
    assert len(result.finals) == 4
    assert not across
    assert "as another run goes on from one of their checkpoints: r0, r1, r2, r3." in result.note
    copies = [run("a", {"nc1": noise("n", 4)}, noise("m", 4)) for _ in range(5)]
    assert len(found(copies)[0].finals) == 1


def test_a_run_that_was_killed_after_its_checkpoint_counts_once() -> None:
    """The other one begins with its first windows, and has others from there on."""
    first = [run(f"r{i}", {"nc1": noise(f"n{i}", 5)}, noise(f"m{i}", 5)) for i in range(3)]
    again = [
        run(f"on{i}", {"nc1": [*noise(f"n{i}", 2), *noise(f"x{i}", 4)]}, noise(f"y{i}", 6), copied=f"r{i}")
        for i in range(3)
    ]
    assert sorted(found([*first, *again])[0].finals) == [3, 4, 5]


def test_evaluations_and_a_second_fit_of_a_run_are_no_runs_of_their_own() -> None:
    runs = [run(f"r{i}", {"nc1": noise(f"n{i}", 4)}, noise(f"m{i}", 4)) for i in range(6)]
    for i, (doing, identity) in enumerate(
        (("validate", "a"), ("fit", "a"), ("validate", "a"), ("fit", "b"), ("fit", "b"), ("validate", "c"))
    ):
        runs[i].history.describe({"id": identity, "doing": doing})
        runs[i].path = Path("one_folder") / f"{i}.jsonl"
    result = found(runs)[0]
    assert sorted(result.finals) == [1, 4, 5]
    assert "Left out, as evaluations of a run that is here: r0, r2." in result.note
    assert "Left out, as a later fit went on in the same run: r3." in result.note


def test_a_run_that_diverged_is_left_out_and_named() -> None:
    runs = [run(f"r{i}", {"nc1": [1.0, float(i)]}, [0.5, i / 10]) for i in range(6)]
    runs[2] = run("lost", {"nc1": [1.0, 2.0]}, [0.9, math.nan])
    result, across, _ = found(runs)
    assert sorted(result.finals) == [0, 1, 3, 4, 5]
    assert across["nc1"].n == 5
    assert "Left out, as their last val/accuracy is no number: lost." in result.note


def test_runs_of_other_lengths_are_said() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)] * (5 + i)}, [i / 10] * (5 + i)) for i in range(6)]
    assert "The runs end at epoch 5 to 10" in found(runs)[0].note


def test_too_few_runs_and_outcomes_that_are_the_same_are_said() -> None:
    result, across, within = found([run(f"r{i}", {"nc1": [1.0, float(i)]}, [0.0, float(i)]) for i in range(4)])
    assert (across, within) == ({}, {})
    assert links.across(result).startswith("Across runs: 4 runs have a last val/accuracy; it takes 5")
    assert links.within(result).startswith("Within runs: it takes 5 runs of 9 windows or more, at the same epochs.")
    constant = found([run(f"r{i}", {"nc1": [1.0, float(i)]}, [0.0, 0.5]) for i in range(9)])[0]
    assert links.across(constant) == "Across runs: all 9 have the same val/accuracy, so nothing can go with it."


def test_an_epochs_metric_is_found_by_its_plain_name_and_a_curve_is_none() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)]}, [i / 10]) for i in range(5)]
    for one in runs:
        one.history.log_metrics({"train_loss_epoch": 1.0, "train_loss_step": 2.0}, 1.0, 0)
    assert outcome_of(runs, panels(runs), "train_loss").name == "train_loss_epoch"
    with pytest.raises(ReportError, match=r"'featgeo/val/nc1' is a curve.*They have logged: val/accuracy"):
        outcome_of(runs, panels(runs), "featgeo/val/nc1")
    runs[0].history.log_metrics({f"class_{i}": 1.0 for i in range(99)}, 2.0, 1)
    with pytest.raises(ReportError, match=r"and \d+ more$"):
        outcome_of(runs, panels(runs), "zzz")


def test_a_metric_that_was_not_logged_is_an_error_with_those_that_were() -> None:
    runs = [run("r", {"nc1": [1.0]}, [0.5])]
    with pytest.raises(ReportError, match=r"no run has logged 'val/acuracy'\. Did you mean 'val/accuracy'"):
        outcome_of(runs, panels(runs), "val/acuracy")
    bare = Run("b", Path("b"), History())
    with pytest.raises(ReportError, match="hold no metric of the runs' own"):
        outcome_of([bare], [], METRIC)


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


def levelling(name: str, epochs: list[float], size: float = 0.02) -> list[float]:
    """What all learning curves share, with noise of its own."""
    return [1 - math.exp(-t / 3) + size * b for t, b in zip(epochs, noise(name, len(epochs)), strict=True)]


@pytest.mark.parametrize("lacks", [False, True])
def test_windows_are_compared_at_the_same_epochs(lacks: bool) -> None:
    """Half of the runs validate twice as often, or not in epochs 2 and 3: no link where nothing goes together."""
    stand_out = 0
    for trial in range(12):
        runs = []
        for i in range(8):
            whole = [float(t) for t in range(1, 15)]
            other = [t for t in whole if t not in (2, 3)] if lacks else [t / 2 for t in range(1, 29)]
            epochs = other if i % 2 else whole
            curve, metric = (levelling(f"{what}{trial}-{i}", epochs) for what in ("c", "m"))
            runs.append(run(f"r{i}", {"nc1": curve}, metric, epochs=epochs))
        result, _, within = found(runs)
        stand_out += within["nc1"].chance <= links.CLEAR
        assert within["nc1"].n == 8 * ((11 if lacks else 13) - (within["nc1"].lag or 0))
        assert f"the {12 if lacks else 14} windows at epochs that all of them have" in result.note
    assert stand_out <= 2


def test_one_short_run_does_not_cut_the_others() -> None:
    runs = [
        run(f"r{i}", {"nc1": noise(f"n{i}", 9 if i == 3 else 30)}, noise(f"m{i}", 9 if i == 3 else 30))
        for i in range(8)
    ]
    result, _, within = found(runs)
    assert within["nc1"].n == 7 * (29 - (within["nc1"].lag or 0))
    assert "left out for their few windows at epochs of the others: r3." in result.note


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


def test_a_metric_under_two_names_is_one_and_one_without_a_number_is_said() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)]}, [i / 10]) for i in range(6)]
    for i, one in enumerate(runs):
        one.history.log_metrics({"loss" if i % 2 else "loss_epoch": float(i), "bad": math.nan}, 1.0, 0)
    assert outcome_of(runs, panels(runs), "loss").finals == {i: float(i) for i in range(6)}
    with pytest.raises(ReportError, match="'bad' was logged, but never as a number"):
        outcome_of(runs, panels(runs), "bad")


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


def test_widths_of_one_layer_are_said_beside_those_of_another() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)]}, [i / 10], dim=8 * (1 + i % 2)) for i in range(6)]
    for one in runs:
        one.history.append(dataclasses.replace(one.records[0], layer="second", facts={"layer": "b", "dim": 8}))
    assert "features have 8 to 16 dimensions" in found(runs)[0].note


def test_a_curve_that_ends_early_is_said() -> None:
    runs = [
        run(f"r{i}", {"nc1": [float(i), math.nan, math.nan] if i == 2 else [float(i)] * 3}, [i / 10] * 3)
        for i in range(6)
    ]
    assert "its last value long before their end, and that one is taken: r2." in found(runs)[0].note


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
