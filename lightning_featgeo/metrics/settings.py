"""What a metric is configured with beyond its signals: how neighbours are searched, and what is no error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.metrics.details import Details
from lightning_featgeo.metrics.functional.votes import VOTE_TEMPERATURE


@dataclass(frozen=True)
class Neighbors:
    """How neighbours are searched, and among which rows: ``FeatureGeometryMonitor(neighbors=Neighbors(k=10))``.

    Args:
        k: neighbours of density and dimension signals, ≥ 2.
        knn_k: neighbours that vote for a class (``knn_accuracy``), ≥ 1; never more than a class has rows on average.
        knn_t: temperature t of their vote, whose weights are exp(cosine / t), > 0.
        reference_rows: which rows of the reference vote: its "bank", as many as are kept; or "all" of them, which takes
            a reference in ``probe_sets`` (they are run when the rows that are voted on are there).
        bank_size: rows kept for neighbour signals, ≥ 2. "auto": 4096, fewer if they would exceed 64 MiB.
        seed: of the hash that draws those rows, and the tokens of ``Tokens``: the same ones in every epoch and process.

    Raises:
        ConfigurationError: if a number is too small, or a choice is unknown.
    """

    k: int = 20
    knn_k: int = 200
    knn_t: float = VOTE_TEMPERATURE
    reference_rows: Literal["bank", "all"] = "bank"
    bank_size: int | Literal["auto"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("k", self.k, 2), ("knn_k", self.knn_k, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigurationError(f"Neighbors({name}={value!r}): {name} must be at least {least}, and whole")
        if isinstance(self.knn_t, bool) or not isinstance(self.knn_t, (int, float)) or not 0 < self.knn_t < math.inf:
            raise ConfigurationError(f"Neighbors(knn_t={self.knn_t!r}): knn_t must be a number above 0")
        if self.reference_rows not in ("bank", "all"):
            raise ConfigurationError(f'Neighbors(reference_rows={self.reference_rows!r}): choose "bank" or "all"')
        if self.bank_size != "auto" and (not isinstance(self.bank_size, int) or self.bank_size < 2):
            raise ConfigurationError(
                f"Neighbors(bank_size={self.bank_size!r}): bank_size must be 'auto' or at least 2 rows"
            )


USUAL_NEIGHBORS = Neighbors()


def check_spectrum_rows(given: int | Literal["auto", "all"]) -> int | Literal["auto", "all"]:
    """What spectra are of, as it was given.

    Raises:
        ConfigurationError: if it is neither a number of rows from 2 on nor "auto" or "all".
    """
    whole = isinstance(given, int) and not isinstance(given, bool) and given >= 2
    if not whole and given not in ("auto", "all"):
        raise ConfigurationError(f'spectrum_rows={given!r}: choose "auto", "all", or a number of rows, at least 2')
    return given


@dataclass(frozen=True)
class Policy:
    """What the owner of a metric has decided once, for all of its windows.

    Args:
        strict: an error in a signal is raised; False: that signal is a gap.
        lenient: a signal asked for by name that can't be computed is a gap; False: an error at the first batch.
        tolerated: inputs ("labels", "reference", "earlier", …) whose lack is no error even for a signal asked for by
            name. None: "reference", where ``has_reference`` is given.
        keeps_samples: a sample index means the same sample in every window; False: that is not known, so that
            signals which compare windows row by row are left out, and a gap if they are asked for by name.
        by_id: samples are numbered by the user's ids, which need not be unique: rows of one id are different samples.
        several_layers: other layers are watched beside this one, whose rows are handed to it (``beside``).
        knows_best: it is told when its last window was the best so far (``last_was_best``).
        has_anchor: rows from outside of the run are handed to it (``anchored``).
        also: signals that are computed beside those of "auto".
        details: tables and rows to look at, besides numbers; None: none.
        head_root: the module that FSDP has wrapped, to read a sharded head; None: the head is whole.
        waiting_bytes: of rows that may wait to be added together.
    """

    strict: bool = False
    lenient: bool = False
    tolerated: frozenset[str] | None = None
    keeps_samples: bool = True
    by_id: bool = False
    several_layers: bool = False
    knows_best: bool = True
    has_anchor: bool = False
    also: tuple[str, ...] = ()
    details: Details | None = None
    head_root: torch.nn.Module | None = None
    waiting_bytes: int = 2**20


USUAL_POLICY = Policy()
