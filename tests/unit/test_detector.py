"""Detectors on made-up windows: states, streaks, gaps, hysteresis, and what an alarm says."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from lightning_featgeo.alarms import (
    KINDS,
    ChangePoint,
    Decline,
    Detector,
    Drop,
    Finding,
    Gap,
    Past,
    Plateau,
    Rule,
    Threshold,
)
from lightning_featgeo.alarms.kinds import of_signal
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning
from lightning_featgeo.history.record import Record
from lightning_featgeo.watch.guard import Guard


def windows(
    stage: str = "val", layer: str | None = None, start: int = 0, **signals: list[float | None]
) -> list[Record]:
    length = len(next(iter(signals.values())))
    return [
        Record(
            start + i, stage, layer, float(start + i + 1), 10 * (start + i + 1),
            {"n_samples": 500.0, **{name: v for name, values in signals.items() if (v := values[i]) is not None}},
            gaps={name: "every row is the same" for name, values in signals.items() if values[i] is None},
        )
        for i in range(length)
    ]  # fmt: skip


def watch(*rules, patience: int = 2, **options) -> Detector:
    return Detector(of_signal("feature_std", list(rules), patience), **options)


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
    assert (detector.state, detector.why) == ("cannot tell", "0 checks so far, and it takes 2")
    for record in windows(feature_std=[0.8, 0.8, 0.8]):
        detector.observe(record)
    assert (detector.state, detector.why) == ("quiet", "")
    for record in windows(feature_std=[None, None], start=3):
        detector.observe(record)
    assert detector.state == "cannot tell"
    assert detector.why == "2 of the last 4 windows told nothing: every row is the same"
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
    assert detector.why == "4 of the last 4 windows told nothing: only 20 rows, fewer than 32"


def test_other_stages_and_layers_are_not_looked_at() -> None:
    detector = watch(Drop(0.5))
    alarms = detector.replay(
        [*windows("train", feature_std=[0.8, 0.1, 0.1]), *windows(layer="a", feature_std=[0.8, 0.1])]
    )
    assert not alarms
    assert not detector.checks


def test_a_gap_between_stages_compares_each_check_with_the_other_ones_latest() -> None:
    kind = of_signal("knn_accuracy", Gap("train_clean", 0.2), 1)
    detector = Detector(kind)
    assert detector.names == ["featgeo/val/knn_accuracy", "featgeo/train_clean/knn_accuracy"]
    val, train = windows(knn_accuracy=[0.9, 0.8, 0.6]), windows("train_clean", knn_accuracy=[0.9, 0.9, 0.9])
    alarms = detector.replay([record for pair in zip(train, val, strict=True) for record in pair])
    assert [alarm.epoch for alarm in alarms] == [3.0]


TOTAL = {"feature_std": [0.7, 0.8, 0.79, 0.79, 0.3, 0.3], "effective_rank": [30.0] * 6}
DIMENSIONAL = {"feature_std": [0.8] * 6, "effective_rank": [30.0, 30.0, 30.0, 12.0, 8.0, 4.0]}


def test_collapse_of_either_kind_is_seen_and_named() -> None:
    def seen(signals):
        return [alarm.title for alarm in Detector(KINDS["collapse"]).replay(windows(**signals))]

    assert seen(TOTAL) == ["total collapse"]
    assert seen(DIMENSIONAL) == ["dimensional collapse"]
    assert seen({"feature_std": [0.5, 0.6, 0.62], "effective_rank": [40.0, 22.0, 20.0]}) == []  # learning lowers ranks
    dead = {"feature_std": [0.5] * 5, "effective_rank": [9.0] * 5, "dead_fraction": [0.1, 0.1, 0.95, 0.95, 0.95]}
    assert seen(dead) == ["dead units"]


def test_what_one_signal_loses_while_another_gains_is_learning() -> None:
    ranks, std = [50.0, 48.0, 40.0, 30.0, 20.0, 12.0, 8.0], [0.2, 0.25, 0.3, 0.36, 0.42, 0.5, 0.55]
    kind = KINDS["collapse"]
    assert not Detector(kind).replay(windows(effective_rank=ranks, feature_std=std))
    assert Detector(kind).replay(windows(effective_rank=ranks, feature_std=[0.5] * 7))
    dip, gains = [0.6, 0.6, 0.6, 0.6, 0.3, 0.3, 0.6], [0.5, 0.5, 0.5, 0.5, 0.8, 0.9, 0.9]
    assert Detector(kind).replay(windows(effective_rank=[20.0] * 7, feature_std=dip))
    assert not Detector(kind).replay(windows(effective_rank=[20.0] * 7, feature_std=dip, knn_accuracy=gains))


def test_a_network_that_loses_its_ranks_value_is_still_judged_by_the_rest() -> None:
    detector = Detector(KINDS["collapse"])
    alarms = detector.replay(windows(feature_std=[0.8, 0.8, 0.0, 0.0], effective_rank=[20.0, 20.0, None, None]))
    assert [alarm.title for alarm in alarms] == ["total collapse"]


def test_converged_needs_all_its_signals_to_stand_still() -> None:
    still, moving = [0.2, 0.5, 0.7, *[0.72] * 9], [40.0 - 2 * i for i in range(12)]
    kind = KINDS["converged"]
    assert Detector(kind).replay(
        windows(feature_std=still, effective_rank=[40.0, 30.0, 21.0, *[20.0] * 9], cdnv=[1.0, 0.5, 0.2, *[0.1] * 9])
    )
    assert not Detector(kind).replay(windows(feature_std=still, effective_rank=moving))
    assert not Detector(kind).replay(windows(feature_std=still, effective_rank=[None] * 12))


def test_an_alarm_carries_what_a_reader_needs() -> None:
    signals = {
        **TOTAL,
        "knn_accuracy": [0.9, 0.92, 0.93, 0.94, 0.95, 0.95],
        "mean_resultant": [0.3, 0.2, 0.4, 0.4, 0.9, 0.9],
    }
    (alarm,) = Detector(KINDS["collapse"]).replay(windows(**signals))
    assert (alarm.kind, alarm.name, alarm.since_epoch, alarm.epoch) == ("collapse", "featgeo/val/feature_std", 5.0, 6.0)
    assert (alarm.old, alarm.new, alarm.old_epoch) == (0.8, 0.3, 2.0)
    assert alarm.agree == ["mean_resultant 0.2 → 0.9"]
    assert alarm.disagree == ["knn_accuracy 0.92 → 0.95", "effective_rank 30 → 30"]
    for part in (
        "total collapse",
        "the ready-made 'collapse'",
        "usual causes",
        "stop-gradient",
        "next:",
        "none from before it is left",
        "→",
    ):
        assert part in alarm.report
    assert "healthy" not in alarm.report


def test_several_rules_at_once_and_the_one_that_fired_is_named() -> None:
    (alarm,) = watch(Threshold(below=0.1), Drop(0.5), Decline(3, 0.05)).replay(
        windows(feature_std=[0.8, 0.75, 0.7, 0.35, 0.3])
    )
    assert alarm.title == "Drop of feature_std"
    assert alarm.rule == "Drop(fraction=0.5, below=None, within=None)"
    assert alarm.also == ["Decline of feature_std"]


@pytest.mark.parametrize("cut", range(1, 7))
def test_state_that_went_through_json_decides_the_same(cut: int) -> None:
    records = windows(**TOTAL)
    whole = Detector(KINDS["collapse"]).replay(records)
    first, second = Detector(KINDS["collapse"]), Detector(KINDS["collapse"])
    early = first.replay(records[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state == first.state
    assert [*early, *second.replay(records[cut:])] == whole


def test_a_passing_dip_of_another_signal_is_no_learning() -> None:
    std = {"feature_std": [0.8] * 4 + [0.5] * 4, "effective_rank": [20.0] * 8}
    dip = [0.6, 0.6, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6]
    (alarm,) = Detector(KINDS["collapse"]).replay(windows(**std, knn_accuracy=dip))
    assert alarm.epoch == 6.0


def test_a_gain_that_comes_while_the_rule_holds_is_learning_as_well() -> None:
    late = {"feature_std": [0.8, 0.8, 0.8, 0.6, 0.6], "knn_accuracy": [0.5, 0.5, 0.5, 0.5, 0.9]}
    assert not Detector(KINDS["collapse"]).replay(windows(**late, effective_rank=[20.0] * 5))


def test_patience_is_of_the_limit_itself_not_of_the_eased_one() -> None:
    assert not watch(Drop(0.5)).replay(windows(feature_std=[0.8, 0.39, 0.46, 0.46]))
    assert not watch(Threshold(below=0.02)).replay(windows(feature_std=[0.8, 0.019, 0.0245]))


def test_converged_lets_go_as_soon_as_one_signal_moves() -> None:
    std, rank = [0.2, 0.5, 0.7, *[0.72] * 13], [40.0, 30.0, 21.0, *[20.0] * 9, 25.0, 30.0, 35.0, 40.0]
    detector = Detector(KINDS["converged"])
    assert len(detector.replay(windows(feature_std=std, effective_rank=rank))) == 1
    assert detector.state == "quiet"


def test_what_moves_disagrees_with_converged() -> None:
    std, rank = [0.2, 0.5, 0.7, *[0.72] * 7], [40.0, 30.0, 21.0, *[20.0] * 7]
    knn = [0.1 * i for i in range(1, 11)]
    alarm = Detector(KINDS["converged"]).replay(windows(feature_std=std, effective_rank=rank, knn_accuracy=knn))[0]
    assert [text.split()[0] for text in alarm.agree] == ["feature_std"]
    assert [text.split()[0] for text in alarm.disagree] == ["knn_accuracy"]


@pytest.mark.parametrize("rule", [ChangePoint(), Plateau(50), Decline(4)])
def test_it_is_not_quiet_before_its_rules_could_judge(rule) -> None:
    detector = watch(rule)
    detector.replay(windows(feature_std=[0.8, 0.8, 0.8]))
    assert detector.state == "cannot tell"
    assert f"it takes {rule.least}" in detector.why


def test_a_gap_that_was_never_heard_of_can_not_tell() -> None:
    detector = Detector(of_signal("knn_accuracy", Gap("train")))
    detector.replay(windows(knn_accuracy=[0.9, 0.8, 0.8]))
    assert detector.state == "cannot tell"
    assert "no window of 'train' has closed yet" in detector.why


def test_windows_that_close_together_are_compared_with_each_other_in_any_order() -> None:
    val, train = windows(knn_accuracy=[0.9, 0.8, 0.6]), windows("train_clean", knn_accuracy=[0.1, 0.1, 0.9])
    detector = Detector(of_signal("knn_accuracy", Gap("train_clean", 0.2), 1))
    assert [a.epoch for a in detector.replay([r for pair in zip(val, train, strict=True) for r in pair])] == [3.0]


def test_a_run_that_goes_on_decides_also_where_a_signal_has_just_become_a_gap() -> None:
    first = Detector(KINDS["collapse"])
    first.replay(windows(feature_std=[0.8] * 6, effective_rank=[30.0, 30.0, 30.0, 12.0, 8.0, 7.0]))
    second = Detector(KINDS["collapse"])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.raised.clear()
    assert not second.replay(windows(feature_std=[0.8], effective_rank=[None], start=6))
    assert second.replay(windows(feature_std=[0.8], effective_rank=[7.0], start=7))


@dataclass(frozen=True)
class Numpy(Rule):
    def check(self, past: Past) -> Finding | None:
        return Finding("is", "none", old=int(np.int64(0)), level=float(np.float64(1.0)))


class Plain(Rule):
    def __init__(self, limit: float) -> None:
        self.limit = limit

    def check(self, past: Past) -> Finding | None:
        return Finding("is low", f"{self.limit}") if past.values[-1] < self.limit else None


def test_rules_of_the_users_own() -> None:
    (alarm,) = watch(Plain(0.5)).replay(windows(feature_std=[0.8, 0.3, 0.3]))
    assert alarm.rule == "Plain(limit=0.5)"  # no address: the same in every process
    (alarm,) = watch(Numpy()).replay(windows(feature_std=[0.8, 0.3, 0.3]))
    assert type(alarm.level) is float


def test_a_rule_that_fails_costs_nobody_else_anything() -> None:
    class Broken(Rule):
        def check(self, past: Past) -> Finding | None:
            raise RuntimeError("no")

    detector, said = watch(Broken(), Drop(0.5)), []
    guard = Guard("warn")
    with pytest.warns(FeatureGeometryWarning, match="Broken of feature_std failed"):
        said = [detector.observe(record, guard) for record in windows(feature_std=[0.8, 0.3, 0.3])]
    assert [alarm is not None for alarm in said] == [False, False, True]
    alone = watch(Broken())
    for record in windows(feature_std=[0.8, 0.3]):
        alone.observe(record, guard)
    assert alone.state == "cannot tell"
    assert "failed with" in alone.why


def test_wrong_signals_and_rules_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'feature_std'"):
        of_signal("feature_sdt", Drop())
    with pytest.raises(ConfigurationError, match="has none"):
        of_signal("id_two_nn", Drop())
    with pytest.raises(ConfigurationError, match="no rule"):
        of_signal("feature_std", [])
