"""Our errors never end a run: each becomes one warning and a gap, unless hiding it would do more harm."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import TracebackType

import torch

from lightning_featgeo.distributed.ranks import BrokenGroup
from lightning_featgeo.errors import (
    ConfigurationError,
    FeatureGeometryWarning,
    Gap,
    GapKind,
    NoteKind,
    SmallSampleWarning,
    explain,
    printable,
)
from lightning_featgeo.history.record import Record

# every first window has the first; the others were said already: in what is printed at the start, and as a warning
_SILENT = (GapKind.NO_EARLIER, GapKind.NOT_PAIRED, GapKind.REPORTED)


class Guard:
    """Catches our errors and says each once.

    Args:
        on_error: "warn", or "raise" for tests.
        tells: whether this process warns of gaps; others have the same ones.
    """

    def __init__(self, on_error: str, tells: bool = True) -> None:
        self.on_error, self.tells = on_error, tells
        self._said: set[str] = set()

    def around(
        self,
        doing: str,
        fail: Callable[[Gap], None] = lambda gap: None,
        refuses: bool = False,
        lost: str = "this window is a gap",
    ) -> _Around:
        """Whatever goes wrong inside is a gap for ``fail``, and training goes on. Nothing inside is differentiated.

        Args:
            doing: what, for the message.
            fail: takes the gap; marks what is lost.
            refuses: a wrong setting still ends the run: nothing was trained yet.
            lost: what the failure means, for the message.
        """
        return _Around(self, doing, fail, refuses, lost)

    def warn(self, message: str, key: str, kind: type[FeatureGeometryWarning] = FeatureGeometryWarning) -> None:
        """Say something once."""
        if key not in self._said:
            self._said.add(key)
            caller = sys._getframe(1)
            warnings.warn_explicit(  # with a memory of its own: Python's would swallow it in the next run
                f"featgeo: {printable(message)} (shown only once)", kind, caller.f_code.co_filename, caller.f_lineno,
                module=str(caller.f_globals.get("__name__")), registry={},
            )  # fmt: skip

    def warn_of(self, record: Record) -> None:
        """Say what a closed window lacks, and what its reader must know."""
        if not self.tells:
            return
        prefix = record.prefix
        for signal, gap in record.gaps.items():
            if gap.kind not in _SILENT:
                self.warn(f"{prefix}{signal} has no value: {gap}", f"gap {prefix} {gap}")
        dropped = record.counts.get("nonfinite")
        if dropped:
            self.warn(f"{dropped} rows of {record.stage} had NaN or Inf and were left out", f"nan {record.stage}")
        for note in record.notes:
            if note.kind in (NoteKind.ROWS, NoteKind.FROZEN):  # said when the run began, or meant so: the history's
                continue
            kind = SmallSampleWarning if note.kind is NoteKind.SMALL_SAMPLE else FeatureGeometryWarning
            self.warn(f"{prefix.rstrip('/')}: {note}", f"note {prefix} {note.kind}", kind)


class _Around:
    """The context that ``Guard.around`` gives: a class, as a generator costs a training step three times as much."""

    __slots__ = ("doing", "fail", "grad", "guard", "lost", "refuses")

    def __init__(self, guard: Guard, doing: str, fail: Callable[[Gap], None], refuses: bool, lost: str) -> None:
        self.guard, self.doing, self.fail, self.refuses, self.lost = guard, doing, fail, refuses, lost
        self.grad = True

    def __enter__(self) -> None:
        self.grad = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        torch.set_grad_enabled(self.grad)
        if error is None:
            return False
        if isinstance(error, BrokenGroup) or not isinstance(error, Exception):
            return False  # a process has died: the run can't go on, and would hang if we hid it
        setting = isinstance(error, ConfigurationError)
        if self.guard.on_error == "raise" or (self.refuses and setting):
            return False
        reason = f"{self.doing}: {error}" if setting else f"{self.doing} failed with {explain(error)}"
        self.fail(Gap(GapKind.REPORTED, reason))
        self.guard.warn(f"{reason}. Training goes on; {self.lost}", f"{self.doing} {type(error).__name__}")
        return True
