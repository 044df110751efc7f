"""Probe sets: loaders of the user's own that no step reads, run through the model when a window closes.

It is the one thing that runs a forward beyond the run's own, so it is only done where it is asked for. It leaves no
trace: evaluation mode, no gradient, and afterwards all random states and modes are what they were.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_featgeo import _compat
from lightning_featgeo.capture.names import unique_segments
from lightning_featgeo.errors import ConfigurationError, Gap, GapKind, explain
from lightning_featgeo.watch.agreement import agree
from lightning_featgeo.watch.samplers import front_to_back
from lightning_featgeo.watch.window import Window

STAGE = "probe_set"
HOSTS = ("val", "train", "test")  # the first of them that is watched: probe sets run when it closes
WITH_A_FORWARD = "lambda module, batch: module(batch[0])"


@dataclass(frozen=True)
class ProbeSet:
    """Samples that no step of the run reads: ``FeatureGeometryMonitor(probe_sets={"ood": ProbeSet(loader)})``.

    Args:
        loader: an iterable of batches. A ``DataLoader`` of a whole map-style data set is read from front to back, also
            if it shuffles, and divided among processes. Any other one is read as it comes; with several processes,
            each reads all batches and takes its share.
        forward: ``forward(module, batch)`` runs the watched layer on a batch that is on the device. None: the module is
            called as ``module(x)`` with the first of a tuple's tensors (as many of them as its ``forward`` needs), with
            those entries of a dict that its ``forward`` names, or with the batch itself.
        every_n_epochs: run it so often, where other windows come more often.
        labelled: False: its labels are none of the run's classes (an out-of-distribution set), and are not read.

    Raises:
        ConfigurationError: if ``every_n_epochs`` is below 1, or the loader can't be read more than once.
    """

    loader: Any
    forward: Callable[[torch.nn.Module, Any], Any] | None = None
    every_n_epochs: int = 1
    labelled: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.every_n_epochs, bool) or not isinstance(self.every_n_epochs, int) or self.every_n_epochs < 1:
            raise ConfigurationError(f"ProbeSet(every_n_epochs={self.every_n_epochs!r}): a whole number from 1 on")
        if not hasattr(self.loader, "__iter__") and not hasattr(self.loader, "__getitem__"):
            raise ConfigurationError(f"ProbeSet({type(self.loader).__name__}): give a DataLoader, or a list of batches")
        if hasattr(self.loader, "__next__"):
            raise ConfigurationError("ProbeSet(…) was given an iterator, which is empty after the first window")


def named(given: Mapping[str, Any] | None, taken: Iterable[str]) -> dict[str, ProbeSet]:
    """Probe sets by their name in logged names.

    Args:
        given: as the user gave them: a loader, or a :class:`ProbeSet`.
        taken: names that are others' windows.

    Raises:
        ConfigurationError: if a name is taken, two become the same, or what is given is no loader.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f'probe_sets={type(given).__name__}: paste probe_sets={{"clean_train": loader}}')
    names = unique_segments([str(name) for name in given], "probe_sets")
    for name in names:
        if name in taken:
            raise ConfigurationError(f"probe_sets= has a set called {name!r}, and so are other windows: rename it")
    return {
        name: one if isinstance(one, ProbeSet) else ProbeSet(one)
        for name, one in zip(names, given.values(), strict=True)
    }


def host(stages: Iterable[str]) -> str | None:
    """The stage whose windows probe sets go with."""
    return next((stage for stage in HOSTS if stage in stages), None)


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
        self._run, self.sets, self._fed = run, sets, time.perf_counter()
        ranks = run.watcher.ranks
        shared = {name: front_to_back(one.loader, ranks) for name, one in sets.items()}
        self.loaders = {name: sets[name].loader if mine is None else mine for name, mine in shared.items()}
        self._all_read_all = {name for name, mine in shared.items() if mine is None and ranks.several}

    def go_with(self, stage: str) -> bool:
        """Whether they run when this stage's windows close."""
        return bool(self.sets) and stage == host(self._run.stages)

    def try_out(self) -> None:
        """Before training: run the first batch of each, of which nothing is kept.

        Raises:
            ConfigurationError: if it can't be run, with what to paste.
        """
        for name, one in self.sets.items():
            try:
                with untouched(self._run, self.loaders[name]):
                    for batch in self.loaders[name]:
                        self._forward(one, self._on_device(batch))
                        break
            except Exception as error:
                raise ConfigurationError(self._told(name, one, error)) from error

    def feed(self, stage: str) -> bool:
        """Run those that are due, and stream their rows into windows of their own; returns whether any was.

        Args:
            stage: whose windows are about to be closed.
        """
        run, watcher, epoch = self._run, self._run.watcher, self._run.trainer.current_epoch + 1
        due = [
            (i, name)
            for i, (name, one) in enumerate(self.sets.items())
            if not run.fits or epoch % one.every_n_epochs == 0
        ]
        for number, name in due:
            if name not in self._all_read_all:
                watcher.loader_starts((STAGE, number), self.loaders[name])
        watcher.open(STAGE, [run.plan(STAGE, number, name) for number, name in due], run.trainer.global_step)
        all_vote = run.settings.neighbors.reference_rows == "all"
        for number, name in sorted(due, key=lambda one: all_vote and one[1] == run.settings.reference):
            window, begin = watcher.windows[STAGE, number], time.perf_counter()
            with run.guard.around(f"running the probe set {name!r}", window.fail):
                if all_vote and name == run.settings.reference:
                    self._let_all_vote(window, stage)
                self._feed(number, name, window)
            window.started, window.seconds = self._fed, time.perf_counter() - begin  # its forward passes are ours
        self._fed = time.perf_counter()
        return bool(due)

    def _let_all_vote(self, reference: Window, stage: str) -> None:
        """Every row that comes into the reference votes on the rows of the windows that are closed with it."""
        watcher = self._run.watcher
        windows = [one for one in (*watcher.of_stage(stage), *watcher.of_stage(STAGE)) if one is not reference]
        reference.layers = reference.layers or watcher.make_layers(reference.plan)
        agree([*windows, reference], watcher.sources, watcher.ranks, watcher.make_layers)
        for index, part in enumerate(reference.layers):
            part.metric.votes_on([one.layers[index].metric for one in windows if one.layers], watcher.ranks)

    def _feed(self, number: int, name: str, window: Window) -> None:
        watcher, ranks, one = self._run.watcher, self._run.watcher.ranks, self.sets[name]
        with untouched(self._run, self.loaders[name]), self._every_call_counts():
            try:
                for index, given in enumerate(self.loaders[name]):
                    batch = self._on_device(given)
                    mine = name not in self._all_read_all or index % ranks.size == ranks.rank
                    if mine:
                        watcher.begin_batch(STAGE, batch)
                    outputs = self._forward(one, batch)  # on all ranks: a sharded model's forward needs them all
                    if mine:
                        watcher.end_batch((STAGE, number), outputs, batch)
            except Exception as error:
                self._run.phase.catching = None
                watcher.sources.forget()
                window.fail(Gap(GapKind.FAILED, self._told(name, one, error)))

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

    def _told(self, name: str, one: ProbeSet, error: Exception) -> str:
        told = f"the probe set {name!r} can't be run: {explain(error)}"
        if one.forward is None:
            line = f"probe_sets={{{name!r}: ProbeSet(loader, forward={WITH_A_FORWARD})}}"
            told += f". Say how its batches enter the model, as in {line}"
        return told


@contextmanager
def untouched(run: Any, loader: Any) -> Iterator[None]:
    """Evaluation mode, no gradient; then modes and random states as they were, the loader's own generator too."""
    modes = {module: module.training for module in run.pl_module.modules()}
    generators = {id(g): g for g in _generators_of(loader)}
    states = {key: generator.get_state() for key, generator in generators.items()}
    try:
        with isolate_rng(), torch.no_grad():
            if any(modes.values()):
                run.pl_module.eval()
            yield
    finally:
        for module, training in modes.items():
            if module.training != training:
                module.training = training
        for key, generator in generators.items():
            generator.set_state(states[key])


def _generators_of(loader: Any) -> Iterator[torch.Generator]:
    for holder in (loader, getattr(loader, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator


def call(module: torch.nn.Module, batch: Any) -> Any:
    """Call a module with what of a batch its ``forward`` takes."""
    needed, names, takes_any = _takes(module)
    if isinstance(batch, Mapping):
        given = {key: value for key, value in batch.items() if takes_any or key in names}
        if given and set(needed) <= set(given):
            return module(**given)
        return module(batch)
    if isinstance(batch, (tuple, list)) and batch and not hasattr(batch, "_fields"):
        return module(*batch[: max(1, len(needed))])
    return module(batch)


def _takes(module: torch.nn.Module) -> tuple[list[str], list[str], bool]:
    """Arguments that a forward needs, all that it names, and whether it takes others by keyword."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return [], [], False
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in plain if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
    return needed, [p.name for p in plain], any(p.kind is p.VAR_KEYWORD for p in parameters)
