"""Which runs and which of their windows are compared with an outcome, and what is said of those that are not."""

import dataclasses
import math
from pathlib import Path

import pytest

from lightning_featgeo.history.history import History
from lightning_featgeo.report import ReportError, links
from lightning_featgeo.report.curves import panels
from lightning_featgeo.report.outcome import outcome_of
from lightning_featgeo.report.runs import Run
from tests._helpers.outcomes import METRIC, found, noise, run


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


def test_a_metric_under_two_names_is_one_and_one_without_a_number_is_said() -> None:
    runs = [run(f"r{i}", {"nc1": [float(i)]}, [i / 10]) for i in range(6)]
    for i, one in enumerate(runs):
        one.history.log_metrics({"loss" if i % 2 else "loss_epoch": float(i), "bad": math.nan}, 1.0, 0)
    assert outcome_of(runs, panels(runs), "loss").finals == {i: float(i) for i in range(6)}
    with pytest.raises(ReportError, match="'bad' was logged, but never as a number"):
        outcome_of(runs, panels(runs), "bad")


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
