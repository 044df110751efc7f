"""The kinds of alarm by name: collapse of either kind, convergence, what is learning, rules of the user's own."""

from dataclasses import dataclass

import numpy as np
import pytest

from lightning_featgeo.alarms import (
    KINDS,
    Decline,
    Detector,
    Drop,
    Finding,
    Past,
    Rule,
    Threshold,
)
from lightning_featgeo.alarms.kinds import of_signal
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning
from lightning_featgeo.watch.guard import Guard
from tests._helpers.detectors import watch, windows

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
        "no checkpoint from before it exists",
        "→",
    ):
        assert part in alarm.report
    assert "healthy" not in alarm.report


def test_several_rules_at_once_and_the_one_that_fired_is_named() -> None:
    (alarm,) = watch(Threshold(below=0.1), Drop(0.5), Decline(3, 0.05)).replay(
        windows(feature_std=[0.8, 0.75, 0.7, 0.35, 0.3])
    )
    assert alarm.title == "Drop of feature_std"
    assert alarm.rule == "Drop(fraction=0.5, below=None, within=None, to=None)"
    assert alarm.also == ["Decline of feature_std"]


def test_a_passing_dip_of_another_signal_is_no_learning() -> None:
    std = {"feature_std": [0.8] * 4 + [0.5] * 4, "effective_rank": [20.0] * 8}
    dip = [0.6, 0.6, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6]
    (alarm,) = Detector(KINDS["collapse"]).replay(windows(**std, knn_accuracy=dip))
    assert alarm.epoch == 6.0


def test_a_gain_that_comes_while_the_rule_holds_is_learning_as_well() -> None:
    late = {"feature_std": [0.8, 0.8, 0.8, 0.6, 0.6], "knn_accuracy": [0.5, 0.5, 0.5, 0.5, 0.9]}
    assert not Detector(KINDS["collapse"]).replay(windows(**late, effective_rank=[20.0] * 5))


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
