"""Rows of two windows that are of the same samples."""

from __future__ import annotations

import math

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Int64, Tensor

SAME_SAMPLES = 0.99  # share of samples that two windows must have in common


def paired(
    samples: Int64[Tensor, " n"], earlier: Int64[Tensor, " m"], what: str = "earlier window"
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Which rows of two windows are of the same samples, in the order of the first one.

    Rows whose sample nobody could tell have numbers below zero, and are of none.

    Raises:
        Undefined: if samples have several rows each, or fewer than 99 % of the samples are in both.
    """
    if int((samples < 0).sum()) > (1 - SAME_SAMPLES) * len(samples):
        raise Undefined(
            "which samples these rows are of can't be told (reordered or selected inside of the network, or "
            "ids that several samples have)"
        )
    if samples.unique().numel() != samples.numel() or earlier.unique().numel() != earlier.numel():
        raise Undefined("samples have several rows each: which rows belong together can't be told")
    order = earlier.argsort()
    place = torch.searchsorted(earlier[order], samples).clamp(max=max(0, len(earlier) - 1))
    both = earlier[order][place] == samples if len(earlier) else torch.zeros_like(samples, dtype=torch.bool)
    both &= samples >= 0
    n = int(both.sum())
    if n < max(2, math.ceil(SAME_SAMPLES * max(len(samples), len(earlier)))):
        raise Undefined(f"needs the same samples as the {what}: {n} of {len(samples)} were in it")
    return both.nonzero().squeeze(1), order[place[both]]
