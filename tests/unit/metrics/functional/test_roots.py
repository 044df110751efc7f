"""Roots of functions of every shape, and in how many steps."""

import math
from collections.abc import Callable

import pytest

from lightning_featgeo.metrics.functional.roots import root

SHAPES: dict[str, tuple[Callable[[float], float], float]] = {
    "line": (lambda x: x - 0.3, 0.3),
    "exponential": (lambda x: math.exp(20 * x) - math.exp(6), 0.3),
    "flat and steep": (lambda x: (x - 0.3) ** 9, 0.3),
    "step": (lambda x: -1.0 if x < 0.3 else 1e9, 0.3),
    "almost zero on one side": (lambda x: -1e9 if x < 0.3 else 1e-300, 0.3),
    "zero at once": (lambda x: x - 0.5, 0.5),
    "at an end": (lambda x: x - 1.0, 1.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_root_is_found_in_a_bounded_number_of_steps(shape: str) -> None:
    function, expected = SHAPES[shape]
    asked = []

    def counted(x: float) -> float:
        asked.append(x)
        return function(x)

    found = root(counted, 0.0, 1.0, 1e-13)
    if shape == "flat and steep":  # zero to float64 in a wide neighbourhood
        assert abs(function(found)) < 1e-60
    else:
        assert found == pytest.approx(expected, abs=3e-13)
    assert len(asked) <= 2 + 4 * 44  # a halving in four steps at the worst
    if shape in ("line", "exponential", "zero at once"):
        assert len(asked) < 20


def test_what_is_not_a_number_ends() -> None:
    asked = []

    def function(x: float) -> float:
        asked.append(x)
        return math.nan

    root(function, 0.0, 1.0, 1e-13)
    assert len(asked) < 60
