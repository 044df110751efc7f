"""A keeper: a callback that keeps the right rows by itself, and computes from them in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn


class Keeper(pl.Callback):
    """Keeps the rows of the last window itself.

    Args:
        module: from the module that is trained to the one whose features are meant.
        rows: from what that module was given in a batch's calls (or what it put out), and the batch, to (n, d) rows;
            None: the single tensor of the first call, which is (n, d) already.
        labels: from the batch to the (n,) labels of those rows; None: there are none.
        output: take what the module puts out.
        stage: "val" or "train".
    """

    def __init__(
        self,
        module: Callable[[Any], nn.Module],
        rows: Callable[[list[Any], Any], Tensor] | None = None,
        labels: Callable[[Any], Tensor] | None = None,
        output: bool = False,
        stage: str = "val",
    ) -> None:
        self.module, self.rows, self.labels, self.output, self.stage = module, rows, labels, output, stage
        self.kept: list[tuple[Tensor, Tensor | None]] = []
        self._calls: list[Any] | None = None
        self._handle: Any = None
        self.called = 0

    # --- where a trainer calls; whoever has none calls these itself ------------------------------------------------

    def hook(self, model: Any) -> None:
        """On the module, once."""
        if self._handle is None:
            module = self.module(model)
            if self.output:
                self._handle = module.register_forward_hook(lambda _, given, out: self._see(out))
            else:
                self._handle = module.register_forward_pre_hook(
                    lambda _, args, kwargs: self._see(args[0] if args else next(iter(kwargs.values()))),
                    with_kwargs=True,
                )

    def begin(self) -> None:
        """A window."""
        self.kept = []

    def open(self) -> None:
        """A batch."""
        self._calls = []

    def close(self, batch: Any) -> None:
        """A batch's end."""
        calls, self._calls = self._calls, None
        if calls:
            rows = self.rows(calls, batch) if self.rows is not None else calls[0]
            labels = None if self.labels is None else torch.as_tensor(self.labels(batch)).cpu().clone()
            self.kept.append((rows.detach().double().cpu().clone(), labels))

    def _see(self, value: Any) -> None:
        if self._calls is not None:
            self.called += 1
            self._calls.append(_detached(value))

    # --- Lightning -------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.hook(pl_module)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.stage == "val" and not trainer.sanity_checking:
            self.begin()

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.stage == "val" and not trainer.sanity_checking:
            self.open()

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if self.stage == "val" and not trainer.sanity_checking:
            self.close(batch)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.stage == "train":
            self.begin()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.stage == "train":
            self.open()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if self.stage == "train":
            self.close(batch)

    # --- what is right ---------------------------------------------------------------------------------------------

    def values(self) -> dict[str, float]:
        """Of the last window, by two-pass formulas in float64; labels below 0 are none."""
        x = torch.cat([rows for rows, _ in self.kept]).numpy()
        found = {"n_samples": float(len(x))}
        centred = x - x.mean(0)
        s = np.linalg.svd(centred, compute_uv=False)[: min(len(x) - 1, x.shape[1])]
        if s.sum() > 0:
            p = s[s > 0] / s.sum()
            found["effective_rank"] = float(np.exp(-(p * np.log(p)).sum()))
            found["top_eigenvalue_share"] = float(s[0] ** 2 / (s**2).sum())
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        if norms.min() > 0:
            found["feature_std"] = float((x / norms).std(0, ddof=1).mean() * np.sqrt(x.shape[1]))
        if self.labels is not None:
            y = torch.cat([labels for _, labels in self.kept if labels is not None]).reshape(-1).numpy()
            found |= _classes(x, y)
        return found


def _classes(x: Any, y: Any) -> dict[str, float]:
    x, y = x[y >= 0], y[y >= 0]
    groups = [x[y == label] for label in np.unique(y)]
    if len(groups) < 2:
        return {}
    means = np.stack([group.mean(0) for group in groups])
    m = means - means.mean(0)
    _, s, vt = np.linalg.svd(m, full_matrices=False)
    kept = s > 1e-7 * s[0]
    spread = np.concatenate([group - group.mean(0) for group in groups]) @ vt[kept].T / s[kept]
    return {"nc1": float((spread**2).sum() / len(x))}  # trace of within times pseudo-inverse of between, over classes


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return [_detached(part) for part in value]
    if isinstance(value, dict):
        return {key: _detached(part) for key, part in value.items()}
    return value


def drive(keeper: Keeper, trainer: Any) -> None:
    """Around the evaluation of a Hugging Face ``Trainer``, and its steps."""
    keeper.hook(trainer.model)
    loop, step = trainer.evaluation_loop, trainer.prediction_step

    def evaluation_loop(*args: Any, **kwargs: Any) -> Any:
        keeper.begin()
        return loop(*args, **kwargs)

    def prediction_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        keeper.open()
        found = step(model, dict(inputs), *args, **kwargs)
        keeper.close(inputs)
        return found

    trainer.evaluation_loop, trainer.prediction_step = evaluation_loop, prediction_step
