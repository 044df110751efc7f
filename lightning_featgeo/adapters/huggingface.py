"""The Hugging Face Trainer: a window per evaluation, and per so many training steps if asked for.

A batch is what the Trainer's own ``compute_loss`` and ``prediction_step`` are given: labels and attention mask are
found in it, however often the model is called for it. Generation is left out. Values go through ``Trainer.log``, and
as ``eval_featgeo/val/<signal>`` into the metrics that ``metric_for_best_model`` chooses from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"GeometryCallback needs {error.name}, which is not installed: pip install 'lightning-featgeo[hf]'",
        name=error.name,
    ) from None

from lightning_featgeo import _compat
from lightning_featgeo.adapters.loop import FeatureWatch
from lightning_featgeo.errors import ConfigurationError, spelled
from lightning_featgeo.watch.settings import WatchSettings, documents, takes_also

_TIMINGS = ("_runtime", "_per_second", "total_flos")  # of what the Trainer logs, that say how fast it was


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


@documents(WatchSettings)
class GeometryCallback(TrainerCallback):
    """Geometry curves of a Hugging Face ``Trainer``.

    Args:
        trainer: adds itself to this trainer's callbacks.
        process_group: of the processes that see different data; None: all.
        history_path: file that windows of evaluation are appended to; None: in memory only.
        embedding_rows: number of feature rows, up to 1,000, whose places in the plane the history keeps.
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
        embedding_rows: int = 0,
        **settings: Any,
    ) -> None:
        if train_steps is not None and train_steps < 1:
            raise ConfigurationError(f"train_steps must be at least 1, got {train_steps}")
        if not isinstance(trainer, Trainer):
            inner = next((n for n, v in getattr(trainer, "__dict__", {}).items() if isinstance(v, Trainer)), None)
            hint = f" It holds one: GeometryCallback(trainer.{inner})" if inner else ""
            raise ConfigurationError(
                f"GeometryCallback takes a transformers.Trainer, got {type(trainer).__name__}.{hint}"
            )
        self.trainer, self.train_steps = trainer, train_steps
        model: Any = trainer.model
        if model is None or getattr(trainer, "model_init", None) is not None:
            raise ConfigurationError("GeometryCallback hooks the Trainer's model: give it with model=, not model_init=")
        self.evaluation = _Watch(model, process_group, history_path, embedding_rows, **settings)
        self.training = _Watch(model, process_group, **settings) if train_steps is not None else None
        self._since = 0
        self._evaluating = self._generating = False
        for watch in (self.evaluation, self.training):
            if watch is not None:
                watch.watcher.sources.is_inside_step = lambda: not self._generating
        self._wrapped = [
            _wrap(trainer, "evaluation_loop", self._evaluate),
            _wrap(trainer, "prediction_step", self._predict),
            _wrap(trainer, "compute_loss", self._step),
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

    # --- batches: a step may call the model several times, as for the two sentences of a pair ---------------------

    def _predict(self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A batch of an evaluation."""
        if not self._evaluating:
            return original(model, inputs, *args, **kwargs)
        inputs = _compat.prepared_inputs(self.trainer, inputs)
        with self.evaluation.batch(inputs):
            return original(model, inputs, *args, **kwargs)

    def _step(self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A batch of training: its loss tells the head, whether or not training is watched."""
        if self._evaluating or not model.training:
            return original(model, inputs, *args, **kwargs)
        batch = dict(inputs) if isinstance(inputs, Mapping) else inputs  # label smoothing takes the labels out
        watch = self.training
        if watch is not None and not watch.is_open:
            watch.open("train", step=self.trainer.state.global_step)
        if watch is not None:
            watch.begin_batch(batch)
        looks = self.evaluation.watcher.sources.unsettled
        if looks:
            self.evaluation.watcher.sources.open()
        try:
            result = original(model, inputs, *args, **kwargs)
        except BaseException:  # the user's error: this batch does not count
            for one in (self.evaluation, watch):
                if one is not None:
                    one.watcher.sources.forget()
            raise
        loss = result[0] if isinstance(result, tuple) else result
        if looks:
            self.evaluation.look_for_head(loss)
            self.evaluation.watcher.sources.forget()
        if watch is not None:
            watch.look_for_head(loss)
            watch.end_batch(batch)
        return result

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

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The Trainer's own metrics (losses, learning rate) are kept in the histories."""
        numbers = {
            name: float(value)
            for name, value in (logs or {}).items()
            if isinstance(value, (int, float)) and name != "epoch" and not name.endswith(_TIMINGS)
        }
        for watch in (self.evaluation, self.training):
            if watch is not None:
                with watch.guard.around("keeping the Trainer's metrics", lost="the curves are not affected"):
                    watch.history.log_metrics(numbers, float(state.epoch or 0.0), state.global_step)

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
        self.evaluation.ends()

    def remove(self) -> None:
        """Unhook, and leave the trainer."""
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
