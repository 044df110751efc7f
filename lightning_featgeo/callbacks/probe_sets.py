"""Probe sets: loaders of the user's own that no step reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from lightning_featgeo.capture.names import unique_segments
from lightning_featgeo.errors import ConfigurationError


@dataclass(frozen=True)
class ProbeSet:
    """Samples that no step of the run reads: ``FeatureGeometryMonitor(probe_sets={"ood": ProbeSet(loader)})``.

    Args:
        loader: an iterable of batches. A ``DataLoader`` of a whole map-style data set is read from front to back, also
            if it shuffles, and divided among processes. Any other one is read as it comes; with several processes,
            each reads all batches and takes its share.
        forward: ``forward(module, batch)`` runs the watched layer on a batch that is on the device. None: the module is
            called as ``module(x)`` with the first of a tuple's tensors (as many of them as its ``forward`` needs), with
            those entries of a dict that its ``forward`` names, or with the batch itself.
        every_n_epochs: run it with the first windows that close so many epochs after it has last run.
        labelled: False: its labels are none of the run's classes (an out-of-distribution set), and are not read.

    Raises:
        ConfigurationError: if ``every_n_epochs`` is below 1, or the loader can't be read more than once.
    """

    loader: Any
    forward: Callable[[torch.nn.Module, Any], Any] | None = None
    every_n_epochs: int = 1
    labelled: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.every_n_epochs, bool) or not isinstance(self.every_n_epochs, int) or self.every_n_epochs < 1:
            raise ConfigurationError(f"ProbeSet(every_n_epochs={self.every_n_epochs!r}): a whole number from 1 on")
        if isinstance(self.loader, Dataset):
            raise ConfigurationError(f"ProbeSet({type(self.loader).__name__}): paste ProbeSet(DataLoader(dataset, 64))")
        if isinstance(self.loader, (torch.Tensor, str, Mapping)) or not hasattr(self.loader, "__iter__"):
            raise ConfigurationError(f"ProbeSet({type(self.loader).__name__}): give a DataLoader, or a list of batches")
        if hasattr(self.loader, "__next__"):
            raise ConfigurationError("ProbeSet(…) was given an iterator, which is empty after the first window")


def named(given: Mapping[str, Any] | None, taken: Iterable[str]) -> dict[str, ProbeSet]:
    """Probe sets by their name in logged names.

    Args:
        given: as the user gave them: a loader, or a :class:`ProbeSet`.
        taken: names that are others' windows.

    Raises:
        ConfigurationError: if a name is taken, two become the same, or what is given is no loader.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f'probe_sets={type(given).__name__}: paste probe_sets={{"clean_train": loader}}')
    names = unique_segments([str(name) for name in given], "probe_sets")
    for name in names:
        if name in taken:
            raise ConfigurationError(f"probe_sets= has a set called {name!r}, and so are other windows: rename it")
    return {
        name: one if isinstance(one, ProbeSet) else ProbeSet(one)
        for name, one in zip(names, given.values(), strict=True)
    }
