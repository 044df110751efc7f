"""What a detector makes of windows: checks and patience, gaps, stages, state that went through JSON."""

import json

import pytest

from lightning_featgeo.alarms import (
    KINDS,
    ChangePoint,
    Decline,
    Detector,
    Drop,
    GeneralizationGap,
    Plateau,
    Threshold,
)
from lightning_featgeo.alarms.checks import Check, thinned
from lightning_featgeo.alarms.kinds import of_signal
from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.record import Record
from tests._helpers.detectors import watch, windows


def test_a_rule_must_hold_for_as_many_checks_as_patience_says_and_an_alarm_is_raised_once() -> None:
    falls = windows(feature_std=[0.8, 0.3, 0.8, 0.3, 0.3, 0.3, 0.3])
    assert [a.epoch for a in watch(Drop(0.5)).replay(falls)] == [5.0]
    assert [a.epoch for a in watch(Drop(0.5), patience=1).replay(falls)] == [2.0, 4.0]


def test_gaps_neither_end_a_streak_nor_lengthen_it() -> None:
    alarms = watch(Drop(0.5)).replay(windows(feature_std=[0.8, 0.3, None, 0.3]))
    assert [(a.since_epoch, a.epoch, a.checks) for a in alarms] == [(2.0, 4.0, 2)]


def test_a_gap_of_one_signal_among_others_is_no_check_of_it() -> None:
    signals = {"feature_std": [0.8, 0.8, 0.5, None, 0.5], "effective_rank": [20.0] * 5}
    (alarm,) = Detector(KINDS["collapse"]).replay(windows(**signals))
    assert (alarm.since_epoch, alarm.epoch) == (3.0, 5.0)


def test_a_decline_began_where_it_began_to_fall() -> None:
    falls = [0.8, 0.8, 0.78, 0.76, 0.74, 0.72, 0.7]
    (alarm,) = watch(Decline(4, 0.05), patience=1).replay(windows(feature_std=falls))
    assert (alarm.old_epoch, alarm.since_epoch, alarm.epoch) == (2.0, 3.0, 6.0)


def test_warm_up_is_nobodys_best() -> None:
    assert not watch(Drop(0.5), warmup=1).replay(windows(feature_std=[0.9, 0.4, 0.4, 0.4]))
    assert watch(Drop(0.5)).replay(windows(feature_std=[0.9, 0.4, 0.4, 0.4]))


def test_near_the_limit_it_does_not_flicker() -> None:
    near = [0.8, *[0.39, 0.42] * 4]  # around half of 0.8
    assert len(watch(Drop(0.5), patience=1).replay(windows(feature_std=near))) == 1
    assert len(watch(Drop(0.5), patience=1, hysteresis=0.0).replay(windows(feature_std=near))) == 4


def test_it_says_when_it_cannot_tell() -> None:
    detector = watch(Drop(0.5))
    assert (detector.state, detector.why) == ("cannot tell", "0 checks so far; 2 are needed")
    for record in windows(feature_std=[0.8, 0.8, 0.8]):
        detector.observe(record)
    assert (detector.state, detector.why) == ("quiet", "")
    for record in windows(feature_std=[None, None], start=3):
        detector.observe(record)
    assert detector.state == "cannot tell"
    assert detector.why == "2 of the last 4 windows were no checks: every row is the same"
    for record in windows(feature_std=[0.3, 0.3], start=5):
        detector.observe(record)
    assert detector.state == "alarm"
    for record in windows(feature_std=[0.7], start=7):
        detector.observe(record)
    assert detector.state == "quiet"


def test_windows_of_few_rows_are_no_checks() -> None:
    detector = watch(Drop(0.5))
    for record in windows(n_samples=[20.0] * 4, feature_std=[0.8, 0.3, 0.3, 0.3]):
        assert detector.observe(record) is None
    assert detector.why == "4 of the last 4 windows were no checks: only 20 rows, fewer than 32"


def test_other_stages_and_layers_are_not_looked_at() -> None:
    detector = watch(Drop(0.5))
    alarms = detector.replay(
        [*windows("train", feature_std=[0.8, 0.1, 0.1]), *windows(layer="a", feature_std=[0.8, 0.1])]
    )
    assert not alarms
    assert not detector.checks


def test_a_gap_between_stages_compares_each_check_with_the_other_ones_latest() -> None:
    kind = of_signal("knn_accuracy", GeneralizationGap("train_clean", 0.2), 1)
    detector = Detector(kind)
    assert detector.names == ["featgeo/val/knn_accuracy", "featgeo/train_clean/knn_accuracy"]
    val, train = windows(knn_accuracy=[0.9, 0.8, 0.6]), windows("train_clean", knn_accuracy=[0.9, 0.9, 0.9])
    alarms = detector.replay([record for pair in zip(train, val, strict=True) for record in pair])
    assert [alarm.epoch for alarm in alarms] == [3.0]


@pytest.mark.parametrize("cut", range(1, 7))
def test_state_that_went_through_json_decides_the_same(cut: int) -> None:
    records = windows(feature_std=[0.7, 0.8, 0.79, 0.79, 0.3, 0.3], effective_rank=[30.0] * 6)
    whole = Detector(KINDS["collapse"]).replay(records)
    first, second = Detector(KINDS["collapse"]), Detector(KINDS["collapse"])
    early = first.replay(records[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state == first.state
    assert [*early, *second.replay(records[cut:])] == whole


def test_patience_is_of_the_limit_itself_not_of_the_eased_one() -> None:
    assert not watch(Drop(0.5)).replay(windows(feature_std=[0.8, 0.39, 0.46, 0.46]))
    assert not watch(Threshold(below=0.02)).replay(windows(feature_std=[0.8, 0.019, 0.0245]))


@pytest.mark.parametrize("rule", [ChangePoint(), Plateau(50), Decline(4)])
def test_it_is_not_quiet_before_its_rules_could_judge(rule) -> None:
    detector = watch(rule)
    detector.replay(windows(feature_std=[0.8, 0.8, 0.8]))
    assert detector.state == "cannot tell"
    assert f"; {rule.least} are needed" in detector.why


def test_a_gap_that_was_never_heard_of_can_not_tell() -> None:
    detector = Detector(of_signal("knn_accuracy", GeneralizationGap("train")))
    detector.replay(windows(knn_accuracy=[0.9, 0.8, 0.8]))
    assert detector.state == "cannot tell"
    assert "no window of 'train' has closed yet" in detector.why


def test_windows_that_close_together_are_compared_with_each_other_in_any_order() -> None:
    val, train = windows(knn_accuracy=[0.9, 0.8, 0.6]), windows("train_clean", knn_accuracy=[0.1, 0.1, 0.9])
    detector = Detector(of_signal("knn_accuracy", GeneralizationGap("train_clean", 0.2), 1))
    assert [a.epoch for a in detector.replay([r for pair in zip(val, train, strict=True) for r in pair])] == [3.0]


def test_a_run_that_goes_on_decides_also_where_a_signal_has_just_become_a_gap() -> None:
    first = Detector(KINDS["collapse"])
    first.replay(windows(feature_std=[0.8] * 6, effective_rank=[30.0, 30.0, 30.0, 12.0, 8.0, 7.0]))
    second = Detector(KINDS["collapse"])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.raised.clear()
    assert not second.replay(windows(feature_std=[0.8], effective_rank=[None], start=6))
    assert second.replay(windows(feature_std=[0.8], effective_rank=[7.0], start=7))


def test_a_first_window_that_has_none_before_it_is_no_failure() -> None:
    detector = Detector(of_signal("neighbor_churn", Threshold(above=0.9), 1))

    def twice(gap: Gap) -> None:
        for epoch in (1.0, 2.0):
            detector.observe(Record(0, "val", None, epoch, 10, {"n_samples": 500.0}, gaps={"neighbor_churn": gap}))

    twice(Gap(GapKind.NO_EARLIER, "there is no window before this one"))
    assert detector.recent == []
    twice(Gap(GapKind.FAILED, "out of memory"))
    assert detector.blind == "2 of the last 2 windows were no checks: out of memory"


def test_thinning_goes_on_for_a_month_and_keeps_the_best() -> None:
    checks: list[Check] = []
    for i in range(5000):
        checks = [*thinned(checks), Check(float(i), i, {"feature_std": 0.9 if i == 7 else 0.5}, {})]
    assert len(checks) <= 512 + 1
    assert [check.epoch for check in checks][-256:] == [float(i) for i in range(4744, 5000)]
    assert [check.epoch for check in checks if check.values["feature_std"] == 0.9] == [7.0]


def test_checks_are_thinned_and_what_was_best_stays() -> None:
    """A run of a month must not pay more for each window than one of a day, nor forget what it has lost."""
    detector = Detector(of_signal("feature_std", Drop(0.5), 1))
    best = {"feature_std": 0.9, "n_samples": 500.0}
    usual = {"feature_std": 0.5, "n_samples": 500.0}
    for i in range(900):
        assert detector.observe(Record(i, "val", None, float(i), i, best if i == 7 else usual)) is None
    assert len(detector.checks) <= 512 + 1
    assert [check.epoch for check in detector.checks][-256:] == [float(i) for i in range(644, 900)]
    lost = usual | {"feature_std": 0.4}
    alarm = detector.observe(Record(900, "val", None, 900.0, 900, lost))
    assert alarm is not None
    assert (alarm.old, alarm.old_epoch) == (0.9, 7.0)
