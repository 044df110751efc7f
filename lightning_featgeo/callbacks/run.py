"""One run of the monitor under a Lightning Trainer: which windows there are, and where closed ones go.

Catching, streaming, closing and announcing are done by ``watch.watcher``; the callback maps Lightning's hooks on this.
"""

from __future__ import annotations

import functools
from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.callbacks import closing, embedding_stages, own_metrics, plans, publishing, stock_monitors, words
from lightning_featgeo.callbacks import trainer as lightning
from lightning_featgeo.callbacks.anchoring import Anchors
from lightning_featgeo.callbacks.checkpointing import Saved
from lightning_featgeo.callbacks.display import LoggerDisplay
from lightning_featgeo.callbacks.lightning_types import LightningModule, Trainer
from lightning_featgeo.callbacks.probe_windows import STAGE, ProbeSets, check_order
from lightning_featgeo.callbacks.settings import MonitorSettings
from lightning_featgeo.callbacks.stoppers import Stoppers
from lightning_featgeo.capture.sources import Sources
from lightning_featgeo.capture.taps import FeatureTap
from lightning_featgeo.capture.widths import known_class_count
from lightning_featgeo.errors import Gap
from lightning_featgeo.history.history import History
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.rows.batches import inputs_of
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.announcement import say
from lightning_featgeo.watch.background import Background
from lightning_featgeo.watch.layers import class_count
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.watcher import Watcher
from lightning_featgeo.watch.window import Window


class LightningRun:
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
        self, settings: MonitorSettings, trainer: Trainer, pl_module: LightningModule, history: History,
        taps: list[FeatureTap], saved: Saved | None = None,
    ) -> None:  # fmt: skip
        lightning.refuse_whole_compilation(pl_module)
        self.settings, self.trainer, self.pl_module = settings, trainer, pl_module
        self.stages: tuple[str, ...] = tuple(settings.stages)
        self.history, self.saved = history, saved
        self.fits = trainer.state.fn == "fit"
        stated = settings.num_classes or known_class_count(
            pl_module, *pl_module.children(), getattr(trainer, "datamodule", None)
        )
        sources = Sources(
            pl_module, settings.layer, settings.head, settings.features, stated, taps,
            is_inside_step=lambda: _compat.is_inside_step(pl_module), trains=self.fits,
        )  # fmt: skip
        self.watcher = Watcher(
            settings, sources, lightning.ranks_of(trainer), history, stated, Policy(), id_key=settings.display.id_key
        )
        self.guard, self.phase = self.watcher.guard, self.watcher.phase
        self.watcher.make_layers = functools.partial(plans.layers_of, self)
        self.background = Background(self.watcher) if self.fits and settings.windows.close == "background" else None
        self.probe_sets = ProbeSets(self, settings.probe_sets or {})
        self.watcher.on_announcement = functools.partial(words.announcement, self)
        self.stoppers = Stoppers(trainer, self.guard)
        self.display = LoggerDisplay(trainer, self.guard, settings.display, history)
        self.publisher = publishing.Publisher(trainer, history, self.display, self.guard, settings.display.headline)
        self.closed: set[str] = set()  # stages of which a window has closed
        self.lacking: set[tuple[str, int]] = set()  # loaders whose batches lack what was asked for
        self.awaits_validation = self.validated = False  # what runs in the first one: see ``embedding_stages``
        self._opened_at = 0  # training batches that were before the training window
        self._uncharged = 0.0  # seconds that showing the last windows took: the next one's price holds them
        self.resolved: dict[tuple[str, int], tuple[str, ...]] = {}  # by loader: what "auto" came to in its first batch
        try:
            settings.display.check_class_names(self.classes)
            check_order(trainer, settings)
            self.anchors = Anchors(self) if settings.windows.anchors or settings.windows.best else None
            if saved is not None:
                if sources.scouting and (len(saved.layers) == 1 or saved.outputs):
                    sources.adopt(saved.layers, saved.outputs, "as in the checkpoint")
                saved.check(self.watcher.paths, [], saved.classes)
        except BaseException:
            sources.remove()  # a run that does not begin leaves no hook
            raise

    # --- windows ---------------------------------------------------------------------------------------------

    @property
    def caught_stages(self) -> tuple[str, ...]:
        """Stages whose features are caught: those that are logged, and the reference's."""
        extra = self.settings.reference == "train" and "train" not in self.stages and self.fits
        return (*self.stages, "train") if extra else self.stages

    @property
    def logged_stages(self) -> tuple[str, ...]:
        """Stages whose windows have records: those that are watched, and the probe sets."""
        return (*self.stages, STAGE) if self.probe_sets.sets else self.stages

    @property
    def also(self) -> tuple[str, ...]:
        """Signals beside those of "auto"."""
        return stock_monitors.also_asked(self.trainer, self.settings)

    @property
    def classes(self) -> int | None:
        """C, as far as it is known."""
        return class_count(self.settings, self.watcher.stated_classes, self.watcher.sources, None)

    def choose_stages(self) -> None:
        """Of this fit; training windows, and a word on it, where there is no validation."""
        self.stages, note = lightning.stages_of_fit(self.settings, self.trainer)
        if note and self.trainer.is_global_zero:
            say(note)

    def try_out(self) -> None:
        """Before training: what other sets and models it takes is there."""
        self.probe_sets.try_out()
        if self.anchors is not None:
            self.anchors.check_names()

    def is_open(self, stage: str) -> bool:
        """Whether a window of this stage is being fed."""
        return stage in self.phase.open

    def names(self, stage: str) -> list[str]:
        """What the stage's windows are called in logged names."""
        if stage == STAGE:
            return list(self.probe_sets.sets)
        return lightning.stage_names(self.trainer, stage, self.settings.loader_names)

    def open(self, stage: str) -> None:
        """Begin the stage's windows, one a loader."""
        names = self.names(stage)
        if (
            stage == "val"
            and self.guard.tells
            and (told := lightning.miscounted_names(self.trainer, self.settings.loader_names))
        ):
            self.guard.warn(told, told)
        for number in range(len(names)) if stage != "train" else ():
            self.watcher.loader_starts((stage, number), lightning.loader_of(self.trainer, stage, number))
        ranks, scoring = self.watcher.ranks, self.watcher.sources.watched.scoring
        if ranks.several and self.fits and stage != "train":
            scoring.agree(ranks.gather(scoring.told))  # labels are read alike
        self.open_windows(stage, [self.plan(stage, i, name) for i, name in enumerate(names)])

    def open_windows(self, stage: str, plans: list[WindowPlan]) -> None:
        """Begin windows of these plans."""
        self.watcher.open(stage, plans, self.trainer.global_step)
        self._opened_at = self.phase.moment if stage == "train" else self._opened_at
        if self.anchors is not None:
            with self.guard.around("giving windows what they are compared with", lost="those curves are gaps"):
                self.anchors.opened(self.watcher.of_stage(stage))

    def plan(self, stage: str, number: int, name: str) -> WindowPlan:
        """What a window is of."""
        return plans.plan_of(self, stage, number, name)

    def loader_of(self, stage: str, number: int) -> Any:
        """The stage's loader of that number, or None where it can't be told."""
        if stage == STAGE:
            return self.probe_sets.loader(number)
        return lightning.loader_of(self.trainer, stage, number)

    def open_if_due(self, stage: str) -> None:
        """Open the stage's windows, if it is watched and this epoch's turn."""
        if self.is_due(stage):
            self.open(stage)

    def is_due(self, stage: str) -> bool:
        """Whether the stage is watched, and this epoch is its turn."""
        every_time = not self.fits or self.trainer.sanity_checking
        this_epoch = every_time or (self.trainer.current_epoch + 1) % self.settings.windows.every_n_epochs == 0
        return stage in self.caught_stages and this_epoch

    def open_late(self, reason: Gap) -> None:
        """A training window whose first part nobody has seen: a gap from the start."""
        self.open("train")
        for window in self.watcher.of_stage("train"):
            window.fail(reason)

    def open_train_window(self) -> Window | None:
        """The training window that is being fed."""
        return next(iter(self.watcher.of_stage("train")), None) if self.is_open("train") else None

    def train_loader_starts(self, from_start: bool = True) -> None:
        """The training loader begins anew: its windows, now and later, count its samples from here."""
        self.watcher.loader_starts(("train", 0), lightning.loader_of(self.trainer, "train", 0), from_start)

    def steps_open(self) -> int:
        """Optimiser steps since the training window began; batches where processes may step differently, by hand."""
        if self.watcher.ranks.several and not self.pl_module.automatic_optimization:
            return self.phase.moment - self._opened_at
        window = self.open_train_window()
        return 0 if window is None else int(self.trainer.global_step) - window.start_step

    # --- batches ---------------------------------------------------------------------------------------------

    def begin_batch(self, stage: str, number: int, batch: Any) -> None:
        """Catch what the coming step makes of a batch."""
        if self.anchors is not None and self.is_open(stage):
            self.anchors.look(self.watcher.windows.get((stage, number)), batch)
        self.watcher.begin_batch(stage, None if _compat.takes_batches_itself(self.pl_module, stage) else batch)

    def forward_done(self, loss: Tensor) -> None:
        """Backward begins: find the head if it is unknown, and don't catch what is computed again."""
        sources, refuses = self.watcher.sources, not self.phase.trained
        with self.guard.around("finding the head", self.watcher.failing("train"), refuses=refuses):
            sources.pause(for_good=self.pl_module.automatic_optimization)
            unknown, scouting = sources.reading is None, sources.scouting
            before, needed = sources.head, sources.needed
            if unknown:
                sources.settle(loss, inputs_of(self.watcher.batch), self.pl_module.automatic_optimization)
            if before is not None and sources.head is not before:
                self.phase.announced = False  # another head than was said before training
            sources.note_loss(loss)
            if unknown and (sources.reading is not None or sources.needed != needed):
                self.watcher.forget_layers()  # what the loss does with the head's output was not known yet
            if scouting and not sources.scouting:
                self.settings.display.check_class_names(self.classes)
                if sources.watched.by_loss:
                    embedding_stages.begin(self, self.trainer.fit_loop.batch_idx == 0)

    def end_batch(self, stage: str, number: int, outputs: Any, batch: Any) -> None:
        """Stream what was caught into the stage's window, if one is open."""
        key = (stage, number)
        first = not self.phase.trained and self.phase.awaits_rows(key)
        if self.watcher.end_batch(key, outputs, batch, refuses=first) and first:
            with self.guard.around("checking which callbacks monitor our curves", refuses=True):
                self.settle_names(key, self.watcher.windows[key].signals)

    def settle_names(self, loader: tuple[str, int], signals: tuple[str, ...]) -> None:
        """What is computed of a loader is known now: whoever watches another name of it has to hear."""
        if loader[0] in self.stages:
            self.resolved[loader] = signals
            if self.fits:
                stock_monitors.check_names(self.trainer)

    # --- closing ---------------------------------------------------------------------------------------------

    def close(self, stage: str, first_number: int, inside_epoch: bool = False) -> int:
        """Close the stage's windows and those of the probe sets that go with them; returns how many were closed.

        Stoppers are asked and records published. Once the count is taken, ``stoppers.act()`` is due: a checkpoint that
        is saved then holds everything.
        """
        sources, ran_here = self.watcher.sources, self.watcher.sources.ran_instead
        sets = self.probe_sets if self.settings.probe_sets else None
        with_sets = sets is not None and sets.go_with(stage) and sets.feed(stage)  # before: one may be the reference
        ran_there, sources.ran_instead = sources.ran_instead, ran_here
        closed = self._close(stage, first_number, inside_epoch)
        sources.ran_instead = ran_there
        return closed + (self._close(STAGE, first_number + closed, inside_epoch) if with_sets else 0)

    def _close(self, stage: str, first_number: int, inside_epoch: bool) -> int:
        if self.phase.catching == stage:  # a step that was begun and left out
            self.phase.catching = None
            self.watcher.sources.forget()
        windows = self.watcher.of_stage(stage)
        nothing = stage == "val" and not self.validated and embedding_stages.settle(self)
        if nothing or stage not in self.logged_stages or not windows:  # it only served as a reference
            self.watcher.drop(stage)
            return 0
        windows[0].seconds += self._uncharged
        windows[0].started -= self._uncharged
        self.closed.add(stage)
        if inside_epoch:  # else they come later, when Lightning has them
            self.keep_metrics(lightning.fractional_epoch(self.trainer))
        self._uncharged = 0.0
        epoch, step = lightning.fractional_epoch(self.trainer), int(self.trainer.global_step)
        lightning.fail_if_cut(windows, self.trainer, stage)
        if self.background is not None:
            closing.begin(self, stage, first_number, epoch, step)
            return len(windows)
        reference = self.watcher.named(self.settings.reference) if self.settings.reference else None
        closed = self.watcher.close(windows, first_number, epoch, step, reference)
        self._uncharged = publishing.publish(self, windows, closed, inside_epoch)
        return len(windows)

    def keep_metrics(self, epoch: float) -> None:
        """The run's own metrics, as they stand at this epoch, go into the history."""
        own_metrics.keep(self.trainer, self.history, epoch, self.guard)

    def finish(self) -> None:
        """Show what is left to show, and unhook everything."""
        with self.guard.around("showing the last window"):
            self.display.close(self.history.path, report=self.fits)
        if self.background is not None:
            self.background.finish()
        self.watcher.sources.remove()
