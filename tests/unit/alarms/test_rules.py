"""Rules as pure functions of a signal's past: when each fires, when not, and what it says."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_featgeo.alarms import ChangePoint, Decline, Drop, GeneralizationGap, Past, Peak, Plateau, Rule, Threshold
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.metrics.catalog import CATALOG

STD, RANK, NC1, DEAD, ID = (
    CATALOG[name] for name in ("feature_std", "effective_rank", "nc1", "dead_fraction", "id_two_nn")
)
FLAT = [0.80, 0.81, 0.80, 0.79, 0.80, 0.81, 0.80, 0.79]


@pytest.mark.parametrize(
    ("rule", "signal", "values", "fires"),
    [
        (Drop(0.5), STD, [0.8], False),
        (Drop(0.5), STD, [0.8, 0.41], False),
        (Drop(0.5), STD, [0.5, 0.8, 0.39], True),
        (Drop(0.5), STD, [0.8, 0.9], False),
        (Drop(0.5), RANK, [21.0, 11.5], False),  # the worst rank is 1: half of the way is 11
        (Drop(0.5), RANK, [21.0, 10.5], True),
        (Drop(0.5), DEAD, [0.0, 0.3], False),  # a share of units towards 1, not of its tiny best
        (Drop(0.5), DEAD, [0.1, 0.56], True),
        (Drop(0.5), NC1, [0.2, 0.39], False),
        (Drop(0.5), NC1, [0.2, 0.41], True),  # more than doubled
        (Drop(0.5), NC1, [0.0, 0.1], True),
        (Drop(0.5), NC1, [0.0, 0.0], False),
        (Drop(), STD, [0.8, 0.70], False),
        (Drop(), STD, [0.8, 0.67], True),  # the catalogue's 15 %
        (Drop(0.5, to=5.0), RANK, [21.0, 6.0], False),
        (Drop(0.5, to=5.0), RANK, [21.0, 5.0], True),
        (Drop(0.5, to=1.0), RANK, [21.0, 2.0], False),  # not at the very end of its range
        (Drop(0.5, to=0.9), DEAD, [0.1, 0.8], False),
        (Drop(0.5, to=0.9), DEAD, [0.1, 0.95], True),
        (Drop(0.05, below=0.5), STD, [0.8, 0.6], False),
        (Drop(0.05, below=0.5), STD, [0.45, 0.42], True),
        (Drop(0.05, below=0.5), STD, [0.6, 0.42], False),
        (Drop(0.05, below=0.5), DEAD, [0.1, 0.6], False),
        (Drop(0.05, below=0.5), DEAD, [0.6, 0.8], True),
        (Drop(0.3, within=2), STD, [0.9, 0.6, 0.55, 0.5], False),
        (Drop(0.3, within=3), STD, [0.9, 0.6, 0.55, 0.5], True),
        (Decline(3, 0.05), STD, [0.8, 0.79, 0.78, 0.75], True),
        (Decline(3, 0.05), STD, [0.79, 0.80, 0.78, 0.75], False),  # two falls only
        (Decline(3, 0.05), STD, [0.8, 0.799, 0.798, 0.797], False),  # steady, and next to nothing
        (Decline(3, 0.05), STD, [0.8, 0.79, 0.78, 0.75, 0.76], False),
        (Decline(3, 0.2), NC1, [0.2, 0.22, 0.24, 0.26], True),
        (Peak(2, 0.1), STD, [0.5, 0.8, 0.7, 0.7], True),
        (Peak(2, 0.1), STD, [0.5, 0.8, 0.79, 0.7], False),  # one of the two came near it
        (Peak(2, 0.1), STD, [0.5, 0.8, 0.7], False),
        (Peak(2, 0.1), STD, [0.5, 0.8, 0.75, 0.74], False),
        (Plateau(3, 0.05), STD, [0.2, 0.6, 0.80, 0.805, 0.80], True),
        (Plateau(3, 0.05), STD, [0.2, 0.5, 0.6, 0.7, 0.8], False),
        (Plateau(3, 0.05), STD, [0.80, 0.805, 0.80], False),  # nothing to compare with yet
        (Plateau(3, 0.0), STD, [0.5, 0.5, 0.5], True),
        (Plateau(4, 0.1), STD, [0.1, *FLAT], True),  # noise is no movement
        (Threshold(below=0.1), ID, [0.2], False),
        (Threshold(below=0.1), ID, [0.05], True),
        (Threshold(above=3.0), ID, [4.0], True),
        (Threshold(), STD, [0.5, 0.01], True),
        (Threshold(), STD, [0.5, 0.05], False),
        (Threshold(), DEAD, [0.1, 0.95], True),
        (ChangePoint(2, 6), STD, [*FLAT, 0.5, 0.5], True),
        (ChangePoint(2, 6), STD, [*FLAT, 0.5, 0.8], False),  # one of the two is back
        (ChangePoint(2, 6), STD, [*FLAT, 0.99, 0.99], False),  # for the better
        (ChangePoint(2, 6), ID, [*FLAT, 0.99, 0.99], True),  # there is no better
        (ChangePoint(2, 6), STD, [0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45], False),  # a trend that goes on
        (ChangePoint(2, 6), STD, [0.8, 0.5, 0.5], False),
    ],
)
def test_a_rule_fires_where_it_should_and_says_why(rule: Rule, signal, values: list[float], fires: bool) -> None:
    found = rule.check(Past(signal, values))
    assert (found is not None) == fires
    if found:
        assert found.limit
        assert found.text
        assert 0 <= found.old < len(values)


@pytest.mark.parametrize(("there", "here", "fires"), [(0.9, 0.6, True), (0.9, 0.8, False), (None, 0.1, False)])
def test_a_gap_to_another_stage(there: float | None, here: float, fires: bool) -> None:
    found = GeneralizationGap("train", 0.3).check(Past(STD, [here], other=[there]))
    assert (found is not None) == fires
    assert found is None or "in train" in found.text


def test_changes_smaller_than_the_noise_are_none() -> None:
    jumpy = [0.8, 0.5, 0.85, 0.5, 0.8, 0.55, 0.9, 0.6]
    assert Drop(0.2).check(Past(STD, jumpy)) is None
    assert Drop(0.2).check(Past(STD, jumpy, min_effect=0.0)) is not None
    assert Drop(0.2).check(Past(STD, [0.8, 0.6], [0.1, 0.1])) is None  # standard errors of 0.1 each
    assert Drop(0.2).check(Past(STD, [0.8, 0.6], [0.01, 0.01])) is not None


def test_noise_is_that_of_the_steps_whatever_the_trend_and_one_jump() -> None:
    random.seed(0)
    steps = [random.gauss(0.1, 0.01) for _ in range(8)]
    values = list(itertools.accumulate(steps, initial=0.0))
    calm = Past(STD, values).noise(0)
    assert 0.003 < calm < 0.03
    jumped = [*values[:5], *(value + 5 for value in values[5:])]
    assert Past(STD, jumped).noise(0) < 0.04


def test_a_gap_within_the_noise_is_none() -> None:
    assert GeneralizationGap("train", 0.1).check(Past(STD, [0.6], [0.3], other=[0.9])) is None
    assert GeneralizationGap("train", 0.1).check(Past(STD, [0.6], [0.01], other=[0.9])) is not None


def test_what_lies_before_the_start_is_nobodys_best_and_no_decline() -> None:
    falling = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    whole, late = (Decline(3, 0.05).check(Past(STD, falling, start=start)) for start in (0, 2))
    assert (whole.old, whole.began, late.old, late.began) == (0, 1, 2, 3)
    assert Decline(3, 0.05).check(Past(STD, falling, start=3)) is None
    assert Drop(0.5).check(Past(STD, falling)) is not None
    assert Drop(0.5).check(Past(STD, falling, start=2)) is None


def test_once_it_holds_the_limit_is_eased() -> None:
    assert Threshold(below=0.1).check(Past(STD, [0.12])) is None
    assert Threshold(below=0.1).check(Past(STD, [0.12], ease=0.8)) is not None
    assert Threshold(above=10.0).check(Past(ID, [9.0], ease=0.8)) is not None
    near = [0.8, 0.8 * (1 - 0.45)]
    assert Drop(0.5).check(Past(STD, near)) is None
    assert Drop(0.5).check(Past(STD, near, ease=0.8)) is not None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Drop(0.0), "between 0 and 1"),
        (lambda: Drop(1.5), "between 0 and 1"),
        (lambda: Drop(0.5, within=0), "at least 1"),
        (lambda: Decline(1), "at least 2 checks"),
        (lambda: Peak(0), "at least 1 check"),
        (lambda: GeneralizationGap(fraction=2.0), "between 0 and 1"),
        (lambda: Plateau(2), "at least 3 checks"),
        (lambda: ChangePoint(before=2), "6 before"),
        (lambda: Threshold().refuse(ID), "needs a limit"),
        (lambda: Threshold(below=math.nan), "below must be less"),
        (lambda: Threshold(below=2.0, above=1.0), "below must be less"),
        (lambda: Drop().refuse(ID), "has none; use Threshold"),
        (lambda: GeneralizationGap().refuse(CATALOG["hubness"]), "no worst value"),
        (lambda: Decline().refuse(CATALOG["kernel_mmd"]), "no worst value"),
    ],
)
def test_wrong_rules_are_refused(make, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


RULES = [Drop(), Drop(0.05, below=0.5), Decline(), Peak(), Plateau(), Threshold(), ChangePoint(), GeneralizationGap()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.sampled_from([row for row in CATALOG.values() if row.direction != "none" and row.bounds == (0.0, 1.0)]),
    st.sampled_from(RULES),
    st.sampled_from([0.7, 1.0]),
)
def test_any_past_is_judged_without_an_error_and_the_same_way_twice(values, signal, rule: Rule, ease: float) -> None:
    past = Past(signal, values, [0.01] * len(values), [0.5] * len(values), ease)
    if signal.limits.bound is None and isinstance(rule, Threshold):
        return
    found = rule.check(past)
    assert found == rule.check(past)
    if found is not None and found.level is not None:
        assert math.isfinite(found.level)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=20), st.floats(0.05, 0.9))
def test_a_drop_does_not_depend_on_the_unit_of_a_signal_that_is_worst_at_zero(values, fraction: float) -> None:
    signal = CATALOG["coding_rate"]
    plain = Drop(fraction).check(Past(signal, values, min_effect=0.0))
    scaled = Drop(fraction).check(Past(signal, [1024 * v for v in values], min_effect=0.0))  # a power of two: exact
    assert (plain is None) == (scaled is None)


def test_noise_is_known_also_where_the_best_came_first() -> None:
    random.seed(1)
    jumpy = [0.9, *(random.uniform(0.3, 0.85) for _ in range(20)), 0.55]
    assert Drop(0.2).check(Past(STD, jumpy)) is None
    assert Drop(0.2).check(Past(STD, jumpy, min_effect=0.0)) is not None


@pytest.mark.parametrize("values", [[0.0] * 6 + [5e-324] * 2, [1e308, -1e308] * 6, [1e-320] * 12, [0.0] * 12])
def test_extreme_values_are_judged(values: list[float]) -> None:
    for rule in (*RULES, ChangePoint(), Plateau(3)):
        if not isinstance(rule, Threshold):
            rule.check(Past(ID if isinstance(rule, (ChangePoint, Plateau)) else STD, values))


def test_a_rule_made_from_one_of_ours_keeps_its_limits() -> None:
    class Mine(Drop):
        pass

    assert Mine().check(Past(STD, [0.8, 0.67])) == Drop().check(Past(STD, [0.8, 0.67]))
    assert Mine().check(Past(STD, [0.8, 0.70])) is None


def test_bounds_of_every_signal_can_be_read_from_its_range() -> None:
    for row in CATALOG.values():
        low, high = row.bounds
        assert low < high, row.name
