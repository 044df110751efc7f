"""The Hugging Face Trainer: a window per evaluation, and per so many training steps if asked for.

The model's own call is hooked: what goes in is the batch, so labels and attention mask are found in it. Evaluation is
what the Trainer's evaluation loop calls; generation is left out. Values go through ``Trainer.log``, and as
``eval_featgeo/val/<signal>`` into the metrics that ``metric_for_best_model`` chooses from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lightning_featgeo.adapters.loop import FeatureWatch
from lightning_featgeo.errors import ConfigurationError, spelled
from lightning_featgeo.watch.settings import WatchSettings, documents, takes_also


class _Watch(FeatureWatch):
    CALL = "GeometryCallback(trainer, "

    def look_for_head(self, loss: Any) -> None:
        """Decide on the head in a training step, whether or not its features are watched.

        Raises:
            ConfigurationError: if it can't be told: nothing was trained yet.
        """
        sources = self.watcher.sources
        with spelled(self.CALL), self.guard.around("finding the head", refuses=self._is_untouched()):
            sources.settle(loss if isinstance(loss, torch.Tensor) else None)
            sources.forget()


@documents(WatchSettings)
class GeometryCallback(TrainerCallback):
    """Geometry curves of a Hugging Face ``Trainer``.

    Args:
        trainer: adds itself to this trainer's callbacks.
        process_group: of the processes that see different data; None: all.
        history_path: file that windows of evaluation are appended to; None: in memory only.
        train_steps: also watch training, in windows of so many optimiser steps. None: evaluation only.

    Example::

        trainer = Trainer(model, args, train_dataset=…, eval_dataset=…)
        GeometryCallback(trainer, signals="auto", pool="cls")
        trainer.train()
    """

    @takes_also(WatchSettings)
    def __init__(
        self,
        trainer: Trainer,
        train_steps: int | None = None,
        process_group: Any = None,
        history_path: Any = None,
        **settings: Any,
    ) -> None:
        if train_steps is not None and train_steps < 1:
            raise ConfigurationError(f"train_steps must be at least 1, got {train_steps}")
        self.trainer, self.train_steps = trainer, train_steps
        model: Any = trainer.model
        if model is None or getattr(trainer, "model_init", None) is not None:
            raise ConfigurationError("GeometryCallback hooks the Trainer's model: give it with model=, not model_init=")
        self.evaluation = _Watch(model, process_group, history_path, **settings)
        self.training = _Watch(model, process_group, **settings) if train_steps is not None else None
        self._since = 0
        self._evaluating = self._generating = False
        self._inputs: dict[str, Any] = {}
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]
        self._wrapped = [
            _wrap(trainer, "evaluation_loop", self._evaluate),
            _wrap(trainer, "compute_loss", self._note_inputs),
            _wrap(model, "generate", self._generate),
        ]
        trainer.add_callback(self)

    @property
    def history(self) -> Any:
        """Windows of evaluation; ``training.history`` has those of training."""
        return self.evaluation.history

    # --- around the trainer's and the model's own methods ----------------------------------------------------

    def _evaluate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """An evaluation begins: its window holds the rows of this loop, and of no other call."""
        loader = kwargs.get("dataloader", args[0] if args else None)
        prefix = kwargs.get("metric_key_prefix", args[4] if len(args) > 4 else "eval")
        name = "val" if prefix == "eval" else str(prefix).removeprefix("eval_")  # of one of several evaluation sets
        self.evaluation.open(name, loader, step=self.trainer.state.global_step)
        self._evaluating = True
        try:
            return original(*args, **kwargs)
        except BaseException:
            self.evaluation.discard()
            raise
        finally:
            self._evaluating = False

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Decoding steps are no samples."""
        self._generating = True
        try:
            return original(*args, **kwargs)
        finally:
            self._generating = False

    def _note_inputs(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The whole batch: label smoothing takes the labels out before the model sees it."""
        inputs = kwargs.get("inputs", args[1] if len(args) > 1 else None)
        self._inputs = dict(inputs) if isinstance(inputs, Mapping) else {}
        try:
            return original(*args, **kwargs)
        finally:
            self._inputs = {}

    # --- the model's calls -----------------------------------------------------------------------------------

    def _watch(self, model: torch.nn.Module) -> _Watch | None:
        if self._generating or torch.compiler.is_compiling():
            return None
        return self.training if model.training else self.evaluation if self._evaluating else None

    def _looks(self, model: torch.nn.Module, watch: FeatureWatch | None) -> bool:
        """Whether a training step is looked at for the head of the evaluation's windows."""
        compiled = self._generating or torch.compiler.is_compiling()
        return model.training and not compiled and self.evaluation.watcher.sources.unsettled

    def _before(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch = self._watch(model)
        if self._looks(model, watch):
            self.evaluation.watcher.sources.open()
        if watch is None:
            return
        if watch is self.training and not watch.is_open:
            watch.open("train", step=self.trainer.state.global_step)
        watch.begin_batch()

    def _after(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        watch = self._watch(model)
        if self._looks(model, watch):
            self.evaluation.look_for_head(getattr(output, "loss", None))
        if watch is not None:
            watch.end_batch({**self._inputs, **kwargs} if kwargs or self._inputs else args)

    # --- the trainer's events --------------------------------------------------------------------------------

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close a training window that is full."""
        if self.training is None or self.train_steps is None:
            return
        self._since += 1
        if self._since >= self.train_steps:
            self._since = 0
            values = self.training.close(epoch=float(state.epoch or 0.0), step=state.global_step)
            self._log(self.training, values)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Close the evaluation's window. Several evaluation sets are told apart by their prefix."""
        values = self.evaluation.close(epoch=float(state.epoch or 0.0), step=state.global_step)
        name = next((key.removesuffix("_runtime") for key in metrics or {} if key.endswith("_runtime")), "eval")
        values = {f"{name}_{key}": value for key, value in values.items()}
        if metrics is not None:
            metrics.update(values)
        self._log(self.evaluation, values)

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Predictions are no window: what they have streamed is forgotten."""
        self.evaluation.discard()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A training window that is not full is forgotten; the histories say that training has finished."""
        if self.training is not None:
            self.training.discard()
            self.training.history.end("finished")
        self.evaluation.history.end("finished")

    def remove(self) -> None:
        """Unhook the model, and leave the trainer."""
        for hook in self._hooks:
            hook.remove()
        for undo in self._wrapped:
            undo()
        for watch in (self.evaluation, self.training):
            if watch is not None:
                watch.remove()
        self.trainer.remove_callback(self)

    def _log(self, watch: FeatureWatch, values: dict[str, float]) -> None:
        with watch.guard.around("logging with the Trainer"):
            if values:
                self.trainer.log(dict(values))


def _wrap(holder: Any, name: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Let ``around(original, …)`` run in a method's place, on this object only; returns how to undo it."""
    original = getattr(holder, name, None)
    if original is None:
        return lambda: None
    own = holder.__dict__.get(name)
    holder.__dict__[name] = functools.wraps(original)(functools.partial(around, original))

    def undo() -> None:
        if own is None:
            holder.__dict__.pop(name, None)
        else:
            holder.__dict__[name] = own

    return undo
