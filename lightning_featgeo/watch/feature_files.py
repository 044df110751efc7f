"""Feature rows in files: what windows are compared with, written by another run or by anything else.

``.npz`` or ``.pt`` with ``rows``, (n, d); and, if they are there, ``labels``, (n,) classes, and either ``samples``,
(n,) places of the samples in the loader (else 0, 1, …), or ``ids``, (n,) their names, as ``Display(id_key=…)`` reads
them. ``.npy``: the rows alone. ``.ckpt``: a checkpoint of a run that was watched with signals over time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_featgeo.errors import ConfigurationError, explain
from lightning_featgeo.metrics.earlier import Earlier, Kept
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.sample_ids import numbers_of

ROWS = ("rows", "features", "embeddings")
KINDS = (".npz", ".npy", ".pt", ".pth", ".ckpt")
_KEPT = 'Rows are kept where signals over time are watched: signals=["cka_drift", …]'
_HOW = 'write one with numpy.savez("anchor.npz", rows=features, labels=labels), row i for the loader\'s sample i'


def check_path(found: Path) -> None:
    """That a file of a known kind is there.

    Raises:
        ConfigurationError: with what to write.
    """
    if found.suffix == ".jsonl":
        raise ConfigurationError(f"{found} is a history, which holds curves and no rows: give the run's checkpoint")
    if found.suffix not in KINDS:
        raise ConfigurationError(f"{found}: rows are read from {', '.join(KINDS)}; {_HOW}")
    if not found.is_file():
        raise ConfigurationError(f"{found}: there is no such file; {_HOW}")


def has_ids(path: Path) -> bool:
    """Whether its samples have the user's ids."""
    return "ids" in _contents(path) if path.suffix in (".npz", ".pt", ".pth") else False


def read_rows(path: Path, window: str, layer: int) -> Kept:
    """Rows of a file.

    Args:
        path: of the file.
        window: "<stage>/<number>", of which a checkpoint's rows are taken.
        layer: number of the watched layer; a checkpoint that has not as many gives its first one's.

    Raises:
        ConfigurationError: if it holds no such rows.
    """
    given = _contents(path)
    if path.suffix == ".ckpt":
        return _of_checkpoint(path, given, window, layer)
    name = next((name for name in ROWS if name in given), None)
    if name is None:
        raise ConfigurationError(f"{path} has {', '.join(given) or 'nothing'}, and no 'rows'; {_HOW}")
    rows = _tensor(given[name])
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ConfigurationError(f"{path}: {name!r} must be (n, d) numbers, got {tuple(rows.shape)} of {rows.dtype}")
    n = len(rows)
    samples = torch.arange(n)
    if "ids" in given:
        samples = numbers_of(_listed(given["ids"]))
    elif "samples" in given:
        samples = _tensor(given["samples"]).long()
    labels = _tensor(given["labels"]).long() if "labels" in given else torch.full((n,), -1)
    for what, column in (("samples", samples), ("labels", labels)):
        if column.shape != (n,):
            raise ConfigurationError(f"{path}: {what!r} must be one for each of {n} rows, got {tuple(column.shape)}")
    rows = rows if rows.dtype == torch.float64 else rows.float()
    finite = rows.isfinite().all(dim=1)
    return Kept(rows[finite], samples[finite], labels[finite])


def check_rows(path: Path) -> None:
    """Whether a file holds any rows.

    Raises:
        ConfigurationError: with what it holds.
    """
    if path.suffix != ".ckpt":
        read_rows(path, "", 0)
    elif not _windows_of(_contents(path)):
        raise ConfigurationError(f"{path} has no rows. {_KEPT}")


def _contents(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".npy":
            return {"rows": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return dict(found)
        given = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ConfigurationError(f"{path} can't be read: {explain(error)}; {_HOW}") from error
    if isinstance(given, torch.Tensor):
        return {"rows": given}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{path} holds a {type(given).__name__}, and no rows; {_HOW}")
    return given


def _of_checkpoint(path: Path, given: Mapping[str, Any], window: str, layer: int) -> Kept:
    windows = _windows_of(given)
    for held in windows:
        for state in (held.get(f"{window}/{layer}"), held.get(f"{window}/0")):
            rows = {} if state is None else Earlier.of(state).rows
            kept = rows.get("previous", rows.get("best", rows.get("first")))
            if kept is not None:
                return kept
    has = sorted({name.rpartition("/")[0] for held in windows for name in held})
    raise ConfigurationError(
        f"{path} has no rows of {window.partition('/')[0]} windows"
        + (f", only of {', '.join(has)}" if has else "")
        + f". {_KEPT}"
    )


def _windows_of(given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the monitors of a checkpoint have kept of their windows."""
    states = given.get("callbacks", {})
    monitors = [state for name, state in states.items() if "FeatureGeometryMonitor" in str(name)]
    return [one["earlier"] for one in monitors if isinstance(one, Mapping) and one.get("earlier")]


def _tensor(given: Any) -> Tensor:
    return given if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given))


def _listed(ids: Any) -> list[Any]:
    found = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return found if isinstance(found, list) else [found]
