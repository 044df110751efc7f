"""Two grades: what is a notice and what a failure, what confirms a loss, and which windows are compared at all."""

from dataclasses import replace

import pytest

from lightning_featgeo.alarms import KINDS, Alarm, Detector, Drop, Kind, Watch
from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.record import Record
from tests._helpers.detectors import windows

COLLAPSE = KINDS["collapse"]


def seen(records: list[Record]) -> list[tuple[str, str]]:
    return [(alarm.grade, alarm.title) for alarm in Detector(COLLAPSE).replay(records)]


def test_a_loss_is_a_notice_and_one_that_goes_on_to_the_level_is_a_failure() -> None:
    std = [0.7, 0.7, 0.7, 0.4, 0.4, 0.2, 0.08, 0.05]
    assert seen(windows(feature_std=std[:6], effective_rank=[20.0] * 6)) == [("notice", "total collapse")]
    both = [("notice", "total collapse"), ("failure", "total collapse")]
    assert seen(windows(feature_std=std, effective_rank=[20.0] * 8)) == both
    at_once = [0.7, 0.7, 0.7, 0.02, 0.01]
    assert seen(windows(feature_std=at_once, effective_rank=[20.0] * 5)) == [("failure", "total collapse")]


def test_labels_confirm_a_loss_or_keep_it_a_notice() -> None:
    signals = {"feature_std": [0.8] * 8, "effective_rank": [30.0] * 4 + [10.0, 8.0, 8.0, 8.0]}
    assert ("failure", "dimensional collapse") in seen(windows(**signals))
    kept = windows(**signals, knn_accuracy=[0.9] * 8)
    assert seen(kept) == [("notice", "dimensional collapse")]  # the classes are all there
    lost = windows(**signals, knn_accuracy=[0.9] * 4 + [0.75, 0.7, 0.7, 0.7])
    assert ("failure", "dimensional collapse") in seen(lost)
    less = {"feature_std": [0.8] * 4 + [0.5] * 4, "effective_rank": [30.0] * 8}
    assert ("failure", "total collapse") not in seen(windows(**less))  # nobody confirms it
    assert ("failure", "total collapse") in seen(windows(**less, knn_accuracy=[0.9] * 4 + [0.75] * 4))


@pytest.mark.parametrize(("error", "fails"), [(0.01, True), (0.06, False)])
def test_a_loss_within_its_noise_confirms_nothing(error: float, fails: bool) -> None:
    less = {"feature_std": [0.8] * 4 + [0.5] * 4, "effective_rank": [30.0] * 8, "knn_accuracy": [0.9] * 4 + [0.8] * 4}
    records = [replace(record, standard_errors={"knn_accuracy": error}) for record in windows(**less)]
    assert (("failure", "total collapse") in seen(records)) == fails


def test_a_notice_is_no_failure_and_says_so() -> None:
    detector = Detector(COLLAPSE)
    (alarm,) = detector.replay(windows(feature_std=[0.7, 0.7, 0.7, 0.4, 0.4], effective_rank=[20.0] * 5))
    assert not alarm.is_failure
    assert alarm.report.startswith("featgeo notice: total collapse")
    assert detector.state == "notice"
    assert Alarm.read(alarm.as_dict()) == alarm
    old = {name: value for name, value in alarm.as_dict().items() if name != "grade"}
    assert Alarm.read(old).grade == "failure"  # before there were two


def with_rows(records: list[Record], rows: list[int]) -> list[Record]:
    """Windows of so many rows, whose rank can't be more."""
    return [
        replace(record, values={**record.values, "n_samples": float(n)}, ceilings={"effective_rank": n - 1.0})
        for record, n in zip(records, rows, strict=True)
    ]


def test_windows_of_fewer_rows_are_not_compared_in_what_depends_on_them() -> None:
    ranks, classes = [100.0] * 6 + [30.0] * 6, [0.9] * 6 + [0.5] * 6
    records = windows(feature_std=[0.8] * 12, effective_rank=ranks, knn_accuracy=classes)
    assert seen(records)
    assert not seen(with_rows(records, [2048] * 6 + [64] * 6))
    assert seen(with_rows(records, [2048] * 6 + [1900] * 6))  # about as many
    spread = windows(feature_std=[0.8] * 6 + [0.02] * 6, effective_rank=[100.0] * 12)
    assert seen(with_rows(spread, [2048] * 6 + [64] * 6)) == [("failure", "total collapse")]  # does not depend on rows


def test_windows_of_something_else_begin_anew() -> None:
    records = windows(feature_std=[0.8] * 4 + [0.05] * 4, effective_rank=[100.0] * 8)
    assert seen(records)
    changed = [replace(r, facts={"dim": 64 if r.window < 4 else 32}) for r in records]
    assert not seen(changed)
    assert not seen([replace(r, facts={"pool": "rows" if r.window < 4 else "tokens"}) for r in records])


def test_a_state_of_an_earlier_version_is_read() -> None:
    detector = Detector(COLLAPSE)
    records = windows(feature_std=[0.7, 0.7, 0.7, 0.02, 0.01, 0.01], effective_rank=[20.0] * 6)
    detector.replay(records[:5])
    state = detector.state_dict()
    old = {**state, "raised": [title for _, title in state["raised"]]}
    old["checks"] = [{n: v for n, v in c.items() if n not in ("rows", "ceiling", "of")} for c in state["checks"]]
    again = Detector(COLLAPSE)
    again.load_state_dict(old)
    assert (again.state, again.observe(records[5])) == ("alarm", None)


@pytest.mark.parametrize("to", [0.1, 0.3])
def test_a_drop_to_a_level(to: float) -> None:
    kind = Kind("mine", (Watch("feature_std", Drop(0.5, to=to), "mine", patience=1),))
    fired = [alarm.new for alarm in Detector(kind).replay(windows(feature_std=[0.8, 0.5, 0.35, 0.25, 0.12, 0.05]))]
    assert fired == [0.25 if to == 0.3 else 0.05]
    (alarm,) = Detector(kind).replay(windows(feature_std=[0.8, 0.05]))
    assert alarm.limit.endswith(f"and {to:g} or worse")
    rising = Kind("mine", (Watch("dead_fraction", Drop(0.3, to=0.6), "mine", patience=1),))
    assert [a.new for a in Detector(rising).replay(windows(dead_fraction=[0.1, 0.5, 0.7]))] == [0.7]


def with_head(records: list[Record], needed: int) -> list[Record]:
    return [replace(record, facts={"dim": 64, "needed_directions": needed}) for record in records]


@pytest.mark.parametrize(("needed", "fails"), [(1, False), (2, False), (9, False), (10, True), (127, True)])
def test_without_labels_a_rank_that_the_outputs_need_no_more_of_is_no_failure(needed: int, fails: bool) -> None:
    rank = [30.0, 30.0, 30.0, 24.0, 15.0, 11.0, 9.9, 9.8]
    records = with_head(windows(feature_std=[0.8] * 8, effective_rank=rank), needed)
    assert (("failure", "dimensional collapse") in seen(records)) == fails
    assert ("notice", "dimensional collapse") in seen(records)
    lost = [0.9] * 4 + [0.7] * 4
    labelled = windows(feature_std=[0.8] * 8, effective_rank=rank, knn_accuracy=lost)
    assert ("failure", "dimensional collapse") in seen(with_head(labelled, needed))  # the labels tell


def test_an_alarm_says_how_many_directions_the_outputs_need() -> None:
    records = windows(feature_std=[0.8] * 7, effective_rank=[30.0] * 3 + [9.0, 5.0, 4.0, 4.0])
    alarms = Detector(COLLAPSE).replay(with_head(records, 9))
    assert "60% of that way, that is 12.6, and at most 9, which the outputs need" in alarms[-1].limit


def test_a_head_of_more_outputs_begins_nothing_anew() -> None:
    records = windows(feature_std=[0.8] * 4 + [0.05] * 4, effective_rank=[100.0] * 8)
    grown = [replace(r, facts={"dim": 64, "needed_directions": 5 if r.window < 4 else 10}) for r in records]
    assert seen(grown) == seen(records)


def without_a_finite_row(record: Record) -> Record:
    gaps = dict.fromkeys(
        ("feature_std", "effective_rank", "knn_accuracy"), Gap(GapKind.NO_ROWS, "every row was left out")
    )
    return replace(record, values={"n_samples": 0.0}, gaps=gaps, counts={"seen": 0, "nonfinite": 500})


def test_features_that_are_no_numbers_any_more_are_a_failure() -> None:
    records = windows(feature_std=[0.8] * 12, effective_rank=[30.0] * 12, knn_accuracy=[0.9] * 12)
    lost = [without_a_finite_row(r) if r.window in (5, 6, 7) else r for r in records]
    detector = Detector(COLLAPSE)
    (alarm,) = detector.replay(lost[:7])
    assert (alarm.title, alarm.is_failure, alarm.epoch, alarm.since_epoch) == ("no finite features", True, 7.0, 6.0)
    assert "featgeo/val/n_samples fell to 0: all 500 rows are NaN or infinite, 500 → 0" in alarm.line
    assert (detector.state, Alarm.read(alarm.as_dict())) == ("alarm", alarm)
    again = Detector(COLLAPSE)
    again.load_state_dict(detector.state_dict())
    assert not again.replay(lost[7:])  # it is known, and over
    assert again.state == "quiet"
    assert not Detector(COLLAPSE).replay(lost[5:8])  # never were any: what is watched may be meant to be so
    assert not Detector(COLLAPSE).replay(lost[:6] + records[6:])  # one window
    assert not Detector(KINDS["converged"]).replay(lost)


def test_an_alarm_of_two_signals_names_the_other_one_alone() -> None:
    both = {"feature_std": [0.8] * 3 + [0.02] * 4, "effective_rank": [30.0] * 3 + [2.0] * 4}
    alarms = Detector(COLLAPSE).replay(windows(**both))
    assert {alarm.title: alarm.also for alarm in alarms}["total collapse"] == ["Drop of effective_rank"]


def test_what_is_compared_with_is_said() -> None:
    rank, std = [40.0, 40.0, 40.0, 36.0, 30.0, 30.0, 30.0, 8.0, 8.0], [0.3, 0.35, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
    alarm = Detector(COLLAPSE).replay(windows(effective_rank=rank, feature_std=std))[-1]
    assert "fell 76% of the way to 1 from its best of the last 5 checks, 30 → 8" in alarm.line


def test_what_an_untrained_network_votes_is_nobodys_best() -> None:
    votes = [0.78, 0.7, 0.5, 0.5, 0.55, 0.6, 0.7]  # easy data, of which few classes are trained at first
    intact = {"feature_std": [0.6] * 7, "effective_rank": [30.0] * 7}
    assert not seen(windows(**intact, knn_accuracy=votes))
    assert ("failure", "class structure lost") in seen(
        windows(**intact, knn_accuracy=[0.5, 0.6, 0.8, 0.8, 0.5, 0.5, 0.5])
    )


def test_what_is_collapsed_from_the_first_check_on_needs_no_better_past() -> None:
    flat = {"feature_std": [0.0019, 0.0018, 0.0019, 0.0018], "effective_rank": [20.0] * 4}
    assert seen(windows(**flat)) == [("failure", "total collapse")]
    assert not seen(windows(**{**flat, "feature_std": [0.008, 0.0079, 0.008, 0.0081]}))  # low, as some intact runs are
