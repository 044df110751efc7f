"""Errors, warnings, and why a value is missing: each a sentence for people, with a kind for programs beside it."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TypeVar

import torch

__all__ = [
    "ConfigurationError",
    "FeatureGeometryWarning",
    "Gap",
    "GapKind",
    "Note",
    "NoteKind",
    "SmallSampleWarning",
    "Undefined",
    "explain",
    "near_misses",
    "spelled",
]


class GapKind(StrEnum):
    """Why a signal has no value in a window."""

    UNDEFINED = "undefined"  # its formula has no value on these rows
    NO_ROWS = "no rows"  # no batch, no features, or every row was left out
    NO_INPUT = "no input"  # the batches bring no labels, views, targets or groups, or ones that don't fit
    NO_REFERENCE = "no reference"  # the window to compare with is missing, empty or of something else
    NO_EARLIER = "no earlier window"  # it compares with the window before this one, and this is the first
    NOT_PAIRED = "not paired"  # it compares samples with the window before, and nobody can tell which they are
    LOST = "lost"  # some rows of the window were lost: the run was resumed in the middle of it
    FAILED = "failed"  # an error in our code, or of the machine (out of memory)
    REPORTED = "reported"  # the same, and a warning has said so already
    OTHER = "other"  # written by a version that kept no kinds


class NoteKind(StrEnum):
    """What a reader of a window's numbers must know."""

    SMALL_SAMPLE = "small sample"  # too few rows for the dimensions
    REPEATS = "repeats"  # samples may have been counted twice
    ROWS = "rows"  # what was assumed of the rows, or left out
    EVIDENCE = "evidence"  # why rows are believed to be their samples' has changed during the run
    FROZEN = "frozen"  # no weight before the watched layer is trained: its features can't move
    NEAR_DUPLICATES = "near-duplicates"  # rows of several samples are the same up to rounding
    OTHER = "other"


S = TypeVar("S", bound="_Sentence")


class _Sentence(str):
    """A string with a machine-readable kind."""

    kind: Any

    def __new__(cls: type[S], kind: StrEnum, text: str) -> S:
        made = super().__new__(cls, text)
        made.kind = kind
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, str(self))


class Gap(_Sentence):
    """Why a signal has no value: the reason, and its :class:`GapKind` as ``kind``."""

    kind: GapKind


class Note(_Sentence):
    """What a reader must know: the sentence, and its :class:`NoteKind` as ``kind``."""

    kind: NoteKind


class ConfigurationError(ValueError):
    """A setting that cannot work. Raised at ``fit``'s start or at the first batch, with the line to paste."""


@contextmanager
def spelled(call: str) -> Iterator[None]:
    """Lines to paste as the engine in use writes them: ``FeatureGeometryMonitor(head=…)`` -> ``call + "head=…)"``."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("FeatureGeometryMonitor(", call)) from error.__cause__


class FeatureGeometryWarning(UserWarning):
    """An error in lightning-featgeo during a run. Training goes on, and the window is a gap."""


class SmallSampleWarning(FeatureGeometryWarning):
    """A window has so few rows for its dimensions that some of its numbers read low (or high)."""


class Undefined(ValueError):
    """A signal has no value on this data. The message is the reason; the monitor records it as a gap of that kind."""

    def __init__(self, reason: str, kind: GapKind = GapKind.UNDEFINED) -> None:
        super().__init__(reason)
        self.kind = kind


def printable(text: str) -> str:
    """A text without what drives a terminal or hides what stands behind it: such characters become spaces."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n" else c for c in text)


def explain(error: BaseException) -> str:
    """An error in words, and what helps against it."""
    text = f"{type(error).__name__}: {str(error) or 'no message'}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        text += ". To use less memory: a smaller neighbors=Neighbors(bank_size=…), fewer signals=, or a narrower layer="
    return text


def near_misses(name: str, known: Sequence[str]) -> str:
    """' Did you mean …?' with the closest known names, or the whole list."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else f" Known: {', '.join(known)}."
