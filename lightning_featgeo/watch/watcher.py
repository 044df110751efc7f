"""The pipeline of a window, once for every engine: open, stream batch by batch, close, announce.

Whoever drives the loop (Lightning's hooks, Fabric, the Hugging Face Trainer, a loop of one's own) says *when*; nothing
here knows a trainer. Errors of ours become a warning and a gap on the way (see ``watch.guard``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_featgeo.capture.sources import Sources
from lightning_featgeo.capture.taps import is_broken
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.distributed.sharding import whole
from lightning_featgeo.errors import Gap
from lightning_featgeo.history.history import History
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.rows import versions
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.tree import snapshot
from lightning_featgeo.rows.versions import Versions
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.agreement import Key, Make, agree
from lightning_featgeo.watch.announcement import Announcement, fill, say
from lightning_featgeo.watch.gaps import closed_as_gap
from lightning_featgeo.watch.guard import Guard
from lightning_featgeo.watch.layers import check_batch, learn_labels, watched_layers
from lightning_featgeo.watch.phase import Phase
from lightning_featgeo.watch.plan import ClosedWindow, Report, WindowPlan
from lightning_featgeo.watch.price import WORTH_SAYING, Price
from lightning_featgeo.watch.sample_ids import SampleIds
from lightning_featgeo.watch.samplers import Shard
from lightning_featgeo.watch.settings import WatchSettings
from lightning_featgeo.watch.window import Window, compared_with, key_of


class Watcher:
    """Windows over the features of one model.

    Args:
        settings: what is watched and computed.
        sources: where features come from.
        ranks: the processes that see different data.
        history: where closed windows go.
        stated_classes: C as the model or datamodule states it.
        policy: of the metrics.
        id_key: selector of the samples' names; None: they have none.
    """

    def __init__(
        self, settings: WatchSettings, sources: Sources, ranks: Ranks, history: History, stated_classes: int | None,
        policy: Policy, id_key: Any = None,
    ) -> None:  # fmt: skip
        self.settings, self.sources, self.ranks, self.history = settings, sources, ranks, history
        self.stated_classes, self.policy, self.id_key = stated_classes, policy, id_key
        self.guard = Guard(settings.on_error, tells=ranks.rank == 0)
        self.phase, self.price = Phase(), Price()
        self.windows: dict[Key, Window] = {}
        self.shards: dict[Key, Shard] = {}  # by window: where its loader is
        self.batch: Any = None  # of the step that runs, as it was given
        self._versions = Versions()  # of its tensors, as it began
        self._opened: dict[str, list[Key]] = {}  # stage -> its windows, as it was last opened
        self.make_layers: Make = lambda plan: watched_layers(settings, sources, stated_classes, plan, self.policy)
        self.on_announcement: Callable[[Window], Announcement] = lambda window: Announcement(
            sources.layers, window, [window.plan.name], ranks=ranks.size
        )

    # --- opening ---------------------------------------------------------------------------------------------

    def of_stage(self, stage: str) -> list[Window]:
        """The stage's windows as it was last opened, in the order of their loaders."""
        return [self.windows[key] for key in self._opened.get(stage, ())]

    def named(self, name: str | None) -> Window | None:
        """The window of that name, if it was ever opened."""
        return next((window for window in self.windows.values() if window.plan.name == name), None)

    def open(self, stage: str, plans: Iterable[WindowPlan], step: int) -> None:
        """Begin the stage's windows, one a loader. Whatever fails now, other ranks will close them."""
        self.phase.open.discard(stage)  # its windows of last time are over
        self._look_for_new_modules()
        self.phase.open.add(stage)
        self._opened[stage] = []
        self.sources.ran_instead = []
        for plan in plans:
            window = self.windows.setdefault((stage, plan.number), Window(plan))
            self._opened[stage].append((stage, plan.number))
            if plan.keeps_samples != window.plan.keeps_samples:  # loaders that were made anew may shuffle now
                window.layers = []  # and these were made to pair their windows, or not to
            window.plan = plan
            if self.id_key is not None and window.ids is None:
                window.ids = SampleIds(self.id_key)
            with self.guard.around(f"opening the {plan.name} window", window.fail):
                window.open(step)
                window.moment = self.phase.moment
                window.shard = self.shards.get((stage, plan.number))

    def forget_layers(self) -> list[Window]:
        """What is watched, or is known of it, has changed: windows begin anew; those that are being fed, next time."""
        fed = []
        for window in self.windows.values():
            if window.plan.stage in self.phase.open and window.batches:
                window.is_outdated = True
                fed.append(window)
            else:
                window.layers = []
        return fed

    def _look_for_new_modules(self) -> None:
        """Watched modules may have been replaced: a window that is being fed goes on, with the head of now."""
        with self.guard.around("looking for modules that were replaced", lost="the old ones are watched"):
            if self.sources.refresh():
                for window in self.forget_layers():
                    for part in window.layers:
                        part.metric.use_head(self.sources.head)

    def loader_starts(self, key: Key, loader: Any, from_start: bool = True) -> None:
        """A window's loader, None if it can't be told, begins anew: samples are counted to tell repeats from others.

        ``key``: stage and number of the window that is fed from it, now or later. ``from_start``: False: nobody saw it
        begin (a resumed epoch), so that nobody knows where it is.
        """
        if key[0] == "train":
            self.sources.watched.scoring.begin_epoch()
        if not self.ranks.several:
            return  # nothing is repeated to even out ranks
        self.shards[key] = shard = Shard.of(loader, self.ranks)
        shard.seen = 0 if from_start else None
        if key in self.windows:
            self.windows[key].shard = shard

    def missed_batch(self, key: Key) -> None:
        """A batch was not watched: the position in the loader is now unknown."""
        if key in self.shards:
            self.shards[key].seen = None

    def drop(self, stage: str) -> None:
        """Forget the stage's open windows."""
        self.phase.open.discard(stage)

    # --- streaming -------------------------------------------------------------------------------------------

    def begin_batch(self, stage: str, batch: Any = None) -> None:
        """Catch what the coming forwards make.

        Args:
            stage: whose step begins.
            batch: what it is given: kept as it is now, as a step may take parts out of it.
        """
        with self.guard.around("catching features", self.failing(stage)):
            self.batch = None if batch is None else snapshot(batch)
            self._versions = Versions(self.batch)
            if is_broken(self.sources.watched.chains):
                self._look_for_new_modules()
            self.sources.open()
            self.phase.catching = stage

    def end_batch(self, key: Key, outputs: Any, batch: Any, refuses: bool = False) -> bool:
        """Stream what was caught into a window, if it is there and open; returns whether rows arrived.

        Args:
            key: stage and number of the window; without an open one, what was caught only tells the head.
            outputs: what the step returned.
            batch: what the step was given.
            refuses: a wrong setting ends the run: nothing was trained yet.
        """
        self.phase.catching = None
        batch, self.batch = batch if self.batch is None else self.batch, None
        window = self.windows.get(key) if key[0] in self.phase.open else None
        if window is None:
            with self.guard.around("catching features", refuses=refuses):
                learn_labels(self, key[0], outputs, batch)
            return False
        begin, batches = time.perf_counter(), window.batches
        try:
            return self._stream(window, outputs, batch, refuses)
        finally:
            window.seconds += time.perf_counter() - begin
            if window.batches == batches:
                self.missed_batch(key)

    def _stream(self, window: Window, outputs: Any, batch: Any, refuses: bool) -> bool:
        with self.guard.around(f"streaming a {window.plan.name} batch", window.fail, refuses=refuses):
            caught = self._caught(outputs, batch)
            if window.failed is not None:
                return False
            if not window.layers:
                window.layers = self.make_layers(window.plan)
            window.add(caught, batch, self.ranks)
            if self._versions.changed:
                window.note(versions.NOTE)
            if not any(caught):
                return False
            if not self.phase.trained:
                self.phase.rows_arrived(key_of(window))
            window.doubt(self.phase.knows_rows)
            if window.plan.logged and not self.phase.announced:
                self.phase.announced = True
                self._announce(window)
            return True
        return False

    def _caught(self, outputs: Any, batch: Any) -> list[list[Call]]:
        calls = self.sources.take(outputs, batch)
        return [
            [one if type(one.features) is Tensor else replace(one, features=whole(one.features)) for one in of_layer]
            for of_layer in calls
        ]

    def look(self, batch: Any) -> bool:
        """Look at a batch for settings that can't work; returns whether it has labels.

        Raises:
            ConfigurationError: if a selector finds nothing, or a named signal lacks its input.
        """
        return check_batch(self.settings, batch, self.stated_classes, self.sources)

    def failing(self, stage: str) -> Callable[[Gap], None]:
        """What makes all windows of a stage gaps."""

        def fail(gap: Gap) -> None:
            for window in self.of_stage(stage):
                window.fail(gap)

        return fail

    # --- closing ---------------------------------------------------------------------------------------------

    def close(
        self, closing: Sequence[Window], first_number: int, epoch: float, step: int, reference: Window | None = None
    ) -> list[ClosedWindow]:
        """Close windows that were open together; with several processes, all of them must.

        Args:
            closing, first_number: the windows, and the number of the first of them within the run.
            epoch, step: now.
            reference: the window that they are compared with, in whatever state it is now.
        """
        told = self.settle(closing, reference)
        closed: list[ClosedWindow] = []
        for number, window in enumerate(closing, first_number):
            closed += self._close_one(window, number, epoch, step, told, reference)
        for one in closed:
            self.guard.warn_of(one.record)
        self.tell(closing, sum({one.record.window: one.record.seconds for one in closed}.values()))
        return closed

    def settle(self, closing: Sequence[Window], reference: Window | None = None) -> dict[Key, list[Report]]:
        """Windows get no more rows; what each rank tells of each one, or {} where they can't be closed."""
        told: dict[Key, list[Report]] = {}
        self.phase.open -= {window.plan.stage for window in closing}
        involved = closing if reference is None or reference in closing else [*closing, reference]
        for window in involved:
            with self.guard.around(f"adding the last rows of {window.plan.name}", window.fail):
                window.catch_up()
        with self.guard.around(f"closing windows of {closing[0].plan.stage}", self.failing(closing[0].plan.stage)):
            if self.ranks.several or not all(window.layers for window in involved):
                told = agree(involved, self.sources, self.ranks, self.make_layers)
            else:
                told = {key_of(window): [window.report()] for window in involved}
        for window in closing:  # taps: none with features=, one a layer else
            for part, tap in zip(window.layers, self.sources.watched.taps, strict=False):
                part.frozen = tap.frozen
        return told

    def _close_one(
        self, window: Window, number: int, epoch: float, step: int, told: Mapping[Key, list[Report]],
        reference: Window | None,
    ) -> list[ClosedWindow]:  # fmt: skip
        if told and window.layers:  # without any, nobody has found what to watch: a gap
            with self.guard.around(f"computing the {window.plan.name} window", window.fail):
                reports, compared = told[key_of(window)], compared_with(window, reference, told)
                if isinstance(compared, Window) and not compared.plan.logged:
                    window.seconds, compared.seconds = window.seconds + compared.seconds, 0.0  # it has no record
                return window.close(number, epoch, step, self.ranks, reports, compared, self.sources.ran_instead)
        return closed_as_gap(window, number, epoch, step, told.get(key_of(window)), self.settings)

    @property
    def paths(self) -> list[str]:
        """The watched layers, as far as they are known."""
        return [layer.path for layer in self.sources.watched.layers]

    def tell(self, windows: Sequence[Window], total: float) -> None:
        """What windows that have closed together cost: ``total`` seconds, where that is much."""
        if total < WORTH_SAYING:
            return
        with self.guard.around("looking at what windows cost", lost="the curves are not affected"):
            text = self.price.look(windows, total)
            if text is not None and self.ranks.rank == 0:
                say(fill(text, 2))

    def _announce(self, window: Window) -> None:
        with self.guard.around("announcing what is watched", lost="the curves are not affected"):
            told = self.on_announcement(window)
            self.phase.knows_rows = window.doubt(False)
            self.history.describe(told.header)
            say(told.text) if self.ranks.rank == 0 else None
