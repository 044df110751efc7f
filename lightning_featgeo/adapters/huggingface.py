"""The Hugging Face Trainer: a window per evaluation, and per so many training steps if asked for.

The model's own call is hooked: what goes in is the batch, so labels and attention mask are found in it, and evaluation
is told from training by the model's mode. Values go through ``Trainer.log``, and into the metrics that
``metric_for_best_model`` chooses from, as ``eval_featgeo/val/<signal>``.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lightning_featgeo.adapters.loop import FeatureWatch
from lightning_featgeo.types import ConfigurationError


class GeometryCallback(TrainerCallback):
    """Geometry curves of a Hugging Face ``Trainer``.

    Args:
        trainer: adds itself to this trainer's callbacks.
        train_steps: also watch training, in windows of so many optimiser steps. None: evaluation only.
        **settings: see :class:`~lightning_featgeo.adapters.FeatureWatch`.

    Example::

        trainer = Trainer(model, args, train_dataset=…, eval_dataset=…)
        GeometryCallback(trainer, signals="auto", pool="cls")
        trainer.train()
    """

    def __init__(self, trainer: Trainer, train_steps: int | None = None, **settings: Any) -> None:
        if train_steps is not None and train_steps < 1:
            raise ConfigurationError(f"train_steps must be at least 1, got {train_steps}")
        self.trainer, self.train_steps = trainer, train_steps
        model: Any = trainer.model
        if model is None or getattr(trainer, "model_init", None) is not None:
            raise ConfigurationError("GeometryCallback hooks the Trainer's model: give it with model=, not model_init=")
        self.evaluation = FeatureWatch(model, **settings)
        self.training = FeatureWatch(model, **settings) if train_steps is not None else None
        self._since = 0
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]
        trainer.add_callback(self)

    @property
    def history(self) -> Any:
        """Windows of evaluation; ``training.history`` has those of training."""
        return self.evaluation.history

    # --- the model's calls -----------------------------------------------------------------------------------

    def _watch(self, model: torch.nn.Module) -> FeatureWatch | None:
        return self.training if model.training else self.evaluation

    def _before(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch = self._watch(model)
        if watch is None or torch.compiler.is_compiling():
            return
        if watch.is_open is None:
            name, handler = ("train" if model.training else "val"), self.trainer.callback_handler
            loader = None if model.training else getattr(handler, "eval_dataloader", None)
            watch.open(name, loader, step=self.trainer.state.global_step)
        watch.begin_batch()

    def _after(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        watch = self._watch(model)
        if watch is not None and not torch.compiler.is_compiling():
            watch.end_batch(kwargs or args)

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
        """A training window that is not full is forgotten."""
        if self.training is not None:
            self.training.discard()

    def remove(self) -> None:
        """Unhook the model, and leave the trainer."""
        for hook in self._hooks:
            hook.remove()
        for watch in (self.evaluation, self.training):
            if watch is not None:
                watch.remove()
        self.trainer.remove_callback(self)

    def _log(self, watch: FeatureWatch, values: dict[str, float]) -> None:
        with watch.guard.around("logging with the Trainer", lambda reason: None):
            if values:
                self.trainer.log(dict(values))
