"""Windows that are computed beside training: on a copy, by one thread, one after the other, and handed out later.

Everything that processes do together is done as the window closes, by the thread that trains: its rows are merged and
copied. What is left needs rank 0 alone. It is handed out where all ranks ask for it, in the order of closing.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import Gap, GapKind, explain
from lightning_featgeo.watch import price
from lightning_featgeo.watch.gaps import closed_as_gap
from lightning_featgeo.watch.plan import ClosedWindow, Compared, Report
from lightning_featgeo.watch.watched_layer import WatchedLayer
from lightning_featgeo.watch.watcher import Watcher
from lightning_featgeo.watch.window import Window, key_of


@dataclass
class Job:
    """A window that was closed and is not handed out yet.

    Attributes:
        window: that goes on; ``layers``: its own, as it was closed.
        copy: of what it held then; it takes what fails from now on.
        number, epoch, step: of it.
        reports: of all ranks; None: it could not be closed.
        ran_instead: see ``Window.close``.
        seconds, span: that training has waited for it, and from its opening to its closing.
        future: on rank 0, what is computed; None: nothing is to be.
    """

    window: Window
    layers: list[WatchedLayer]
    copy: Window
    number: int
    epoch: float
    step: int
    reports: list[Report] | None
    ran_instead: Sequence[str]
    seconds: float = 0.0
    span: float = 1.0
    future: Future[list[ClosedWindow]] | None = None


class Background:
    """The windows of one run that are being computed.

    Args:
        watcher: that streams into them.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.watcher, self.ranks, self.guard = watcher, watcher.ranks, watcher.guard
        watcher.price.beside = True
        self.jobs: deque[Job] = deque()
        self._worker = ThreadPoolExecutor(1, "featgeo")  # never two at once
        self._shares = False  # whether that thread takes only some of the processors
        self._waited = 0.0  # seconds that training has waited since windows were closed last

    def begin(self, closing: Sequence[Window], first_number: int, epoch: float, step: int) -> None:
        """Close windows that were open together, and compute them from now on. All ranks must call it.

        Args: those of ``Watcher.close``.
        """
        told = self.watcher.settle(closing)
        for number, window in enumerate(closing, first_number):
            begin, reports = time.perf_counter(), told.get(key_of(window))
            ran_instead = list(self.watcher.sources.ran_instead)
            copy = replace(window, layers=list(window.layers), ids=None, anchor=None)
            job = Job(window, list(window.layers), copy, number, epoch, step, reports, ran_instead)
            if reports is not None and window.layers:
                with self.guard.around(f"copying the {window.plan.name} window", copy.fail):
                    job.copy = window.snapshot(self.ranks, reports)
                    if self.ranks.rank == 0:
                        self._share_processors(_device(job.copy))
                        job.future = self._worker.submit(_compute, job, _event(job.copy))
            self.jobs.append(job)
            job.seconds = window.seconds + time.perf_counter() - begin
            job.span = max(time.perf_counter() - window.started, 1e-9)
        self.watcher.tell(closing, self._waited + sum(job.seconds for job in list(self.jobs)[-len(closing) :]))
        self._waited = 0.0

    def _share_processors(self, device: torch.device) -> None:
        """Once: on a CPU, the thread takes the processors that training leaves, at least one: two that take all of them
        wait for each other. How many others take is told anew by the thread that trains, and stays what it was."""
        if self._shares or device.type != "cpu":
            return
        self._shares, mine = True, torch.get_num_threads()
        wait([self._worker.submit(torch.set_num_threads, max(1, price.spare_processors()))])
        torch.set_num_threads(mine)

    def holds(self, stage: str) -> bool:
        """Whether a window of this stage is not handed out yet."""
        return any(job.window.plan.stage == stage for job in self.jobs)

    @property
    def is_done(self) -> bool:
        """Whether the oldest window is computed, in a run of one process: several must not look at their own clocks."""
        if self.ranks.several or not self.jobs:
            return False
        future = self.jobs[0].future
        return future is None or future.done()

    def take(self, together: bool = True) -> tuple[Window, list[ClosedWindow]]:
        """The oldest window; waits for it. All ranks must call it.

        Args:
            together: False: for this rank alone, as others may have died; only rank 0 has values then.
        """
        job, begin = self.jobs[0], time.perf_counter()
        closed: list[ClosedWindow] | None = None
        with self._failing(job):
            if job.future is not None:
                closed = job.future.result()
                self._go_on(job)
        waited = time.perf_counter() - begin
        self._waited, job.seconds = self._waited + waited, job.seconds + waited
        closed = None if closed is None else [_priced(one, job) for one in closed]
        if self.ranks.several and together:
            bare = None if closed is None else [one._replace(curves={}) for one in closed]
            bare, failed = self.ranks.share((bare, job.copy.failed))
            closed, job.copy.failed = closed or bare, failed
        self.jobs.popleft()  # not before: a wait may be interrupted, and begun anew
        if closed is None:
            closed = closed_as_gap(job.copy, job.number, job.epoch, job.step, job.reports, self.watcher.settings)
        for one in closed:
            self.guard.warn_of(one.record)
        return job.copy, closed

    @contextlib.contextmanager
    def _failing(self, job: Job) -> Iterator[None]:
        """What fails is a gap; on all ranks, so that no error is raised on one of several."""
        doing = f"computing the {job.copy.plan.name} window"
        if not self.ranks.several:
            with self.guard.around(doing, job.copy.fail):
                yield
            return
        try:
            yield
        except Exception as error:
            job.copy.fail(Gap(GapKind.FAILED, f"rank 0: {doing} failed with {explain(error)}"))

    def _go_on(self, job: Job) -> None:
        """The next window of these layers is compared with this one, unless others are watched by now."""
        if len(job.window.layers) == len(job.layers):
            for now, then, computed in zip(job.window.layers, job.layers, job.copy.layers, strict=True):
                if now is then and computed.failed is None:
                    now.metric.go_on_from(computed.metric)

    def finish(self) -> None:
        """Nothing more is computed; what was not handed out is let go of."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        self.jobs.clear()


def _compute(job: Job, ready: Any) -> list[ClosedWindow]:
    with _side_stream(job.copy, ready):
        return job.copy.close(
            job.number, job.epoch, job.step, Ranks.alone(), job.reports or [], Compared(), job.ran_instead
        )


def _priced(one: ClosedWindow, job: Job) -> ClosedWindow:
    """With what training has waited for, and not the time that was spent beside it."""
    return one._replace(record=replace(one.record, seconds=job.seconds, share=min(1.0, job.seconds / job.span)))


def _device(window: Window) -> torch.device:
    return window.layers[0].metric.state_device if window.layers else torch.device("cpu")


def _event(window: Window) -> Any:
    """When the copy is there, on a GPU."""
    return torch.cuda.current_stream(_device(window)).record_event() if _device(window).type == "cuda" else None


@contextlib.contextmanager
def _side_stream(window: Window, ready: Any) -> Iterator[None]:
    """On a GPU, a stream of its own that begins when the copy is there: training's work does not wait behind it."""
    if ready is None:
        yield
        return
    device = _device(window)
    stream = torch.cuda.Stream(device)
    with torch.cuda.device(device), torch.cuda.stream(stream):
        stream.wait_event(ready)
        yield
        stream.synchronize()
