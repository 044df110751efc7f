"""What windows cost of the time between them, measured: said once, where it is much, with what makes it less.

Nothing is changed because of it: a curve must not depend on how fast a machine is, or on who else uses it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from lightning_featgeo.watch.window import Window

MUCH = 0.25  # of the time between two windows of a stage
WORTH_SAYING = 2.0  # seconds a window: what is less nobody waits for
FEWER_ROWS = 1024  # of a bank: a search takes a sixteenth of that among 4,096


class Price:
    """Looks at the windows of a run as they are closed."""

    def __init__(self) -> None:
        self._closed: dict[str, float] = {}  # stage -> when its windows were closed last
        self._said = False
        self.beside = False  # whether windows are computed beside training already

    def look(self, windows: Sequence[Window], total: float) -> str | None:
        """What to say of windows that were closed just now; None: they cost little, or it was said.

        Args:
            windows: of one stage.
            total: seconds that training has waited for them.
        """
        if self._said or not windows:
            return None
        stage, now = windows[0].plan.stage, time.perf_counter()
        before, self._closed[stage] = self._closed.get(stage), now
        if before is None:  # the first one also sets things up
            return None
        streaming, share = sum(window.seconds for window in windows), total / max(now - before, 1e-9)
        if total < WORTH_SAYING or share < MUCH:
            return None
        self._said = True
        rows = 2 * streaming > total
        told = (
            f"featgeo: {'streaming rows' if rows else 'closing windows'} of {stage} takes most of {total:.1f} s, "
            f"{share:.0%} of the time between two windows of it."
        )
        return f"{told} To make it less: {'; '.join(_ways(windows, rows, self.beside))}"


def _ways(windows: Sequence[Window], rows: bool, beside: bool) -> list[str]:
    ways = []
    if rows and windows[0].plan.stage == "train":
        ways.append(f"windows=Windows(every_n_batches={8 * windows[0].plan.every_n_batches}) watches fewer batches")
    if not rows and any(_searches_much(window) for window in windows):
        ways.append(f"neighbors=Neighbors(bank_size={FEWER_ROWS}) searches neighbours among fewer rows")
    on_a_cpu = any(part.metric.state_device.type == "cpu" for part in windows[0].layers)
    if not (rows or beside or (on_a_cpu and not spare_processors())) and windows[0].plan.reference is None:
        ways.append('windows=Windows(close="background") computes them beside training')
    return [
        *ways,
        "signals=[…] with fewer names computes less",
        "fewer windows (windows=Windows(every_n_epochs=…), or more steps a window)",
    ]


def spare_processors() -> int:
    """Those that torch's operators leave to others."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, there - torch.get_num_threads())


def _searches_much(window: Window) -> bool:
    return any((part.metric.bank_size or 0) > FEWER_ROWS for part in window.layers)
