"""Which stages of a self-supervised fit are watched: its validation often runs the backbone only.

What the loss compares is found in the first training step. From there on training is watched beside validation, until
it is known whether that module runs in validation at all: if so, validation's curves are enough, else training's are
the only ones.
"""

from __future__ import annotations

from typing import Any

from lightning_featgeo.callbacks import stock_monitors
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.watch.announcement import say


def begin(run: Any, is_first_batch: bool) -> None:
    """Watch training too, if validation alone was to be; ``run``: a ``LightningRun``.

    Args:
        run: in whose training step the embedding was found.
        is_first_batch: of an epoch: its window can begin here.
    """
    if run.stages != ("val",) or not run.fits or run.settings.every_n_train_steps is not None:
        return
    run.stages, run.awaits_validation = ("val", "train"), True
    if is_first_batch and run.is_due("train") and not run.is_open("train"):
        run.open("train")


def settle(run: Any) -> bool:
    """A validation is over: watch what runs in it, or training. Returns whether its windows have no curve.

    The same on all ranks.
    """
    run.awaits_validation = False
    mine = any(window.layers and window.layers[0].ran for window in run.watcher.of_stage("val"))
    ranks = run.watcher.ranks
    if any(ranks.gather(mine)) if ranks.several else mine:
        if "train" not in run.closed:
            run.stages = ("val",)
            run.watcher.drop("train")
        return False
    run.stages = ("train",)
    try:
        stock_monitors.check_names(run.trainer)  # who follows the run's stages follows this one now
    except ConfigurationError:  # somebody watches a name of validation: its gaps say why
        run.stages = ("val", "train")
        return False
    if run.trainer.is_global_zero:
        parts = [part for window in run.watcher.of_stage("val") for part in window.layers if part.ran]
        ran = dict.fromkeys([*(part.path for part in parts), *run.watcher.sources.ran_instead])
        instead = ", ".join(repr(name) for name in ran) or "nothing of the model"
        say(
            f"featgeo: {run.watcher.paths[0]!r} did not run in validation ({instead} did), so the curves are training "
            "windows (featgeo/train/…); they run over changing weights and augmented batches"
        )
    return True
