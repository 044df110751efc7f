"""Private or moving names of loggers (Lightning's, W&B's) that we use, and what happens where one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def logger_prefix(logger: Any) -> str:
    """What a logger puts before the names of scalars; "" where it doesn't tell."""
    return str(getattr(logger, "_prefix", "") or "")


def wandb_names(logger: Any, project: Any, name: Any) -> tuple[Any, Any]:
    """Project and name as W&B's own run has them: it may have been begun before its logger. Else those given."""
    run = logger.experiment if getattr(logger, "_experiment", None) is not None else None
    return getattr(run, "project", None) or project, name or getattr(run, "name", None)


def has_ended(run: Any) -> bool:
    """Whether a W&B run was finished: what is sent to it then waits in vain. False where it doesn't tell."""
    return bool(getattr(run, "_is_finished", False))


def keeps_models(logger: Any) -> bool:
    """Whether a ``WandbLogger`` was asked to upload checkpoints (``log_model``); False where it doesn't tell."""
    return bool(getattr(logger, "_log_model", False))


def logger_run_name(logger: Any) -> str | None:
    """The run's name as its user gave it; None: the logger's version is shown in its place."""
    name = getattr(logger, "_run_name", None)
    if name is None:
        version = logger.version
        last = f"version_{version}" if isinstance(version, int) else version
        name = getattr(logger, "_name", None) if last != logger.name else None
    return None if name is None else str(name)


def flat_parameters(params: Any) -> dict[str, Any]:
    """Hyperparameters as a flat dict "a/b" -> value; nested as they are where Lightning's helpers are missing."""
    try:
        from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
    except ImportError:
        return dict(params) if isinstance(params, Mapping) else dict(vars(params))
    return dict(_flatten_dict(_convert_params(params)))
