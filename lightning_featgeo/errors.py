"""The errors and warnings that the whole package shares, and how they are put in words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch

__all__ = [
    "ConfigurationError",
    "FeatureGeometryWarning",
    "SmallSampleWarning",
    "Undefined",
    "explain",
    "near_misses",
]


class ConfigurationError(ValueError):
    """A setting that cannot work. Raised at ``fit``'s start or at the first batch, with the line to paste."""


class FeatureGeometryWarning(UserWarning):
    """Something of ours went wrong during a run; training goes on and the window is a gap."""


class SmallSampleWarning(FeatureGeometryWarning):
    """A window has so few rows for its dimensions that some of its numbers read low (or high)."""


class Undefined(ValueError):
    """A signal has no value on this data. The message is the reason; the monitor records it as a gap."""


def explain(error: BaseException) -> str:
    """An error in words, and what helps against it."""
    text = f"{type(error).__name__}: {str(error) or 'no message'}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        text += ". A smaller bank_size=, fewer signals= or a narrower layer= take less memory"
    return text


def near_misses(name: str, known: Sequence[str]) -> str:
    """' Did you mean …?' with the closest known names, or the whole list."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else f" Known: {', '.join(known)}."
