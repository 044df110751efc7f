"""Sketches of windows' distributions, as a history keeps them: any two windows can be compared, of other runs too."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import torch

from lightning_featgeo.errors import ConfigurationError, Undefined
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.functional.sketch import mmd
from lightning_featgeo.types import Float, Tensor


def packed(sketch: Float[Tensor, "b m2"]) -> str:
    """In half precision, as text: 8 KB for three bandwidths."""
    lines, width = sketch.shape
    return f"{lines}x{width}:" + base64.b64encode(sketch.cpu().numpy().astype("<f2").tobytes()).decode()


def unpacked(text: str) -> Float[Tensor, "b m2"]:
    """What :func:`packed` made.

    Raises:
        ValueError: if it is something else.
    """
    shape, _, numbers = text.partition(":")
    try:
        lines, width = (int(part) for part in shape.split("x"))
        found = np.frombuffer(base64.b64decode(numbers, validate=True), "<f2").reshape(lines, width)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not a sketch: {error}") from None
    if not np.isfinite(found).all():
        raise ValueError("not a sketch: some numbers are not finite")
    return torch.from_numpy(found.astype("float64"))


def window_mmd(one: Record, other: Record) -> float:
    """Squared maximum mean discrepancy between the features of two windows, in [0, 2], from their records alone.

    Of one run, of two runs, of training and validation, of two ranks that logged for themselves: whatever two windows
    of features of one network, or of a network that was copied. 0 for the same rows; two independent sets of n rows of
    one distribution read about 2/n. Half precision adds less than 1e-6. Not for two networks that were trained apart:
    their axes have nothing in common.

    Args:
        one, other: records of a history that logged ``sketch_mmd`` or ``sketch_mmd_first``.

    Raises:
        ConfigurationError: if a record has no sketch (the signals were not logged, or the history was thinned), if the
            features have different dimensions, or if one window's are spread several times as far as the other's.
    """
    for record in (one, other):
        if not record.sketch:
            raise ConfigurationError(
                f"window {record.window} of {record.stage} has no sketch: add signals=['sketch_mmd'], and choose among "
                "records whose .sketch is not empty (of many windows not each one has it)"
            )
    dims = [record.facts.get("dim") for record in (one, other)]
    if dims[0] != dims[1]:
        raise ConfigurationError(f"features have {dims[0]} dimensions in the one window and {dims[1]} in the other")
    try:
        return float(mmd(unpacked(one.sketch), unpacked(other.sketch)))
    except Undefined as reason:
        raise ConfigurationError(str(reason)) from None
