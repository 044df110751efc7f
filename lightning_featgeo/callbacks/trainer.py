"""What a Lightning Trainer tells: its processes, loaders, stages, the epoch, and where a run's files are."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from lightning_featgeo import _compat, _loggers
from lightning_featgeo._hooks import breaks_when_compiled_whole
from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.callbacks.settings import STAGES, MonitorSettings
from lightning_featgeo.capture.names import segment
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import ConfigurationError, Gap, GapKind
from lightning_featgeo.watch.window import Window


def ranks_of(trainer: Trainer) -> Ranks:
    """The processes that see different data: all, or with tensor parallelism those of the data-parallel mesh."""
    if not _compat.is_lightnings(trainer.strategy, "ParallelStrategy"):
        return Ranks.alone()
    mesh = _compat.device_mesh(trainer.strategy)
    names = getattr(mesh, "mesh_dim_names", None) or ()
    if mesh is not None and "data_parallel" in names and len(names) > 1:
        return Ranks(mesh["data_parallel"].get_group())
    return Ranks()


def refuse_whole_compilation(pl_module: Any) -> None:
    """Say before training what torch would die of in the first step.

    Raises:
        ConfigurationError: with what to do.
    """
    if breaks_when_compiled_whole(pl_module):
        raise ConfigurationError(
            f"a LightningModule that is compiled as a whole can't be watched with torch {torch.__version__}: its "
            "guards fail on hooks (in 2.10; in 2.13 they don't), and the run would die in its first step. Compile "
            "the network inside of it instead (self.net.compile()), or upgrade: pip install 'torch>=2.13'"
        )


def loader_of(trainer: Trainer, stage: str, number: int) -> Any:
    """The stage's loader of that number, or None where it can't be told."""
    loaders = trainer.train_dataloader if stage == "train" else getattr(trainer, f"{stage}_dataloaders", None)
    if isinstance(loaders, Mapping) and stage != "train":
        loaders = list(loaders.values())
    given = list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
    return given[number] if number < len(given) and (stage != "train" or len(given) == 1) else None


def combines_loaders(trainer: Trainer, stage: str) -> bool:
    """Whether each batch of a stage is made of batches of several loaders: then its parts are other samples."""
    if stage == "train":
        return _is_collection(getattr(trainer.train_dataloader, "iterables", trainer.train_dataloader))
    loaders = getattr(trainer, f"{stage}_dataloaders", None)
    if _is_collection(loaders) and _compat.loads_together(trainer, stage):
        return True
    return any(_is_collection(getattr(one, "iterables", None)) for one in _listed(loaders))


def fail_if_cut(windows: Sequence[Window], trainer: Trainer, stage: str) -> None:
    """Validation windows that a resume has begun in their middle are gaps: Lightning goes on in one that was cut."""
    if stage != "val" or trainer.state.fn != "fit" or trainer.ckpt_path is None:
        return
    for window, expected in zip(windows, trainer.num_val_batches, strict=False):
        if math.isfinite(expected) and window.batches < expected and window.failed is None:
            window.fail(
                Gap(
                    GapKind.LOST,
                    f"this {window.plan.name} window was resumed in its middle: it has seen {window.batches} of "
                    f"{int(expected)} batches",
                )
            )


def _is_empty(loaders: Any) -> bool:
    """Whether a module gave a list of loaders with none in it; None: they are not set up yet."""
    return isinstance(loaders, (list, tuple, Mapping)) and len(loaders) == 0


def _listed(loaders: Any) -> list[Any]:
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]


def _is_collection(loaders: Any) -> bool:
    return isinstance(loaders, (list, tuple, Mapping)) and len(loaders) > 1


def stage_names(trainer: Trainer, stage: str, loader_names: Any) -> list[str]:
    """What the stage's loaders are called in logged names.

    Raises:
        ConfigurationError: if two of them would be called the same.
    """
    loaders = getattr(trainer, f"{stage}_dataloaders", None) if stage != "train" else None
    keys = [_of_loader(stage, str(key)) for key in loaders] if isinstance(loaders, Mapping) else []
    given = [segment(n) for n in loader_names or keys] if stage != "train" else []
    if loaders is not None and _compat.loads_together(trainer, stage):
        given, count = [], 1  # one window, of the batches of all of them
    elif isinstance(loaders, (list, tuple, Mapping)):
        count = len(loaders)
    else:
        count = max(1, len(given)) if loaders is None else 1  # None: not set up yet
    names = [given[i] if i < len(given) else stage + (f"_{i}" if i else "") for i in range(count)]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"the loaders of {stage} would be logged as {', '.join(names)}, two of them as the same: give each "
            "a name in loader_names="
        )
    return names


def miscounted_names(trainer: Trainer, loader_names: Sequence[str] | None) -> str | None:
    """What ``loader_names=`` gets wrong about the validation's loaders. Those of ``test`` may be others."""
    loaders = getattr(trainer, "val_dataloaders", None)
    if not loader_names or loaders is None or _compat.loads_together(trainer, "val"):
        return None
    names, count = list(loader_names), len(stage_names(trainer, "val", loader_names))
    told = f"loader_names= has {len(names)}, validation has {count} loader{'s' * (count > 1)}"
    if len(names) > count:
        return f"{told}: {', '.join(map(repr, names[count:]))} will have no curves"
    if len(names) < count:
        others = stage_names(trainer, "val", loader_names)[len(names) :]
        return f"{told}: the others are logged as {', '.join(others)}"
    return None


def _of_loader(stage: str, key: str) -> str:
    """What a loader's key in a dict is called in logged names: never as the windows of another stage are."""
    name = segment(key)
    return f"{stage}_{name}" if name in STAGES and name != stage else name


def stages_of_fit(settings: MonitorSettings, trainer: Trainer) -> tuple[tuple[str, ...], str | None]:
    """The stages of this fit, and a word on it: training windows where there is no validation."""
    stages, never = tuple(settings.stages), _why_no_validation(trainer)
    if "val" not in stages or never is None:
        return stages, None
    rest = tuple(s for s in stages if s not in ("val", "train"))
    return ("train", *rest), (
        f"featgeo: {never}, so the curves are training windows (featgeo/train/…); "
        "they run over changing weights and augmented batches"
    )


def _why_no_validation(trainer: Trainer) -> str | None:
    """Why no validation will run in this fit; None: it may."""
    if trainer.limit_val_batches == 0 and not _is_empty(trainer.val_dataloaders):
        return "limit_val_batches=0 lets no validation run"
    if not trainer.enable_validation or _is_empty(trainer.val_dataloaders):
        return "there is no validation loader"
    every, last, first = trainer.check_val_every_n_epoch, trainer.max_epochs, trainer.current_epoch
    if (
        every is not None
        and last is not None
        and last > first
        and not any(e % every == 0 for e in range(first + 1, last + 1))
    ):
        return f"check_val_every_n_epoch={every} lets no validation run in this fit (max_epochs={last})"
    return None


def fractional_epoch(trainer: Trainer) -> float:
    """Epochs done, with the fraction of the running one; strictly increasing over a fit."""
    epoch = float(trainer.current_epoch)
    if trainer.state.fn != "fit":
        return epoch
    started = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    total = trainer.num_training_batches
    return epoch + (min(1.0, started / total) if math.isfinite(total) and total else started / (started + 1))


def folder_of_run(trainer: Trainer) -> Path:
    """Where a run's files are, as rank 0 says; asked on every rank, as it is a broadcast."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    first: Any = trainer.loggers[0] if trainer.loggers else None
    if _compat.is_lightnings(first, "WandbLogger") and trainer.is_global_zero:
        folder = folder / str(first.name) / str(first.version)  # where ModelCheckpoint's files are
    if type(first).__name__ == "MLFlowLogger":
        folder = Path(trainer.default_root_dir)  # the other one is MLflow's store, where a folder is an experiment
    return folder / "featgeo"


def history_path(trainer: Trainer) -> Path | None:
    """A new file next to the run; None for ``fast_dev_run`` and on other ranks."""
    folder = folder_of_run(trainer)
    if getattr(trainer, "fast_dev_run", False) or not trainer.is_global_zero:
        return None
    if "://" in str(folder) or ":/" in str(folder):  # a remote store: no local file stands beside that run
        return None
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")  # names sort as they were begun
    return folder / f"{stamp}-{uuid.uuid4().hex[:4]}.jsonl"


def run_name(trainer: Trainer) -> tuple[str | None, str | None]:
    """What its first logger calls the run, for people; and what no other run is called."""
    for logger in trainer.loggers:
        version = logger.version
        last = f"version_{version}" if isinstance(version, int) else version
        kind = type(logger).__name__
        given = _loggers.logger_run_name(logger) if kind in ("WandbLogger", "MLFlowLogger") else None
        project = None if kind == "MLFlowLogger" else logger.name
        if kind == "WandbLogger":
            project, given = _loggers.wandb_names(logger, project, given)
        parts = [str(part) for part in (project, given or last) if part]
        if parts:
            return "/".join(parts), f"{logger.name}/{version}"
    return None, None
