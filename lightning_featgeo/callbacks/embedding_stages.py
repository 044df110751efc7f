"""Which stages of a self-supervised fit are watched: its validation often runs the backbone only.

What the loss compares is found in the first training step. From there on training is watched beside validation, until
it is known whether that module runs in validation at all: if so, validation's curves are enough, else training's are
the only ones. With several processes, which must all open and close the same windows, training's begin with the epoch
after the first validation.
"""

from __future__ import annotations

from typing import Any

from lightning_featgeo.callbacks import stock_monitors
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.watch.announcement import fill, say


def begin(run: Any, is_first_batch: bool) -> None:
    """Watch training too, if validation alone was to be; ``run``: a ``LightningRun``.

    Args:
        run: in whose training step the embedding was found.
        is_first_batch: of an epoch: its window can begin here.
    """
    if not may_change(run):
        return
    run.awaits_validation = True
    if run.watcher.ranks.several:
        return
    run.stages = ("val", "train")
    if is_first_batch and run.is_due("train") and not run.is_open("train"):
        run.open("train")


def may_change(run: Any) -> bool:
    """Whether nobody asked for other stages; the same on all ranks, whatever they have found."""
    alone = tuple(run.settings.stages) == ("val",) and run.settings.windows.every_n_train_steps is None
    return bool(alone and run.fits and "val" in run.stages and not run.validated)


def settle(run: Any) -> bool:
    """The first validation is over: watch what runs in it, or training. Returns whether its windows have no curve.

    All ranks ask each other, also those that have found nothing.
    """
    may, run.validated = may_change(run), True
    if not may:
        return False
    mine = run.awaits_validation, any(w.layers and w.layers[0].ran for w in run.watcher.of_stage("val"))
    ranks = run.watcher.ranks
    heard = ranks.gather(mine) if ranks.several else [mine]
    if not any(awaits for awaits, _ in heard):
        return False
    if any(ran for _, ran in heard):
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
        text = (
            f"featgeo: {run.watcher.paths[0]!r} did not run in validation ({instead} did), so the curves are training "
            "windows (featgeo/train/…); they run over changing weights and augmented batches"
        )
        say(fill(text, 9))
    return True
