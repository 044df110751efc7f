"""Windows of probe sets: run through the model when the stage that they go with closes.

It is the one thing that runs a forward beyond the run's own, so it is only done where it is asked for, and leaves no
trace (see ``isolation``).
"""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_featgeo import _compat
from lightning_featgeo.callbacks import trainer as lightning
from lightning_featgeo.callbacks.isolation import isolated, seed_alike
from lightning_featgeo.callbacks.model_inputs import call, forwards
from lightning_featgeo.callbacks.probe_sets import ProbeSet
from lightning_featgeo.errors import ConfigurationError, Gap, GapKind, explain
from lightning_featgeo.rows.batches import batch_size
from lightning_featgeo.watch.agreement import agree
from lightning_featgeo.watch.samplers import front_to_back
from lightning_featgeo.watch.window import Window

STAGE = "probe_set"
HOSTS = ("val", "train", "test")  # the first of them that is watched: probe sets run when it closes


def host(stages: Iterable[str], doing: str) -> str | None:
    """The stage whose windows probe sets go with: of a fit the first that is watched, else the one that runs."""
    alone = {"validate": "val", "test": "test"}.get(doing)
    return next((stage for stage in HOSTS if stage in stages and alone in (None, stage)), None)


def check_order(trainer: Any, settings: Any) -> None:
    """Refuse averaged weights that are put away before probe sets run: validation would have seen other ones.

    Raises:
        ConfigurationError: with the order that works.
    """
    for callback in trainer.callbacks if settings.probe_sets else ():
        if getattr(callback, "settings", None) is settings:
            return
        if _compat.is_lightnings(callback, "WeightAveraging"):
            name = type(callback).__name__
            raise ConfigurationError(
                f"probe_sets= run when validation ends, and {name} has put the averaged weights away by then, so that "
                f"validation is of others. Put the monitor first: callbacks=[FeatureGeometryMonitor(…), {name}(…)]"
            )


class ProbeSets:
    """The probe sets of one run.

    Args:
        run: the ``LightningRun``.
        sets: by name.
    """

    def __init__(self, run: Any, sets: Mapping[str, ProbeSet]) -> None:
        self._run, self.sets, self._fed, self._tried = run, sets, time.perf_counter(), False
        self._last: dict[str, float] | None = None  # epoch in which each has run, as soon as anyone asks
        self._fed_at = -1  # moment
        ranks = run.watcher.ranks
        ordered = {name: front_to_back(one.loader, ranks) for name, one in sets.items()}
        self.loaders = {name: sets[name].loader if mine is None else mine for name, mine in ordered.items()}
        self._all_read_all = {name for name, mine in ordered.items() if mine is None and ranks.several}

    @staticmethod
    def number(name: str) -> int:
        """Of a set's windows: the same wherever it stands among others."""
        return zlib.crc32(name.encode())

    def is_labelled(self, name: str) -> bool:
        """Whether windows of this name have the run's labels: all but those of some sets."""
        return name not in self.sets or self.sets[name].labelled

    def loader(self, number: int) -> Any:
        """The loader of a set, by its number."""
        return next(self.loaders[name] for name in self.sets if self.number(name) == number)

    def go_with(self, stage: str) -> bool:
        """Whether they run when this stage's windows close."""
        return bool(self.sets) and stage == host(self._run.stages, self._run.trainer.state.fn.value)

    # --- before training -------------------------------------------------------------------------------------

    def try_out(self) -> None:
        """Before training, and once: run the first batch of each, of which nothing is kept.

        Raises:
            ConfigurationError: if it can't be run, or is called as another window; with what to paste.
        """
        self._check_names_and_loaders()  # again: the training loader is there after the sanity check
        for name, one in self.sets.items() if not self._tried else ():
            self._try(name, one)
        self._tried = True

    def _check_names_and_loaders(self) -> None:
        run = self._run
        taken = {name for stage in run.stages for name in run.names(stage)}
        read = [*_listed(run.trainer.train_dataloader), *_listed(getattr(run.trainer, "val_dataloaders", None))]
        for name, loader in self.loaders.items():
            if name in taken:
                raise ConfigurationError(f"probe_sets={{{name!r}: …}}: a loader of the run has this name, rename it")
            if not isinstance(loader, (list, tuple)) and any(loader is one for one in read):
                raise ConfigurationError(
                    f"the probe set {name!r} is a loader of the Trainer, too, and reading it may end its epoch. "
                    "Give it a loader of its own, of the same data set"
                )

    def _try(self, name: str, one: ProbeSet) -> None:
        batch = None
        try:
            with isolated(self._run.trainer, self._run.pl_module, self.loaders[name]):
                batch = next(_fresh(self.loaders[name]), None)
                ran = batch is None or self._ran(lambda: self._forward(one, self._on_device(batch)))
        except Exception as error:
            raise ConfigurationError(self._told(name, one, error, batch, tries=True)) from error
        if not ran:
            path, line = self._run.watcher.paths[0], self._line(name, one, batch, tries=True)
            raise ConfigurationError(f"{path!r} does not run on the probe set {name!r}: say what runs it, as in {line}")

    def _ran(self, forward: Callable[[], Any]) -> bool:
        """Whether what is watched ran; True where that can't be told (nothing is known yet, or code is compiled)."""
        ran: list[torch.nn.Module] = []
        watched = [] if _compat.compiles() else [tap.module for tap in self._run.watcher.sources.taps]
        handles = [module.register_forward_pre_hook(lambda module, _: ran.append(module)) for module in watched]
        try:
            forward()
        finally:
            for handle in handles:
                handle.remove()
        return bool(ran) or not watched

    # --- windows ---------------------------------------------------------------------------------------------

    def _due(self) -> list[str]:
        run, epoch = self._run, lightning.fractional_epoch(self._run.trainer)
        if run.fits and run.phase.moment == self._fed_at:
            return []  # nothing has moved since: training closes behind a validation that turned out to be none
        self._fed_at = run.phase.moment
        if self._last is None:
            self._last = dict.fromkeys(self.sets, 0.0)
            self._last.update({r.stage: r.epoch for r in run.history if r.stage in self.sets})
        often = {name: one.every_n_epochs for name, one in self.sets.items()}
        due = [n for n in self.sets if not run.fits or often[n] == 1 or epoch - self._last[n] >= often[n] - 1e-6]
        self._last.update(dict.fromkeys(due, epoch))
        return due

    def feed(self, stage: str) -> bool:
        """Run those that are due, and stream their rows into windows of their own; returns whether any was.

        Args:
            stage: whose windows are about to be closed.
        """
        run, watcher, due = self._run, self._run.watcher, self._due()
        if not due:
            return False
        for name in set(due) - self._all_read_all:
            watcher.loader_starts((STAGE, self.number(name)), self.loaders[name])
        run.open_windows(STAGE, [run.plan(STAGE, self.number(name), name) for name in due])
        all_vote = run.settings.neighbors.reference_rows == "all"
        for name in sorted(due, key=lambda one: all_vote and one == run.settings.reference):
            window, begin = watcher.windows[STAGE, self.number(name)], time.perf_counter()
            with run.guard.around(f"running the probe set {name!r}", window.fail):
                if all_vote and name == run.settings.reference:
                    self._let_all_vote(window, stage)
                self._feed(name, window)
            window.started, window.seconds = self._fed, time.perf_counter() - begin  # its forward passes are ours
        self._fed = time.perf_counter()
        return True

    def _let_all_vote(self, reference: Window, stage: str) -> None:
        """Every row that comes into the reference votes on rows of the windows that are there, if one asks for it."""
        watcher = self._run.watcher
        compared = (*watcher.of_stage(stage), *watcher.of_stage(STAGE), self._run.open_train_window())
        windows = list({id(one): one for one in compared if one is not None and one is not reference}.values())
        reference.layers = reference.layers or watcher.make_layers(reference.plan)
        agree([*windows, reference], watcher.sources, watcher.ranks, watcher.make_layers)
        for index, part in enumerate(reference.layers):
            metrics = [one.layers[index].metric for one in windows if one.layers]
            asked = part.metric.num_classes is not None and any(metric.reads_votes for metric in metrics)
            if any(watcher.ranks.gather(asked)) if watcher.ranks.several else asked:
                part.metric.votes_on(metrics, watcher.ranks)

    def _feed(self, name: str, window: Window) -> None:
        run, one, loader, batch = self._run, self.sets[name], self.loaders[name], None
        watcher, ranks, shares = run.watcher, run.watcher.ranks, name in self._all_read_all
        with isolated(run.trainer, run.pl_module, loader), self._every_call_counts():
            try:
                if shares:
                    seed_alike()  # all ranks read the same batches, also if a sampler draws them
                first = 0  # sample: as in one process, whoever reads it
                for index, given in enumerate(_fresh(loader)):
                    batch = given
                    on_device = self._on_device(given)
                    mine = not shares or index % ranks.size == ranks.rank
                    if shares:
                        count = batch_size(given) or 0
                        window.positions, first = torch.arange(first, first + count), first + count
                    if mine:
                        run.begin_batch(STAGE, self.number(name), on_device)
                    outputs = self._forward(one, on_device)  # on all ranks: a sharded model's forward needs them all
                    if mine:
                        watcher.end_batch((STAGE, self.number(name)), outputs, on_device)
                    batch = None
            except Exception as error:
                run.phase.catching = None
                watcher.sources.forget()
                if run.settings.on_error == "raise":
                    raise
                window.fail(Gap(GapKind.FAILED, self._told(name, one, error, batch)))

    def _forward(self, one: ProbeSet, batch: Any) -> Any:
        module = self._run.pl_module
        with self._run.trainer.precision_plugin.forward_context():
            return call(module, batch) if one.forward is None else one.forward(module, batch)

    def _on_device(self, batch: Any) -> Any:
        """As the Trainer does with a batch of its own loaders."""
        trainer, module = self._run.trainer, self._run.pl_module
        batch = _compat.before_batch_transfer(module, trainer.precision_plugin.convert_input(batch))
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    @contextmanager
    def _every_call_counts(self) -> Iterator[None]:
        """No step runs, and what is called now is what is watched."""
        sources = self._run.watcher.sources
        before, sources.is_inside_step = sources.is_inside_step, None
        try:
            yield
        finally:
            sources.is_inside_step = before

    # --- words -----------------------------------------------------------------------------------------------

    def _told(self, name: str, one: ProbeSet, error: Exception, batch: Any, tries: bool = False) -> str:
        """What went wrong; ``batch``: the one that could not be run, None if the loader could not give it."""
        if batch is None:
            return f"the loader of the probe set {name!r} failed with {explain(error)}"
        told = f"the probe set {name!r} can't be run: {explain(error)}"
        if one.forward is not None:
            return told
        return f"{told}. Say how its batches enter: {self._line(name, one, batch, tries)}"

    def _line(self, name: str, one: ProbeSet, batch: Any, tries: bool) -> str:
        """What to paste: the first function that runs what is watched, where they may be tried."""
        paths = self._run.watcher.paths
        offered = forwards(self._run.pl_module, paths[0] if paths else None, batch)
        right = next((text for text, forward in offered if tries and self._would_run(forward, batch)), offered[0][0])
        rest = "" if one.labelled else ", labelled=False"
        return f"probe_sets={{{name!r}: ProbeSet(loader, forward={right}{rest})}}"

    def _would_run(self, forward: Callable[[Any, Any], Any], batch: Any) -> bool:
        run = self._run
        try:
            with isolated(run.trainer, run.pl_module), run.trainer.precision_plugin.forward_context():
                return self._ran(lambda: forward(run.pl_module, self._on_device(_copied(batch))))
        except Exception:  # of the user's model: this way in is not the one, and the next is tried
            return False


def _fresh(loader: Any) -> Iterator[Any]:
    """Batches that nobody else holds, as a forward may write into them: a DataLoader makes its own."""
    if isinstance(loader, DataLoader):
        return iter(loader)
    return map(_copied, loader)


def _copied(batch: Any) -> Any:
    try:
        return copy.deepcopy(batch)
    except Exception:  # what can't be copied is given as it is
        return batch


def _listed(loaders: Any) -> list[Any]:
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
