"""FeatureWatch: the monitor's core for a training loop of your own. The other adapters are thin shims over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from lightning_featgeo.callbacks.monitor import FeatureGeometryMonitor
from lightning_featgeo.capture.heads import known_class_count
from lightning_featgeo.capture.sources import Sources, segment
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.distributed.sharding import whole
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.history.history import History
from lightning_featgeo.watch import announcement as describing
from lightning_featgeo.watch.guard import Guard
from lightning_featgeo.watch.layers import agree_on_layers, watch_layers, why_empty
from lightning_featgeo.watch.samplers import Shard
from lightning_featgeo.watch.settings import seed_for
from lightning_featgeo.watch.window import Shown, Watched, Window

_OF_A_TRAINER = (
    "stages", "loader_names", "every_n_epochs", "every_n_train_steps", "reference", "resume", "headline", "class_names",
    "matrix_classes", "id_key", "embedding_rows",
)  # fmt: skip


class FeatureWatch:
    """Watches layers of a model over windows that you open and close.

    Args:
        model: any module.
        process_group: of the processes that see different data; None: all.
        history_path: file that every window is appended to; None: in memory only.
        **settings: those of :class:`~lightning_featgeo.FeatureGeometryMonitor` that say what is watched and computed:
            layer, head, signals, pool, labels, mask, views, num_classes, bank_size, k, knn_vote_k, seed, groups,
            ignore_index, on_error.

    With several processes, each runs the same windows; results are those of all rows, the same on every one.

    Raises:
        ConfigurationError: if the layer or head can't be told, or a setting is of Lightning's Trainer only.

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

    def __init__(
        self, model: torch.nn.Module, process_group: Any = None, history_path: Any = None, **settings: Any
    ) -> None:
        foreign = sorted(set(settings) & {*_OF_A_TRAINER, "features"})
        if foreign:
            raise ConfigurationError(
                f"{', '.join(foreign)}: settings of Lightning's Trainer, not of a loop of your own"
            )
        self.model, self.settings = model, FeatureGeometryMonitor(**settings).settings
        self.ranks = Ranks(process_group)
        self.guard = Guard(self.settings.on_error, tells=self.ranks.rank == 0)
        self.history = History(history_path if self.ranks.rank == 0 else None)
        self._stated = self.settings.num_classes or known_class_count(model, *model.children())
        self.sources = Sources(model, self.settings.layer, self.settings.head, None, self._stated, [])
        self._windows: dict[str, Window] = {}
        self._open: Window | None = None
        self._count = 0
        self._told = False

    # --- a window --------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> str | None:
        """Name of the window that is open, or None."""
        return self._open.name if self._open is not None else None

    def open(self, name: str = "val", loader: Any = None, step: int = 0) -> None:
        """Begin a window; one that is open is thrown away.

        Args:
            name: used in the logged names, as ``[a-z0-9_]``.
            loader: the loader it will read from its start, to tell repeated samples of a distributed sampler.
            step: optimiser steps so far.
        """
        window = self._windows.setdefault(segment(name), Window(segment(name), []))
        self._open = window
        with self.guard.around(f"opening the {window.name} window", self._fail):
            window.open(step)
            window.shard = Shard.of(loader, self.ranks)

    @contextmanager
    def batch(self, batch: Any) -> Iterator[None]:
        """Stream what the forwards inside make of this batch, if a window is open."""
        if self._open is None:
            yield
            return
        self.begin_batch()
        try:
            yield
        except BaseException:
            self.sources.forget()  # the user's error: this batch does not count
            raise
        self.end_batch(batch)

    def begin_batch(self) -> None:
        """Catch the coming forwards; :meth:`batch` in two halves, for callbacks."""
        with self.guard.around("catching features", self._fail):
            self.sources.open()

    def end_batch(self, batch: Any) -> None:
        """Stream what was caught."""
        window = self._open
        if window is None:
            return
        # a wrong setting ends the run only where nothing is lost: before anything was trained
        first = not self._told and window.start_step == 0 and all(p.grad is None for p in self.model.parameters())
        with window.timed(), self.guard.around(f"streaming a {window.name} batch", self._fail, refuses=first):
            self.sources.settle(None)
            caught = [[whole(call) for call in calls] for calls in self.sources.take(None, batch)]
            if window.failed is not None:
                return
            if not window.watched:
                classes = self.settings.classes_for(self._stated, self.sources.head, None)
                self.settings.check_batch(batch, classes)
                window.watched = self._watch(window.name)
            samples = window.add(caught, batch)
            if window.shard is not None:
                window.shard.advance(samples)
            if any(caught):
                self._tell(window)

    def close(self, epoch: float | int = 0, step: int = 0) -> dict[str, float]:
        """Close the window; with several processes, all of them must.

        Returns:
            Logged name -> value of the signals that are defined. ``history`` has standard errors, gaps and counts.
        """
        window = self._open
        self.discard()
        if window is None:
            return {}
        empty: list[str] = []
        closed: list[Shown] = []

        def fail(reason: str) -> None:
            window.failed = reason

        with self.guard.around(f"closing the {window.name} window", fail):
            agree_on_layers(self.ranks, self.sources)
            window.watched = self.ranks.attempt(lambda: window.watched or self._watch(window.name))
            empty = why_empty(self.sources, window.name)
            closed = window.close(self._count, float(epoch), step, None, None, self.ranks, empty)
        values: dict[str, float] = {}
        for record, *_ in closed or window.close(self._count, float(epoch), step):
            self.guard.warn_of(record)
            self.history.append(record)
            asked = next((part.metric.signals for part in window.watched if part.metric.signals), ())
            values.update({record.prefix + name: v for name, v in record.values.items() if name in asked})
        self._count += 1
        return values

    def discard(self) -> None:
        """Forget the open window, and what a forward that failed has left."""
        self._open = None
        self.sources.forget()

    def remove(self) -> None:
        """Unhook; the history says that the loop came to its end."""
        self.sources.remove()
        self.history.end("came to its end")

    # --- parts -----------------------------------------------------------------------------------------------

    def _fail(self, reason: str) -> None:
        if self._open is not None:
            self._open.failed = reason

    def _watch(self, name: str) -> list[Watched]:
        seed = seed_for(self.settings.seed, name, 0)
        return watch_layers(self.settings, self.sources, self._stated, self.model, seed, has_reference=False)

    def _tell(self, window: Window) -> None:
        if self._told:
            return
        self._told = True
        line = describing.describe(self.sources.layers, window, [window.name], 1, ranks=self.ranks.size)
        rank_zero_info(line)
        signals = next((part.metric.signals for part in window.watched if part.metric.signals), ())
        memory = sum(part.metric.memory_bytes for part in window.watched)
        self.history.describe(
            describing.run_facts(line, [layer.described for layer in self.sources.layers], signals, memory, window)
        )
