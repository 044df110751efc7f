"""From a window's statistics to its result: each signal is a finite value or a gap with a reason, never NaN."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_featgeo.errors import FeatureGeometryWarning, Gap, GapKind, Note, NoteKind, Undefined, explain
from lightning_featgeo.metrics import own_signals
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL, SHIPPED, Signal
from lightning_featgeo.metrics.details import Details, details
from lightning_featgeo.metrics.results import Estimate, WindowResult
from lightning_featgeo.metrics.statistics.statistics import Statistics
from lightning_featgeo.metrics.statistics.sums import MOST_CLASSES
from lightning_featgeo.types import Tensor

ROWS_PER_DIMENSION = 4
CURVES = ("eigenvalues", "log_density", "local_dimension", "cosine_shares")


def evaluate(
    signals: Sequence[str],
    statistics: Statistics,
    counts: Mapping[str, int],
    num_classes: int | None,
    strict: bool = False,
    asked: Details | None = None,
) -> WindowResult:
    """Evaluate the signals; what several of them need is computed once, and fails once.

    A signal that fails is a gap, and the others have their values.

    Args:
        signals: catalogue names.
        statistics: of the window, not empty.
        counts: rows seen, labelled, out of range, …
        num_classes: C, for messages.
        strict: errors that are not ``Undefined`` are raised instead.
        asked: tables and rows to look at, among the curves.
    """
    n = counts["seen"]
    values: dict[str, float] = {COUNT_SIGNAL: float(n)}
    errors: dict[str, float] = {}
    gaps: dict[str, Gap] = {}
    ceilings: dict[str, float] = {}
    failed: dict[str, Exception] = {}
    for name in signals:
        signal = CATALOG[name]
        if signal.ceiling is not None:
            ceilings[name] = signal.ceiling(n, statistics.dim)
        try:
            _refuse_bad_labels(signal, counts, statistics.label_fault)
            value, error, rows = _numbers(signal, statistics, failed)
        except Undefined as reason:
            gaps[name] = Gap(reason.kind, str(reason))
            continue
        except torch.linalg.LinAlgError as failure:  # type: ignore[attr-defined] # torch sets it at run time
            gaps[name] = Gap(GapKind.FAILED, f"the decomposition failed ({str(failure).splitlines()[0]})")
            continue
        except Exception as failure:
            if strict:
                raise
            at = own_signals.place(failure, signal.function) if name not in SHIPPED else ""
            gaps[name] = Gap(GapKind.FAILED, f"it failed with {explain(failure)}{at}")
            continue
        values[name] = value
        if rows is None and "scatter" in signal.requires:
            rows = statistics.spectrum_rows
        if signal.ceiling is not None and rows is not None:  # it rests on other rows than all
            ceilings[name] = signal.ceiling(rows, statistics.dim)
        if error is not None:
            errors[name] = error
    computed = statistics.computed()
    more = dict(counts)
    if "distances" in computed:
        bank, near = len(statistics.distances), statistics.near_duplicate_count
        more.update(duplicates=statistics.duplicate_count, near_duplicates=near, bank=bank)
    spectral = [name for name in values if name in ceilings]
    notes = _small_sample_note(
        spectral, n if statistics.spectrum_rows is None else statistics.spectrum_rows, n, statistics.dim
    )
    if statistics.has_classes and statistics.classes_left_out:
        more["classes_left_out"] = statistics.classes_left_out
        notes += _drawn_classes_note(values, more["classes_left_out"])
    if statistics.spectrum_rows is not None:
        more["spectrum_rows"] = statistics.spectrum_rows
    notes += _near_duplicates_note(more)
    curves = _curves(signals, statistics, computed)
    if asked is not None:
        try:
            curves |= details(statistics, asked)
        except Exception as failure:
            if strict:
                raise
            message = f"featgeo: a window's tables failed with {explain(failure)}; its values are not affected"
            warnings.warn(message, FeatureGeometryWarning, stacklevel=2)
    return WindowResult(values, errors, gaps, ceilings, more, curves, notes)


def _small_sample_note(ranks: Sequence[str], taken: int, n: int, dim: int) -> tuple[Note, ...]:
    """Ranks of n < 4d rows measure n as much as the features."""
    if not ranks or taken >= ROWS_PER_DIMENSION * dim:
        return ()
    drawn = ""
    if taken < n:
        error = math.sqrt(2 / taken)  # of an eigenvalue of Gaussian rows
        drawn = f", drawn from {n}: eigenvalues are known to about {error:.0%} (spectrum_rows= takes more)"
    told = (
        f"{taken} rows for {dim} dimensions (fewer than {ROWS_PER_DIMENSION} each){drawn}: {', '.join(ranks)} read "
        "low; compare them at this n only"
    )
    return (Note(NoteKind.SMALL_SAMPLE, told),)


def _drawn_classes_note(values: Mapping[str, float], left_out: int) -> tuple[Note, ...]:
    """What is of some of the classes."""
    of_classes = [name for name in values if {"class_means", "class_variances"} & set(CATALOG[name].needs)]
    if not of_classes:
        return ()
    told = (
        f"{', '.join(of_classes)}: of {MOST_CLASSES:,} of {MOST_CLASSES + left_out:,} classes, drawn by a hash; the "
        "more classes differ from each other, the less precise"
    )
    return (Note(NoteKind.OTHER, told),)


def _near_duplicates_note(counts: Mapping[str, int]) -> tuple[Note, ...]:
    """Rows that are no exact copies, so that nobody would look for them."""
    near = counts.get("near_duplicates", 0)
    if not near:
        return ()
    told = (
        f"{near} of {counts['bank']} rows almost lie on a row of another sample (one input twice, or the "
        "same context of two tokens?): "
        "such neighbours are left out of dimensions, and rows that have no others out of densities, as exact "
        "duplicates are"
    )
    return (Note(NoteKind.NEAR_DUPLICATES, told),)


def empty_window(signals: Sequence[str], reason: str, counts: Mapping[str, int]) -> WindowResult:
    """A window without rows: every signal but the count is a gap."""
    gaps = {name: Gap(GapKind.NO_ROWS, reason) for name in signals if name != COUNT_SIGNAL}
    return WindowResult({COUNT_SIGNAL: 0.0}, {}, gaps, {}, dict(counts))


def label_fault(counts: Mapping[str, Any], num_classes: int | None, withheld: str = "") -> str:
    """Why no class can be told by its labels; "": it can.

    Args:
        counts: of the window, as in :func:`evaluate`.
        num_classes: C.
        withheld: why rows were given no label, if that is known.
    """
    if not int(counts["out_of_range"]):
        return "" if int(counts["labelled"]) else withheld
    largest, alone = int(counts["largest_label"]), int(counts["largest_label"]) == num_classes
    return f"{int(counts['out_of_range'])} labels are not below num_classes={num_classes} (largest: {largest})" + (
        f"; if {num_classes} marks samples without a class, say ignore_index={num_classes}; if classes are numbered "
        "from 1, take 1 off, as in labels=lambda batch: batch[1] - 1"
        if alone
        else ""
    )


def _refuse_bad_labels(signal: Signal, counts: Mapping[str, int], fault: str) -> None:
    if "labels" not in signal.requires:
        return
    if fault:
        raise Undefined(fault, GapKind.NO_INPUT)
    if not counts["labelled"]:
        raise Undefined("no row has a label", GapKind.NO_INPUT)


def _numbers(
    signal: Signal, statistics: Statistics, failed: dict[str, Exception]
) -> tuple[float, float | None, int | None]:
    """Value, standard error and rows; ``failed``: what other signals needed and could not be had."""
    needed = []
    for need in signal.needs:
        try:
            if need in failed:
                raise failed[need]
            needed.append(getattr(statistics, need))
        except Exception as failure:  # out of memory once is enough
            failed[need] = failure
            raise
    is_own = signal.name not in SHIPPED
    with own_signals.as_it_was() if is_own else contextlib.nullcontext():
        result = signal.function(*map(own_signals.copied, needed) if is_own else needed)
    if is_own and not isinstance(result, Estimate):
        result = own_signals.single_number(result, signal.name)
    if not isinstance(result, Estimate):
        result = Estimate(result if isinstance(result, Tensor) else torch.tensor(result, dtype=torch.float64))
    value = float(result.value)
    if not math.isfinite(value):
        raise Undefined(f"the result is not finite ({value})")
    error = None if result.standard_error is None else float(result.standard_error)
    return value, error if error is not None and math.isfinite(error) else None, result.n


def _curves(signals: Sequence[str], statistics: Statistics, computed: frozenset[str]) -> dict[str, Tensor]:
    """Per-window curves that cost nothing more: eigenvalues, log densities, local dimensions."""
    wanted = [name for name in CURVES if name in computed]
    if "distances" in computed and {"id_mle", "id_two_nn"} & set(signals):
        wanted.append("local_dimension")
    if any("sketches" in CATALOG[name].requires for name in signals):
        wanted.append("sketch")
    curves: dict[str, Tensor] = {}
    for name in wanted:
        with contextlib.suppress(Exception):  # a picture less
            curve: Tensor = getattr(statistics, name)
            if curve.numel():
                curves[name] = curve.detach().cpu()
    return curves
