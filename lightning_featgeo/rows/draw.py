"""Who is drawn: every place (sample, position in it) has a priority, and the smallest priorities are kept.

Priorities are hashes of the place and a seed: the same rows are drawn in any order, in any number of processes and in
every epoch, and no random number generator is touched.
"""

from __future__ import annotations

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.types import Int64, Tensor

_POSITIONS = 2**24  # rows a sample can have before two of them share a priority


def priorities(sample: Int64[Tensor, " n"], position: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """Uniform in [0, 2⁶²); equal for rows of the same sample and position, whatever their view."""
    return ops.hash_priority(sample * _POSITIONS + position, seed)
