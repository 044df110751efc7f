"""FeatureGeometryMonitor: the callback. It maps Lightning's hooks onto a ``LightningRun``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.callbacks import checkpointing, closing, embedding_stages, stock_monitors, words
from lightning_featgeo.callbacks.checkpointing import Saved
from lightning_featgeo.callbacks.first_batches import check
from lightning_featgeo.callbacks.lightning_types import LightningModule, Trainer
from lightning_featgeo.callbacks.other_trainers import OtherTrainers
from lightning_featgeo.callbacks.own_metrics import keep_after
from lightning_featgeo.callbacks.publishing import names_of_run, silence_advice
from lightning_featgeo.callbacks.run import LightningRun
from lightning_featgeo.callbacks.settings import MonitorSettings
from lightning_featgeo.callbacks.trainer import history_path
from lightning_featgeo.callbacks.training_hooks import TrainingHooks
from lightning_featgeo.capture.taps import FeatureTap
from lightning_featgeo.errors import explain
from lightning_featgeo.history.history import History
from lightning_featgeo.watch.settings import documents, takes

_OF_A_RUN = ("_run", "_taps", "_undo", "history", "_number", "_saved", "_state_of_run")


@documents(MonitorSettings)
class FeatureGeometryMonitor(TrainingHooks):
    """Streams a layer's features into bounded accumulators and logs geometry curves when a window closes.

    A *window* is a validation run, a training epoch, or every so many training steps. A *gap* is a
    signal without a value in a window; the history has its reason.

    Args:

    Logged: ``featgeo/<stage>/<signal>`` for the first layer, ``featgeo/<stage>/<layer>/<signal>`` for others,
    ``featgeo_monitor/…`` for row counts, standard errors and cost. ``history`` keeps every window.

    Raises:
        ConfigurationError: if an argument can't work, with what can.
    """

    @takes(MonitorSettings)
    def __init__(self, *args: Any, **settings: Any) -> None:
        self.settings = MonitorSettings(*args, **settings)
        self.history = History()
        self._number = 0
        self._key: str | None = None
        self._taps: list[FeatureTap] = []  # kept over runs: a compiled graph remembers a tap's key
        self._run: LightningRun | None = None
        self._saved: Saved | None = None
        self._state_of_run: dict[str, Any] = {}  # of the last fit, for checkpoints that are written after it
        self._undo: list[Callable[[], None]] = []
        self._others = OtherTrainers()

    def __getstate__(self) -> dict[str, Any]:  # without its run: among saved hyper-parameters, it has not begun
        return {**self.__dict__, "_run": None, "_undo": [], "_taps": []}

    @property
    def state_key(self) -> str:
        """Distinct for monitors of other layers or stages in one trainer."""
        if self._key is None:  # Lightning asks at every hook
            s, told = self.settings, getattr(self.settings.features, "__qualname__", self.settings.features)
            self._key = _compat.state_key(self, layer=s.layer, head=s.head, features=told, stages=sorted(s.stages))
        return self._key

    # --- a run begins and ends -------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layer, hook it, and look at who watches our names."""
        run = self._start(trainer, pl_module)
        with run.guard.around("checking which callbacks monitor our curves", refuses=True):
            run.choose_stages()
            if run.watcher.sources.watched.by_loss:  # a checkpoint tells
                embedding_stages.begin(run, False)
            self._undo += stock_monitors.let_gaps_pass(trainer)

    def known_geometry_names(self) -> list[str]:
        """Every name that the running fit can log, as far as is known; also tells stoppers that a monitor is there."""
        return names_of_run(self._run) if self._run is not None else []

    def known_stages(self) -> list[str]:
        """Stages whose windows can be judged while training goes on, as they are logged; validation first."""
        run, watched = self._run, () if self._run is None else self._run.stages
        return [name for stage in ("val", "train") if run and stage in watched for name in run.names(stage)]

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All monitors have started: see whether everybody's names fit."""
        stock_monitors.check_names(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether everybody's names fit. After a resume, the training window that was open goes on."""
        if self._run is not None and self._run.stages == self.settings.stages:  # the loaders are there now
            self._run.choose_stages()
        stock_monitors.check_names(trainer)
        if self._run is not None:
            self._run.try_out()
            closing.go_on(self._run)
            checkpointing.go_on(self._run)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> LightningRun:
        fits, nested = trainer.state.fn == "fit", self._others.are_inside(self._run, trainer)
        saved = self._saved if fits else None
        if nested:
            self._others.wait({name: getattr(self, name) for name in _OF_A_RUN})
            self._run, self._taps, self._undo = None, [], []
        self.teardown(trainer, pl_module, "restart")
        if saved is not None:
            self.history, self._number = self.history.anew(), saved.windows
        elif nested or (fits and not (self._others.fits(trainer, pl_module) and trainer.global_step)):
            self.history, self._number = self.history.anew(), 0  # evaluation afterwards adds to it
        self.history.path = history_path(trainer)
        if saved is not None:
            self._others.fits(trainer, pl_module)
            self.history.restore(saved.records, saved.events, saved.metrics, saved.layouts)
        self._run = LightningRun(self.settings, trainer, pl_module, self.history, self._taps, saved)
        if not fits:
            self._others.adopt(self._run, self._state_of_run)
        if self._run.watcher.ranks.several:
            self._undo.append(silence_advice())
        return self._run

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unhook, and give stock monitors back what was changed."""
        if stage != "restart" and self._others.are_inside(self._run, trainer):
            return  # of another trainer, whose stages are not watched
        if self._run is not None:
            if self._run.fits:
                self._state_of_run = checkpointing.state_of(self._run)
            elif stage in ("validate", "test"):
                self.history.end("finished")
            self._run.finish()
            self._run = None
        for undo in self._undo:
            undo()
        self._undo, self._saved = [], None  # what a run has not taken up is of no later one
        if stage != "restart":
            self.__dict__.update(self._others.go_on())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The history says that the run has finished."""
        if self._run is not None:
            self._run.keep_metrics(float(trainer.current_epoch))
            closing.go_on(self._run)  # where nothing was left to train
            self.history.end("finished")
            words.of_end_of_fit(self._run)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unhook also when the run dies; the history is on disk already. A checkpoint may still be written."""
        if self._run is not None and self._run.fits and self._run.trainer is trainer:
            closing.publish_alone(self._run)
            self.history.end(f"died of {explain(exception)}"[:500])
        self.teardown(trainer, pl_module, "exception")

    # --- evaluation ------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a window for each validation loader."""
        self._evaluation_start("val", "validate", trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a window for each test loader."""
        self._evaluation_start("test", "test", trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Catch this batch."""
        self._evaluation_batch_start("val", dataloader_idx, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Catch this batch."""
        self._evaluation_batch_start("test", dataloader_idx, batch)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stream what was caught."""
        self._evaluation_batch_end("val", dataloader_idx, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stream what was caught."""
        self._evaluation_batch_end("test", dataloader_idx, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the windows."""
        self._evaluation_end("val", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run's own metrics are there now; also those of a test after the fit that is not watched."""
        keep_after(trainer, self.history, self._run)

    on_test_end = on_validation_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the windows."""
        self._evaluation_end("test", trainer)

    def _evaluation_start(self, stage: str, alone: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if stage not in (self.settings.stages if self._run is None else self._run.stages):
            return
        if trainer.state.fn == alone:  # not inside fit
            self._start(trainer, pl_module)
        run = self._run
        if run is None:
            return
        with run.guard.around(f"opening {stage} windows", refuses=not run.phase.trained, lost="it has no windows now"):
            for name in run.names(stage):
                run.publisher.forget_stale(f"featgeo/{name}/")
            # The sanity check is looked at for errors (once the head is known); nothing of it is kept or logged.
            if not (trainer.sanity_checking and run.watcher.sources.scouting):
                run.open_if_due(stage)

    def _evaluation_batch_start(self, stage: str, loader: int, batch: Any) -> None:
        if self._run is not None:
            check(self._run, stage, loader, batch)
            if stage in self._run.phase.open:
                self._run.begin_batch(stage, loader, batch)

    def _evaluation_batch_end(self, stage: str, loader: int, outputs: Any, batch: Any) -> None:
        if self._run is not None and self._run.phase.catching == stage:
            self._run.end_batch(stage, loader, outputs, batch)

    def _evaluation_end(self, stage: str, trainer: Trainer) -> None:
        if self._run is not None and trainer.sanity_checking:
            self._run.watcher.drop(stage)
            self._run.try_out()
        elif self._run is not None and self._run.is_open(stage):
            self._close(stage)

    def _close(self, stage: str, inside_epoch: bool = False) -> None:
        """Close the stage's windows; what alarms ask for comes last."""
        if self._run is not None:
            self._number += self._run.close(stage, self._number, inside_epoch)
            if self._run.stoppers.stoppers:
                self._run.stoppers.act()

    def state_dict(self) -> dict[str, Any]:
        """Closed windows, what is watched, and the open training window: see ``checkpointing``."""
        of_run = self._state_of_run if self._run is None else checkpointing.state_of(self._run)
        return checkpointing.save(self._number, self.history, of_run)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint. One that can't be read is no reason to end a run: the curves begin anew."""
        if self.settings.resume:
            self._saved = Saved.read(state_dict)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose curves are of another layer or stage.

        Raises:
            ConfigurationError: with what it holds, and what to do.
        """
        if trainer.state.fn == "fit" and self.settings.resume:
            checkpointing.refuse_other_curves(checkpoint, self, trainer)
