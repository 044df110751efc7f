"""Values of a file or checkpoint that may come from anywhere: each is what it should be, or an exception says it isn't.

They raise what ``History.load`` takes for something that can't be read: TypeError, ValueError, KeyError, OverflowError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def mapping(given: Any) -> dict[str, Any]:
    """Names and what they stand for."""
    if not isinstance(given, Mapping):
        raise TypeError(f"expected an object, got {type(given).__name__}")
    return dict(given)


def table(given: Any, check: Callable[[Any], T]) -> dict[str, T]:
    """Names, each with a value of one kind."""
    return {name_of(name): check(value) for name, value in mapping(given).items()}


def items(given: Any) -> list[Any]:
    """Several."""
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"expected a list, got {type(given).__name__}")
    return list(given)


def name_of(given: Any) -> str:
    """A text that can be written."""
    if not isinstance(given, str):
        raise TypeError(f"expected a name, got {type(given).__name__}")
    return given.encode("utf-8", "replace").decode()


def number(given: Any) -> float:
    """A number, or infinity."""
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(f"expected a number, got {given!r}")
    return float(given)


def finite(given: Any) -> float:
    """A number."""
    found = number(given)
    if not math.isfinite(found):
        raise ValueError(f"expected a finite number, got {given!r}")
    return found


def whole(given: Any) -> int:
    """A whole number that 64 bits hold."""
    found = int(finite(given))
    if abs(found) >= 2**63:
        raise OverflowError(f"{given!r} is too large")
    return found


def optional(given: Any, check: Callable[[Any], T]) -> T | None:
    """None, or what the check says."""
    return None if given is None else check(given)


def plain(given: Any) -> Any:
    """What can be written as JSON."""
    json.dumps(given, allow_nan=False)
    return given


def readable(given: Iterable[Any], check: Callable[[Any], T]) -> tuple[list[T], int]:
    """Those that are what they should be, and how many are not."""
    found: list[T] = []
    bad = 0
    for one in given:
        try:
            found.append(check(one))
        except Exception:  # damage raises what it likes: a tensor, a NaN, a missing key
            bad += 1
    return found, bad
