"""From what was asked for and what the first batch has to what is computed, and which accumulators that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.metrics.accumulators.bank import BankAccumulator, ViewBankAccumulator
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.metrics.accumulators.codes import CodeAccumulator
from lightning_featgeo.metrics.accumulators.directions import DirectionAccumulator
from lightning_featgeo.metrics.accumulators.histograms import HistogramAccumulator
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.metrics.accumulators.positions import PositionAccumulator
from lightning_featgeo.metrics.accumulators.units import UnitAccumulator
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL
from lightning_featgeo.metrics.statistics.bank import BY_VOTE

AUTO_BANK_ROWS = 4096
AUTO_BANK_BYTES = 64 * 2**20
AUTO_SPECTRUM_DIM = 4096  # the widest features whose scatter is kept: 128 MiB, twice with classes; d³ at a close
AUTO_SPECTRUM_ROWS = 1024


# What a signal may need of the data, beyond features, and what to do where it is missing.
_REMEDIES = {
    "labels": "class labels and the first batch has none, or none that are one a row; pass labels (of tokens "
    "or pixels: as (samples, places))",
    "classes": "the number of classes: give num_classes=…",
    "targets": "regression targets and the first batch has none; pass floating-point labels (labels=<key or index>)",
    "mixtures": "rows that are mixtures of two samples: as labels a matrix (rows, classes) of weights, as mixup and "
    "CutMix make it. Where the training step mixes: labels=<callable of the batch that returns it>",
    "views": "two views of each sample and the first batch has one",
    "groups": "the group of each row: pass groups",
    "places": 'rows that are tokens, and the first batch has one row a sample: pool="tokens" makes each token a row',
    "reference": 'a reference: FeatureGeometryMonitor(reference="train"), or GeometryMetric(has_reference=True)',
    "best": 'to know which window was best: FeatureGeometryMonitor(windows=Windows(best="val_loss"))',
    "anchor": 'what to compare with: FeatureGeometryMonitor(windows=Windows(anchor="features.npz"))',
    "layers": 'several watched layers: layer=["encoder", "projector"]',
    "earlier": "the same samples in the same order in every window: not training windows, and not a loader that "
    "shuffles, or of which nobody can tell. Use a DataLoader of a map-style data set without shuffle=, sampler= and "
    "batch_sampler= (in a loop of your own: open(…, loader=it)), or name the samples: display=Display(id_key=<key, "
    "index or callable into the batch>)",
}

INPUTS = frozenset(_REMEDIES)
NOT_PAIRED = f"needs {_REMEDIES['earlier']}"


def choose_preset(missing: frozenset[str], tokens: bool, has_head: bool, largest: int | None = None) -> tuple[str, str]:
    """The kind of run that "auto" takes this for, and why.

    Args:
        missing: what the first batch lacks, as in :func:`choose_signals`.
        tokens: whether each row is a token, of no class but a vocabulary's.
        has_head: whether a classifier was found.
        largest: label of the first batch, if it has any.
    """
    if tokens:
        return "tokens", "each row is a token"
    if "targets" not in missing:
        return "regressor", "the labels are floating-point targets"
    if not missing & {"labels", "classes"} and (has_head or "views" in missing):
        return "classifier", "there are labels of known classes"
    if "views" not in missing:
        return "self_supervised", "a sample has several views"
    if "labels" in missing:
        return "self_supervised", "no labels were found; if there are some, name them with labels="
    seen = "" if largest is None else f" (num_classes={largest + 1}, if no label is above the first batch's)"
    return "self_supervised", f"the number of classes is not known; say it with num_classes={seen}"


def choose_signals(
    asked: tuple[str, ...], named: frozenset[str], missing: frozenset[str], tolerated: frozenset[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The signals that are computed, and why others are left out.

    Args:
        asked: resolved names; for "auto", those of the preset.
        named: those of them that were asked for by their own name.
        missing: what the first batch lacks: "labels", "classes", "targets", "views", "groups", "places", "reference",
            "best", "anchor", "layers", "earlier".
        tolerated: of these, what is no error even for a signal asked for by name.

    Raises:
        ConfigurationError: if a signal asked for by name can't be computed, or none can.
    """
    left_out: dict[str, str] = {}
    for lack in _REMEDIES:  # in order: without labels there are no classes either
        needy = [name for name in asked if name not in left_out and lack in missing and lack in _inputs(name)]
        strict = [name for name in needy if name in named and lack not in tolerated]
        if strict:
            raise ConfigurationError(
                f"{', '.join(strict)} {'needs' if len(strict) == 1 else 'need'} {_REMEDIES[lack]}, or leave "
                f"{'it' if len(strict) == 1 else 'them'} out"
            )
        left_out.update(dict.fromkeys(needy, f"needs {_REMEDIES[lack]}"))
    remaining = tuple(name for name in asked if name not in left_out)
    if not remaining and not tolerated & missing:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise ConfigurationError(f"none of the signals asked for can be computed: {reasons}")
    return remaining or (COUNT_SIGNAL,), left_out


def _inputs(name: str) -> frozenset[str]:
    requires = CATALOG[name].requires
    return requires | {"classes"} if "labels" in requires else requires


def bank_capacity(bank_size: int | Literal["auto"], dim: int, itemsize: int = 4) -> int:
    """Rows the bank keeps of features of this size: as given, or 4096, fewer if they would exceed 64 MiB."""
    if bank_size != "auto":
        return int(bank_size)
    return max(2, min(AUTO_BANK_ROWS, AUTO_BANK_BYTES // (dim * itemsize)))


def spectrum_limit(spectrum_rows: int | Literal["auto", "all"], dim: int) -> int | None:
    """How many of the bank's rows spectra are taken from; None: from the scatter of all rows."""
    if spectrum_rows == "auto":
        return AUTO_SPECTRUM_ROWS if dim > AUTO_SPECTRUM_DIM else None
    return None if spectrum_rows == "all" else int(spectrum_rows)


def build_accumulators(
    signals: tuple[str, ...],
    serve: Iterable[str],
    shape: Shape,
    capacity: int,
    seed: int,
    device: torch.device,
    spectrum_rows: int | None = None,
) -> Mapping[str, Accumulator]:
    """The accumulators these signals read, and no other.

    Args:
        signals: that are computed here.
        serve: signals of other windows that refer to this one.
        shape: of the rows.
        capacity: of the banks, in rows.
        seed: of their hash.
        device: where they live.
        spectrum_rows: see :func:`spectrum_limit`.
    """
    requires = frozenset[str]().union(*(CATALOG[name].requires for name in signals))
    for name in serve:
        requires |= {r.removeprefix("reference.") for r in CATALOG[name].requires if r.startswith("reference.")}
        if "labels" in CATALOG[name].requires:  # a vote, and what tells head from tail
            requires |= {"bank"} if BY_VOTE & set(CATALOG[name].needs) else set()
            requires |= {"moments", "labels"} if "frequency" in CATALOG[name].needs else set()
    if spectrum_rows is not None and "scatter" in requires:
        capacity = capacity if "bank" in requires else min(capacity, spectrum_rows)
        requires = requires - {"scatter"} | {"bank"}
    d, classes = shape.dim, shape.num_classes if "labels" in requires else 0
    makers: dict[str, Callable[[], Accumulator]] = {
        "moments": lambda: MomentsAccumulator(d, classes, keep_scatter="scatter" in requires, device=device),
        "directions": lambda: DirectionAccumulator(d, device),
        "codes": lambda: CodeAccumulator(d, device),
        "positions": lambda: PositionAccumulator(d, seed, device),
        "histograms": lambda: HistogramAccumulator(d, device),
        "units": lambda: UnitAccumulator(d, device, extremes="extremes" in requires),
        "bank": lambda: BankAccumulator(d, capacity, seed, shape.dtype, device, shape.target_dim, shape.target_dtype),
        "views": lambda: ViewBankAccumulator(d, capacity, seed, shape.dtype, device),
    }
    return {name: make() for name, make in makers.items() if name in requires}


@dataclass(frozen=True)
class Shape:
    """What the first batch told: d, C (0 if unknown), columns of the targets, types of rows and targets to keep."""

    dim: int
    num_classes: int
    target_dim: int
    dtype: torch.dtype
    target_dtype: torch.dtype
