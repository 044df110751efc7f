"""One run of the monitor: catches features, feeds windows, closes them, and keeps our errors from ending training.

The callback maps Lightning's hooks onto this; nothing here knows when a hook fires.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_featgeo.callbacks import publishing, stock_monitors
from lightning_featgeo.callbacks.checkpointing import Saved, facts, reopen
from lightning_featgeo.callbacks.display import Gallery
from lightning_featgeo.callbacks.stoppers import Alarming
from lightning_featgeo.capture.sources import Sources, segment
from lightning_featgeo.capture.taps import FeatureTap
from lightning_featgeo.distributed.sharding import whole
from lightning_featgeo.history.history import History
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL, PRESETS
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch import announcement as describing
from lightning_featgeo.watch.guard import Guard
from lightning_featgeo.watch.layers import agree_on_layers, watch_layers, why_empty
from lightning_featgeo.watch.sample_ids import Identities
from lightning_featgeo.watch.samplers import Shard, in_order, loader_of, ranks_of, shuffles
from lightning_featgeo.watch.settings import Settings, seed_for
from lightning_featgeo.watch.window import Shown, Watched, Window


class Run:
    """What lives from a run's start to its end.

    Args:
        settings: what was asked for.
        trainer, pl_module: of this run.
        history: where closed windows go.
        taps: taps of earlier runs, hooked again if their module comes back.
        saved: what a checkpoint has kept, if this run goes on from one.

    Raises:
        ConfigurationError: if the layer or head can't be told, or is not what the checkpoint's curves are of.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        history: History,
        taps: list[FeatureTap],
        saved: Saved | None = None,
    ) -> None:
        self.settings, self.trainer, self.pl_module = settings, trainer, pl_module
        self.stages: tuple[str, ...] = settings.stages
        self.history = history
        self.catching: str | None = None
        self._owed = 0.0  # seconds that showing the last windows took: the next one's price holds them
        self._windows: dict[str, dict[int, Window]] = {}
        self._open: set[str] = set()
        self._checked: set[tuple[str, int]] = set()
        self._looked: set[str] = set()
        self._told = False
        self.trained = False  # after the first step a wrong setting is a gap: it must not end a run that has begun
        self._resolved: dict[str, tuple[str, ...]] = {}  # stage -> what "auto" and groups came to, once a batch told
        self._stated_classes = settings.class_count(trainer, pl_module)
        self.ranks = ranks_of(trainer)
        self.guard = Guard(settings.on_error, tells=self.ranks.rank == 0)
        self.alarming = Alarming(trainer, self.guard)
        self.gallery = Gallery(trainer, self.guard, settings.taste)
        self.publisher = publishing.Publisher(history, self.gallery, settings.taste.headline)
        self.fits = trainer.state.fn == "fit"
        if self.ranks.several:  # our values are the same on all ranks already: an average over them changes nothing
            warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\('featgeo")
        self._shards: dict[tuple[str, int], Shard] = {}
        self.sources = Sources(pl_module, settings.layer, settings.head, settings.features, self._stated_classes, taps)

        settings.check_class_names(settings.classes_for(self._stated_classes, self.sources.head, None))
        self._saved = saved
        if saved is not None:
            if self.sources.scouting and len(saved.layers) == 1:
                self.sources.adopt(saved.layers[0], "as in the checkpoint")
            saved.check(self.paths, [], saved.classes)

    # --- windows ---------------------------------------------------------------------------------------------

    def each_window(self) -> Iterator[tuple[str, int, Window]]:
        """Stage, loader and window, of all there are."""
        for stage, windows in self._windows.items():
            for loader, window in windows.items():
                yield stage, loader, window

    def open_train_window(self) -> Window | None:
        """The training window that is being fed."""
        return self._windows.get("train", {}).get(0) if self.is_open("train") else None

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of this run."""
        found: dict[str, Any] = {}
        with self.guarded("saving the monitor's state"):
            found = facts(self)
        return found

    def go_on(self) -> None:
        """With the training window that was open when the checkpoint was written; the loader is there by now."""
        if self._saved is not None:
            with self.guarded("going on with the open training window", "train"):
                reopen(self, self._saved)

    def open_late(self, reason: str) -> None:
        """A training window whose first part nobody has seen: a gap from the start."""
        self.open("train")
        window = self.open_train_window()
        if window is not None:
            window.failed = reason

    def is_open(self, stage: str) -> bool:
        """Whether a window of this stage is being fed."""
        return stage in self._open

    def open(self, stage: str) -> None:
        """Begin the stage's windows, one a loader."""
        self._open.add(stage)  # whatever fails now: other ranks will close it
        windows = self._windows.setdefault(stage, {})
        for loader, name in enumerate(self.stage_names(stage)):
            window = windows.setdefault(loader, Window(name, [], serves=name == self.settings.reference))
            if self.settings.id_key is not None and window.identities is None:
                window.identities = Identities(self.settings.id_key)
            with self.guarded(f"opening a {stage} window", stage, loader):
                window.open(self.trainer.global_step)
                if stage != "train":
                    self.loader_starts(stage, loader)
                window.shard = self._shards.get((stage, loader))

    def loader_starts(self, stage: str, loader: int = 0, from_start: bool = True) -> None:
        """A loader begins anew: from here on, samples are counted to tell repeats from others."""
        shard = Shard.of(loader_of(self.trainer, stage, loader), self.ranks)
        shard.seen = 0 if from_start else None
        self._shards[stage, loader] = shard
        window = self._windows.get(stage, {}).get(loader)
        if window is not None:
            window.shard = shard

    def reads(self, stage: str) -> None:
        """A batch comes. If its loader did not begin before our eyes (a resumed epoch), nobody knows where it is."""
        if (stage, 0) not in self._shards:
            self.loader_starts(stage, from_start=False)

    def missed(self, stage: str) -> None:
        """A batch went by that nobody looked at: where the loader is can't be told any more."""
        if (stage, 0) in self._shards:
            self._shards[stage, 0].seen = None

    def steps_open(self, stage: str) -> int:
        """Optimiser steps since the stage's window began."""
        return int(self.trainer.global_step) - self._windows[stage][0].start_step

    def drop(self, stage: str) -> None:
        """Forget the stage's open windows: the sanity check leaves no trace."""
        self._open.discard(stage)

    def stage_names(self, stage: str) -> list[str]:
        """What the stage's loaders are called in logged names."""
        loaders = getattr(self.trainer, f"{stage}_dataloaders", None) if stage != "train" else None
        given = [segment(n) for n in self.settings.loader_names or ()] if stage != "train" else []
        if isinstance(loaders, (list, tuple, Mapping)):
            count = len(loaders)
        else:
            count = max(1, len(given)) if loaders is None else 1  # None: not set up yet
        return [given[i] if i < len(given) else stage + (f"_{i}" if i else "") for i in range(count)]

    def known_names(self) -> list[str]:
        """Every name this run can log, as far as is known."""
        layers = [layer.name for layer in self.sources.layers] or [None]
        names: list[str] = []
        for stage in self.stages:
            signals = self._resolved.get(stage, self.settings.signals)
            names += publishing.known_names(signals, self.stage_names(stage), layers)
        return [*names, *self.alarming.names(names)]

    # --- batches ---------------------------------------------------------------------------------------------

    def catch(self, stage: str) -> None:
        """Catch what the coming forward makes."""
        with self.guarded("catching features", stage):
            self.sources.open()
            self.catching = stage

    def check(self, stage: str, batch: Any) -> None:
        """Look at the stage's first batch for settings that can't work, before its features are needed."""
        if stage in self.stages and stage not in self._looked:
            self._looked.add(stage)
            with self.guarded(f"looking at a {stage} batch", stage, first_batch=not self.trained):
                classes = self.settings.classes_for(self._stated_classes, self.sources.head, None)
                if not self.trained:  # later, what is only shown must not cost a curve
                    self.settings.check_ids(batch)
                has_labels = self.settings.check_batch(batch, classes)
                if self.settings.signals == "auto" and not has_labels:
                    unlabelled = [
                        n for preset in PRESETS.values() for n in preset if "labels" not in CATALOG[n].requires
                    ]
                    self._settle_names(stage, tuple(dict.fromkeys(unlabelled)))

    def _settle_names(self, stage: str, signals: tuple[str, ...]) -> None:
        """What is computed in a stage is known now: whoever watches another name of it has to hear."""
        self._resolved[stage] = signals
        if self.trainer.state.fn == "fit":
            stock_monitors.check_names(self.trainer)

    def forward_done(self, loss: Tensor) -> None:
        """Backward begins: find the head if it is unknown, and don't catch what is computed again."""
        with self.guarded("finding the head", "train", first_batch=not self.trained):
            self.sources.pause()
            self.sources.settle(loss)
            self.settings.check_class_names(self.settings.classes_for(self._stated_classes, self.sources.head, None))

    def backward_done(self) -> None:
        """Manual optimisation may run further forwards."""
        self.sources.resume()

    def consume(self, stage: str, loader: int, outputs: Any, batch: Any) -> None:
        """Stream what was caught into the stage's window, if one is open."""
        self.catching = None
        window = self._windows.get(stage, {}).get(loader) if stage in self._open else None
        first = (stage, loader) not in self._checked and not self.trained and loader == 0
        with (
            window.timed() if window is not None else nullcontext(),
            self.guarded(f"streaming a {stage} batch", stage, loader, first_batch=first),
        ):
            self.sources.settle(None)  # if no loss told (evaluation alone), the order of running decides
            caught = [[whole(call) for call in calls] for calls in self.sources.take(outputs, batch)]
            if window is None or window.failed is not None:
                return
            if not window.watched:
                window.watched = self.watch(stage, loader)
            samples = window.add(caught, batch)
            if window.shard is not None:
                window.shard.advance(samples)
            if any(caught):
                self._checked.add((stage, loader))
                if stage in self.stages:
                    self._tell(window)
                if first:
                    self._settle_names(stage, self._asked(window))

    def watch(self, stage: str, loader: int) -> list[Watched]:
        """New accumulators for each layer; after a resume they know what the last window was like.

        Raises:
            ConfigurationError: if the checkpoint's curves are of something else.
        """
        s, is_reference = self.settings, self.stage_names(stage)[loader] == self.settings.reference
        watched = watch_layers(
            s,
            self.sources,
            self._stated_classes,
            getattr(self.trainer.strategy, "model", None),
            seed_for(s.seed, stage, loader),
            signals=s.signals if stage in self.stages else COUNT_SIGNAL,
            has_reference=s.reference is not None and not is_reference,
            serve=(PRESETS["classifier"] if s.signals == "auto" else s.signals) if is_reference else (),
        )
        for part in watched:
            part.metric.lenient = self.trained
            part.metric.details = self.gallery.details
            part.positions = stage != "train" and in_order(loader_of(self.trainer, stage, loader))
            part.metric.keeps_samples = stage != "train" and not shuffles(loader_of(self.trainer, stage, loader))
        if self._saved is not None:
            self._saved.check(self.paths, [], watched[0].metric.num_classes if watched else None)
            for index, part in enumerate(watched):
                part.saved = self._saved if index == 0 else None
                part.metric.earlier_neighbors = self._saved.earlier.get(f"{stage}/{loader}/{index}")
        return watched

    @property
    def paths(self) -> list[str]:
        """The watched layers, as far as they are known."""
        return [layer.path for layer in self.sources.layers]

    # --- closing ---------------------------------------------------------------------------------------------

    def close(self, stage: str, first_number: int, inside_epoch: bool = False) -> int:
        """Close the stage's windows, ask the stoppers, publish the records; returns how many were closed.

        Once the count is taken, ``alarming.act()`` is due: a checkpoint that is saved then holds everything.
        """
        self._open.discard(stage)
        if stage not in self.stages:  # it only served as a reference
            return 0
        windows = self._windows.get(stage, {})
        for window in [*windows.values()][:1]:
            window.seconds, window.started = window.seconds + self._owed, window.started - self._owed
            self._owed = 0.0
        empty: dict[int, list[str]] = {}
        for loader, window in windows.items():  # all of them first: one may be another's reference
            with self.guarded(f"closing the {window.name} window", stage, loader):
                empty[loader] = self._agree(stage, loader, window)
        reference = self._reference()
        closed: list[tuple[Window, Shown]] = []
        for loader, window in windows.items():
            closed += [(window, each) for each in self._closed(stage, loader, window, first_number, reference, empty)]
        for _, (record, *_) in closed:  # all of them first: a rule may compare one with another
            self.alarming.hear(record)
        begin = time.perf_counter()
        for window, shown in closed:
            record = shown.record
            self.guard.warn_of(record)
            due = self.alarming.ask(record)
            self.publisher.publish(
                self.trainer, self.pl_module, shown, self._asked(window), inside_epoch, self.guarded,
                [alarm for _, alarm in due], self.alarming.state(record),
            )  # fmt: skip
            for stopper, alarm in due:
                with self.guarded("telling of an alarm"):
                    self.publisher.alarmed(record, alarm, stopper.stop(self.trainer, alarm))
        for window in windows.values():
            self.gallery.finish_windows(window.name)
        self._owed = time.perf_counter() - begin
        return len(windows)

    def _closed(
        self, stage: str, loader: int, window: Window, first_number: int, reference: Window | None,
        empty: Mapping[int, list[str]],
    ) -> list[Shown]:  # fmt: skip
        """One loader's window, computed: a record and its curves for each layer."""
        number = first_number + loader
        closed: list[Shown] = []
        epoch, step = publishing.fractional_epoch(self.trainer), int(self.trainer.global_step)
        with self.guarded(f"computing the {window.name} window", stage, loader):
            compared = None if window.name == self.settings.reference else self.settings.reference
            if reference is not None and self.settings.reference not in self.stages and compared == "train":
                window.seconds += reference.seconds  # it has no record of its own
                reference.seconds = 0.0
            closed = window.close(
                number, epoch, step, reference if compared else None, compared, self.ranks, empty.get(loader, ())
            )
        return closed or window.close(number, epoch, step)  # failed now: all gaps

    def _reference(self) -> Window | None:
        """The window that others are compared with, as it is now: with the same layers on every rank, rows or none."""
        found = next((each for each in self.each_window() if each[2].name == self.settings.reference), None)
        if found is None:
            return None
        stage, loader, window = found
        with self.guarded(f"looking at the reference {window.name}", stage, loader):
            if any(self.ranks.gather(bool(window.watched))):
                window.watched = self.ranks.attempt(lambda: window.watched or self.watch(stage, loader))
        return window

    @property
    def caught_stages(self) -> tuple[str, ...]:
        """Stages whose features are caught: those that are logged, and the reference's."""
        extra = self.settings.reference == "train" and "train" not in self.stages and self.trainer.state.fn == "fit"
        return (*self.stages, "train") if extra else self.stages

    @staticmethod
    def _asked(window: Window) -> tuple[str, ...]:
        """The chosen signals, from a layer that has seen rows."""
        return next((part.metric.signals for part in window.watched if part.metric.signals), ())

    def _agree(self, stage: str, loader: int, window: Window) -> list[str]:
        """Watch the same on every rank; returns for each layer the reason to give if none has caught anything."""
        agree_on_layers(self.ranks, self.sources)
        window.watched = self.ranks.attempt(lambda: window.watched or self.watch(stage, loader))
        if not any(self.ranks.gather(window.batches)):
            return [f"no batch arrived in {window.name}"] * len(window.watched)
        return why_empty(self.sources, window.name)

    def warn_if_never_filled(self, steps: int) -> None:
        """Say so if training ended before a window of n steps closed."""
        window = self._windows.get("train", {}).get(0)
        if window is not None and "train" in self._open and not any(r.stage == "train" for r in self.history):
            self.guard.warn(
                f"training ended before a window of {steps} steps was full: there is no curve", "never filled"
            )

    def finish(self) -> None:
        """Show what is left to show, and unhook everything."""
        with self.guarded("showing the last window"):
            self.gallery.close()
        self.sources.remove()

    # --- words -----------------------------------------------------------------------------------------------

    def _tell(self, window: Window) -> None:
        """One line, as soon as layer, dimension, classes, signals and memory are known."""
        if self._told:
            return
        self._told = True
        loaders = sum(len(self.stage_names(stage)) for stage in self.stages)
        reference = next((w for _, _, w in self.each_window() if w.name == self.settings.reference), None)
        silent = reference if "train" not in self.stages and reference is not window else None
        held = sum(part.metric.memory_bytes for part in silent.watched) if silent is not None else 0
        line = describing.describe(
            self.sources.layers, window, self.stages, loaders, self.settings.reference, held, self.ranks.size
        )
        rank_zero_info(line)
        signals = self._asked(window)
        memory = sum(part.metric.memory_bytes for part in window.watched) + held
        layers = [layer.described for layer in self.sources.layers]
        name = describing.run_name(self.trainer)
        facts = describing.run_facts(line, layers, signals, memory, window, name)
        self.history.describe(facts)
        self.gallery.describe(facts)

    @contextmanager
    def guarded(
        self, doing: str, stage: str | None = None, loader: int | None = None, first_batch: bool = False
    ) -> Iterator[None]:
        """Nothing of ours ends a run, except a wrong configuration at fit's start or in the first batch."""

        def fail(reason: str) -> None:
            for index, window in self._windows.get(stage or "", {}).items():
                if loader in (None, index):
                    window.failed = reason

        with self.guard.around(doing, fail, refuses=(stage is None or first_batch) and not self.trained):
            yield
