"""FeatureGeometryMonitor: the callback. It says when to catch, when to open and when to close; ``Run`` does it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from lightning_featgeo.callbacks import checkpointing as resuming
from lightning_featgeo.callbacks import publishing, stock_monitors
from lightning_featgeo.callbacks.checkpointing import Saved
from lightning_featgeo.callbacks.run import Run
from lightning_featgeo.capture.sources import FeaturesFrom
from lightning_featgeo.capture.taps import FeatureTap
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning, explain
from lightning_featgeo.history.history import History
from lightning_featgeo.rows.batches import Selector
from lightning_featgeo.rows.views import Views
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.settings import Settings, Taste, fallback_stages


class FeatureGeometryMonitor(Callback):
    """Streams a layer's features into bounded accumulators and logs geometry curves when a window closes.

    Args:
        layer: path or glob of the module(s) whose **output** is watched, one or many. None: the penultimate
            features, that is the **input** of the head.
        head: path of the classifier. None: found by rule (see ``heads``); an ambiguous model is an error.
        features: a key of the step's returned dict, or a callable ``(outputs, batch)``, instead of a module.
        signals: names, groups, presets ("classifier", "self_supervised", "tokens", "embeddings", "regressor") or "all";
            "auto" tells the kind of run from labels, views and pooling, and prints which it took and why.
        pool: "mean", "cls", "last", "tokens" or an einops pattern; None: inferred from the shape, and printed.
        labels, mask: key, index or callable into the batch; "auto" finds the usual ones; None: absent.
        views: "auto" (a call of the batch's size is a view), the number stacked in a call (2 or "2 b": view after view;
            "b 2": sample by sample; also where the batch itself holds each sample twice), "v b" or "b v" (the same, the
            number told by the batch), a callable on the batch, or None (each call brings new samples).
        num_classes: C. None: the head's outputs, or what the model or datamodule says.
        stages: of "train", "val", "test". Validation sees one weight state; training curves run over the window.
        loader_names: names of several validation (or test) loaders, used in the logged names.
        every_n_epochs: a window every so many epochs.
        every_n_train_steps: training windows of so many optimiser steps instead of epochs.
        bank_size, k, knn_vote_k, seed: see ``GeometryMetric``.
        reference: "train" or the name of a loader: fidelity and out-of-distribution signals compare with its rows
            of the same epoch (as many as have been seen when validation runs), and ``knn_accuracy`` votes from them.
            "train" is then caught too, and logged only if it is in ``stages``; its rows are those of training mode, so
            a loader of clean training rows compares more alike.
        groups: key, index or callable into the batch: site, scanner or speaker of each sample (``robustness_index``).
        ignore_index: class index of rows without a class, as in ``CrossEntropyLoss``; negative ones are too. One-hot
            and smoothed labels count as classes; mixtures (mixup, several positives) are left out of class signals.
        resume: go on with the curves of a checkpoint that ``fit`` starts from; False begins new ones.
        on_error: "warn" turns an error of ours into a warning and a gap; "raise" is for tests.
        tokens_per_sequence: with ``pool="tokens"``, at most so many tokens of each sequence count, the same ones in
            every epoch and on any number of processes.
        skip_tokens: so many real tokens at each sequence's start don't count: sinks such as BOS.
        headline: the signal on the progress bar; None: the first one.
        class_names: names in tables and pictures, in the order of class indices.
        matrix_classes: so many classes at most in the matrix of cosines: those nearest to others.
        id_key: key, index or callable into the batch: what each sample is called in tables. None: its position.
        embedding_rows: so many feature rows (at most 1,000) are given to loggers that can show them in the plane.

    Logged: ``featgeo/<stage>/<signal>`` for the first layer, ``featgeo/<stage>/<layer>/<signal>`` for others,
    ``featgeo_monitor/…`` for row counts, standard errors and cost. ``history`` keeps every window.
    """

    def __init__(
        self,
        layer: str | Sequence[str] | None = None,
        head: str | None = None,
        features: FeaturesFrom | None = None,
        signals: str | Sequence[str] = "auto",
        pool: str | None = None,
        labels: Selector = "auto",
        mask: Selector = "auto",
        views: Views = "auto",
        num_classes: int | None = None,
        stages: str | Sequence[str] = ("val",),
        loader_names: Sequence[str] | None = None,
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        bank_size: int | Literal["auto"] = "auto",
        k: int = 20,
        knn_vote_k: int = 200,
        seed: int = 0,
        reference: str | None = None,
        groups: Selector = None,
        ignore_index: int = -100,
        resume: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        tokens_per_sequence: int | None = None,
        skip_tokens: int = 0,
        headline: str | None = None,
        class_names: Sequence[str] | None = None,
        matrix_classes: int = 20,
        id_key: Selector = None,
        embedding_rows: int = 0,
    ) -> None:
        self.settings = Settings(
            layer=layer, head=head, features=features, signals=signals, pool=pool, labels=labels, mask=mask,
            views=views, num_classes=num_classes, stages=stages, loader_names=loader_names,
            every_n_epochs=every_n_epochs, every_n_train_steps=every_n_train_steps, bank_size=bank_size, k=k,
            knn_vote_k=knn_vote_k, seed=seed, reference=reference, groups=groups, ignore_index=ignore_index,
            resume=resume, on_error=on_error, tokens_per_sequence=tokens_per_sequence, skip_tokens=skip_tokens,
            id_key=id_key, taste=Taste(headline, class_names, matrix_classes, embedding_rows),
        )  # fmt: skip
        self.history = History()
        self._number = 0
        self._taps: list[FeatureTap] = []  # kept over runs: a compiled graph remembers a tap's key
        self._run: Run | None = None
        self._saved: Saved | None = None
        self._facts: dict[str, Any] = {}  # of the last fit, for checkpoints that are written after it
        self._undo: list[Callable[[], None]] = []

    @property
    def state_key(self) -> str:
        """Distinct for monitors of other layers or stages in one trainer."""
        s = self.settings
        features = getattr(s.features, "__qualname__", s.features)
        return self._generate_state_key(layer=s.layer, head=s.head, features=features, stages=sorted(s.stages))

    # --- a run begins and ends -------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the layer, hook it, and look at who watches our names."""
        run = self._start(trainer, pl_module)
        with run.guarded("looking at the trainer's own monitors"):
            run.stages, note = fallback_stages(self.settings, trainer)
            if note:
                rank_zero_info(note)
            self._undo = stock_monitors.let_gaps_pass(trainer)

    def known_geometry_names(self) -> list[str]:
        """Every name that the running fit can log, as far as is known; also tells stoppers that a monitor is there."""
        return self._run.known_names() if self._run is not None else []

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All monitors have started: see whether everybody's names fit."""
        stock_monitors.check_names(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same, where there is no sanity check. After a resume, the training window that was open goes on."""
        stock_monitors.check_names(trainer)
        if self._run is not None:
            self._run.go_on()

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Run:
        self.teardown(trainer, pl_module, "restart")
        saved = self._saved if trainer.state.fn == "fit" else None
        if saved is not None:
            self._saved, self.history, self._number = None, History(), saved.windows
        elif trainer.state.fn == "fit" and trainer.global_step == 0:
            self.history, self._number = History(), 0  # a new run; evaluation afterwards adds to its history
        self.history.path = publishing.history_path(trainer)
        if saved is not None:
            self.history.restore(saved.records, saved.events)
        self._run = Run(self.settings, trainer, pl_module, self.history, self._taps, saved)
        return self._run

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Unhook, and give stock monitors back what was changed."""
        if self._run is not None:
            if self._run.fits:
                self._facts = self._run.facts()
            elif stage in ("validate", "test"):
                self.history.end("came to its end")
            self._run.finish()
            self._run = None
        for undo in self._undo:
            undo()
        self._undo = []

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The history says that the run came to its end."""
        if self._run is not None:
            self.history.end("came to its end")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Unhook also when the run dies; the history is on disk already. A checkpoint may be written after this."""
        if self._run is not None and self._run.fits:
            self.history.end(f"died of {explain(exception)}"[:500])
        self.teardown(trainer, pl_module, "exception")

    # --- training --------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Last epoch's values are stale now; an epoch's training window opens."""
        if self._run is None:
            return
        self._run.publisher.forget_stale(trainer)
        self._run.loader_starts("train", from_start=True)
        if self.settings.every_n_train_steps is None:
            self._open_if_due("train", trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Catch this batch, for a window or to find the head."""
        run = self._run
        if run is None:
            return
        run.check("train", batch)
        run.reads("train")
        if not run.is_open("train") and (self.settings.every_n_train_steps is not None or batch_idx == 0):
            self._open_if_due("train", trainer)  # after a resume, Lightning may leave out on_train_epoch_start
        elif not run.is_open("train") and not run.trained and self._due(trainer, "train"):
            run.open_late(resuming.RESTARTS)
        if run.is_open("train") or run.sources.scouting:
            run.catch("train")

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """The forward is done: what backward runs again (activation checkpointing) is not caught."""
        if self._run is not None and self._run.catching == "train":
            self._run.forward_done(loss)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Manual optimisation may run further forwards."""
        if self._run is not None and self._run.catching == "train":
            self._run.backward_done()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stream what was caught; close a window of n steps."""
        run, steps = self._run, self.settings.every_n_train_steps
        if run is None:
            return
        if run.catching == "train":
            run.consume("train", 0, outputs, batch)
        else:
            run.missed("train")
        run.trained = True
        if steps is not None and run.is_open("train") and run.steps_open("train") >= steps:
            self._close("train", inside_epoch=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch's training window."""
        if self.settings.every_n_train_steps is None and self._run is not None and self._run.is_open("train"):
            self._close("train")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A window of n steps that never filled says so."""
        if self._run is not None and self.settings.every_n_train_steps is not None:
            self._run.warn_if_never_filled(self.settings.every_n_train_steps)

    # --- validation and test ---------------------------------------------------------------------------------

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open a window for each validation loader."""
        self._evaluation_start("val", "validate", trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open a window for each test loader."""
        self._evaluation_start("test", "test", trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Catch this batch."""
        self._evaluation_batch_start("val", batch)

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Catch this batch."""
        self._evaluation_batch_start("test", batch)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stream what was caught."""
        self._evaluation_batch_end("val", dataloader_idx, outputs, batch)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stream what was caught."""
        self._evaluation_batch_end("test", dataloader_idx, outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the windows."""
        self._evaluation_end("val", trainer)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the windows."""
        self._evaluation_end("test", trainer)

    def _evaluation_start(self, stage: str, alone: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if stage not in (self.settings.stages if self._run is None else self._run.stages):
            return
        if trainer.state.fn == alone:  # not inside fit
            self._start(trainer, pl_module)
        run = self._run
        if run is None:
            return
        for name in run.stage_names(stage):
            run.publisher.forget_stale(trainer, f"featgeo/{name}/")
        # The sanity check is looked at for errors (once the head is known); nothing of it is kept or logged.
        if not (trainer.sanity_checking and run.sources.scouting):
            self._open_if_due(stage, trainer)

    def _evaluation_batch_start(self, stage: str, batch: Any) -> None:
        if self._run is not None:
            self._run.check(stage, batch)
            if self._run.is_open(stage):
                self._run.catch(stage)

    def _evaluation_batch_end(self, stage: str, loader: int, outputs: Any, batch: Any) -> None:
        if self._run is not None and self._run.catching == stage:
            self._run.consume(stage, loader, outputs, batch)

    def _evaluation_end(self, stage: str, trainer: pl.Trainer) -> None:
        run = self._run
        if run is None or not run.is_open(stage):
            return
        if trainer.sanity_checking:
            run.drop(stage)
        else:
            self._close(stage)

    def _close(self, stage: str, inside_epoch: bool = False) -> None:
        """Close the stage's windows; what alarms ask for comes last."""
        if self._run is not None:
            self._number += self._run.close(stage, self._number, inside_epoch)
            self._run.alarming.act()

    def _open_if_due(self, stage: str, trainer: pl.Trainer) -> None:
        """Open the stage's windows, if it is watched and this epoch's turn."""
        if self._run is not None and self._due(trainer, stage):
            self._run.open(stage)

    def _due(self, trainer: pl.Trainer, stage: str) -> bool:
        every_time = trainer.state.fn != "fit" or trainer.sanity_checking
        this_epoch = every_time or (trainer.current_epoch + 1) % self.settings.every_n_epochs == 0
        return self._run is not None and stage in self._run.caught_stages and this_epoch

    # --- state -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Closed windows, what is watched, and the open training window: see ``resuming``."""
        return resuming.save(self._number, self.history, self._facts if self._run is None else self._run.facts())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint. One that can't be read is no reason to end a run: the curves begin anew."""
        if not self.settings.resume:
            return
        try:
            self._saved = Saved.of(state_dict)
        except Exception as error:
            warnings.warn(
                f"featgeo: the monitor's state in the checkpoint can't be read ({type(error).__name__}: {error}); the "
                "curves begin anew",
                FeatureGeometryWarning,
                stacklevel=2,
            )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse a checkpoint whose curves are of another layer or stage.

        Raises:
            ConfigurationError: with what it holds, and what to do.
        """
        states = checkpoint.get("callbacks") or {}
        ours: Sequence[Any] = getattr(trainer, "callbacks", [])
        here = [c.state_key for c in ours if isinstance(c, FeatureGeometryMonitor)]
        others = [key for key in states if key.startswith(type(self).__qualname__) and key not in here]
        if trainer.state.fn == "fit" and self.settings.resume and others and self.state_key not in states:
            raise ConfigurationError(
                f"the checkpoint holds curves of {', '.join(others)}, and this run would log {self.state_key}. Resume "
                "with the settings of the checkpoint, or start new curves with FeatureGeometryMonitor(resume=False)"
            )
