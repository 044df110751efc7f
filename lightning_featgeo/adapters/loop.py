"""FeatureWatch: windows over a training loop of your own. The other adapters are thin shims over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from lightning_featgeo import _compat
from lightning_featgeo.capture.names import segment
from lightning_featgeo.capture.sources import Sources
from lightning_featgeo.capture.widths import known_class_count
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import spelled
from lightning_featgeo.history.history import History
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.watch.guard import Guard
from lightning_featgeo.watch.layouts import MOST_ROWS, Layouts
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.samplers import keeps_order
from lightning_featgeo.watch.settings import WatchSettings, check_between, documents, takes_also
from lightning_featgeo.watch.watcher import Watcher
from lightning_featgeo.watch.window import Window, key_of


@documents(WatchSettings)
class FeatureWatch:
    """Watches layers of a model over windows that you open and close.

    Args:
        model: any module.
        process_group: of the processes that see different data; None: all.
        history_path: file that every window is appended to; None: in memory only.
        embedding_rows: number of feature rows, up to 1,000, whose places in the plane the history keeps.

    With several processes, each runs the same windows; results are those of all rows, the same on every one.

    Raises:
        ConfigurationError: if the layer or head can't be told, or an argument can't work.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        >>> watch = FeatureWatch(model, signals=["feature_std", "effective_rank"], on_error="raise")
        >>> watch.open("val")
        >>> for _ in range(4):
        ...     batch = torch.randn(50, 8), torch.randint(3, (50,))
        ...     with torch.no_grad(), watch.batch(batch):
        ...         logits = model(batch[0])
        >>> sorted(watch.close(epoch=1))
        ['featgeo/val/effective_rank', 'featgeo/val/feature_std']
    """

    CALL = "FeatureWatch(model, "  # how lines to paste begin

    @takes_also(WatchSettings)
    def __init__(
        self, model: torch.nn.Module, process_group: Any = None, history_path: Any = None, embedding_rows: int = 0,
        **settings: Any,
    ) -> None:  # fmt: skip
        check_between("embedding_rows", embedding_rows, 0, MOST_ROWS)
        self.model, self.settings = model, WatchSettings(**settings)
        s, ranks = self.settings, Ranks(process_group)
        self.history = History(history_path if ranks.rank == 0 else None)
        stated = s.num_classes or known_class_count(model, *model.children())
        with spelled(self.CALL):
            sources = Sources(model, s.layer, s.head, None, stated, [])
        policy = Policy(
            s.on_error == "raise", tolerated=frozenset({"reference", "earlier"}), knows_best=False, head_root=model
        )
        self.layouts: Layouts | None = None
        if embedding_rows and ranks.rank == 0:
            policy = replace(policy, details=Details(rows=embedding_rows))
            asked = f"embedding_rows={embedding_rows}"
            self.layouts = Layouts(self.history, asked, lambda told: self.guard.warn(told, told))
        self.watcher = Watcher(s, sources, ranks, self.history, stated, policy)
        self._open: Window | None = None
        self._count = 0
        self._closed: Counter[str] = Counter()  # windows, by name
        self._versions = _compat.versions(model)  # change with every step

    @property
    def guard(self) -> Guard:
        """Turns errors of ours into warnings and gaps."""
        return self.watcher.guard

    # --- a window --------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> str | None:
        """Name of the window that is open, or None."""
        return self._open.plan.name if self._open is not None else None

    def open(self, name: str = "val", loader: Any = None, step: int = 0) -> None:
        """Begin a window; one that is open is thrown away.

        Args:
            name: used in the logged names, as ``[a-z0-9_]``.
            loader: the loader it will read from its start (or a list of batches), to tell repeated samples of a
                distributed sampler, and whether the window before held the same samples (``neighbor_churn``).
            step: optimiser steps so far.
        """
        if self._open is not None and self._open.batches:
            left, lost = f"the window {self._open.plan.name!r} was not closed", f"{self._open.batches} batches"
            self.guard.warn(f"{left}: its {lost} are thrown away. Call close() before open()", left)
        self.discard()
        plan = WindowPlan(segment(name), segment(name), keeps_samples=keeps_order(loader))
        self.watcher.loader_starts((plan.stage, 0), loader)
        self.watcher.open(plan.stage, [plan], step)
        self._open = self.watcher.windows[plan.stage, 0]

    @contextmanager
    def batch(self, batch: Any) -> Iterator[None]:
        """Stream what the forwards inside make of this batch, if a window is open."""
        if self._open is None:
            yield
            return
        self.begin_batch(batch)
        try:
            yield
        except BaseException:
            self.watcher.sources.forget()  # the user's error: this batch does not count
            raise
        self.end_batch(batch)

    def begin_batch(self, batch: Any = None) -> None:
        """Catch the coming forwards; :meth:`batch` in two halves, for callbacks.

        Args:
            batch: what they will be given, if it is there already: kept as it is now.
        """
        if self._open is not None:
            self.watcher.begin_batch(self._open.plan.stage, batch)

    def end_batch(self, batch: Any) -> None:
        """Stream what was caught."""
        window = self._open
        if window is None:
            return
        with spelled(self.CALL):
            self._end_batch(window, batch)

    def _end_batch(self, window: Window, batch: Any) -> None:
        watcher = self.watcher
        # a wrong setting ends the run only where nothing is lost: before anything was trained
        refuses = not watcher.phase.announced and window.start_step == 0 and self._is_untouched()
        if key_of(window) not in watcher.phase.looked:
            watcher.phase.looked.add(key_of(window))
            with watcher.guard.around(f"looking at a {window.plan.name} batch", window.fail, refuses=refuses):
                watcher.sources.settle(None)
                watcher.look(batch)
        watcher.end_batch((window.plan.stage, 0), None, batch, refuses=refuses)

    def close(
        self, epoch: float | int | None = None, step: int = 0, metrics: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Close the window; with several processes, all of them must.

        Args:
            epoch: now; None: how many windows of this name have been closed, this one included.
            step: now.
            metrics: the loop's own (numbers, or tensors of one), as they stand now, such as ``{"val/loss": 0.31}``.
                The history keeps them, and a report tells which curves went with one of them (``--outcome val/loss``).

        Returns:
            Logged name -> value of the signals that are defined. ``history`` has standard errors, gaps and counts.
        """
        window = self._open
        self.discard()
        if window is not None:
            self._closed[window.plan.name] += 1
        if epoch is None:
            epoch = max(1, self._closed.total()) if window is None else self._closed[window.plan.name]
        if metrics:
            self._keep(metrics, float(epoch), step)
        if window is None:
            if not self._closed:
                told = "close() was called, and no window was ever open: call open(name) before the batches"
                self.guard.warn(told, told)
            return {}
        values: dict[str, float] = {}
        for closed in self.watcher.close([window], self._count, float(epoch), step):
            self.history.append(closed.record)
            if self.layouts is not None:
                with self.guard.around("laying out rows", lost="the curves are not affected"):
                    self.layouts.add(closed)
            prefix, found = closed.record.prefix, closed.record.values
            values.update({prefix + name: value for name, value in found.items() if name in closed.signals})
        self._count += 1
        return values

    def _keep(self, metrics: Mapping[str, Any], epoch: float, step: int) -> None:
        """The loop's own metrics, into the history. One that is no number costs itself only."""
        numbers = {}
        for name, value in metrics.items():
            with self.guard.around(f"keeping the metric {name!r}", lost="the curves are not affected"):
                numbers[str(name)] = float(value)
        self.history.log_metrics(numbers, epoch, step)

    def _is_untouched(self) -> bool:
        """Whether no parameter has changed or has a gradient since this watch was made."""
        same = _compat.versions(self.model) == self._versions
        return same and all(parameter.grad is None for parameter in self.model.parameters())

    def discard(self) -> None:
        """Forget the open window, and what a forward that failed has left."""
        if self._open is not None:
            self.watcher.drop(self._open.plan.stage)
            self._open = None
        self.watcher.sources.forget()

    def remove(self) -> None:
        """Unhook; the history says that the loop has finished."""
        self.watcher.sources.remove()
        self.ends()

    def ends(self) -> None:
        """The history says that the loop has finished."""
        if self.layouts is not None:
            self.layouts.finish()
        self.history.end("finished")
