"""Who is drawn: every place (sample, position in it) has a priority, and the smallest priorities are kept.

Priorities are hashes of the place and a seed: the same rows are drawn in any order, in any number of processes and in
every epoch, and no random number generator is touched.
"""

from __future__ import annotations

import zlib

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.cuda_ext.reference import EMPTY_PRIORITY
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.types import Int64, Tensor

_POSITIONS = 2**24  # rows a sample can have before two of them share a priority


def priorities(sample: Int64[Tensor, " n"], position: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """Uniform in [0, 2⁶²); equal for rows of the same sample and position, whatever their view."""
    return ops.hash_priority(sample * _POSITIONS + position, seed)


def drawn(
    number: Tensor, position: Tensor, keep: Tensor | None, inputs: int, most: int | None, seed: int
) -> Tensor | None:
    """Which tokens count where only so many of a sequence do: those with the smallest hashes of their place.

    Args:
        number: (b·t,) of each token's sequence, sequences one after the other.
        position: (b·t,) in the sequence.
        keep: (b·t,) False for padding; None: there is none.
        inputs: b.
        most: tokens of a sequence that count; None: all.
        seed: of the draw, another one than the bank's.
    """
    length = len(number) // max(1, inputs)
    if most is None or length <= most:
        return keep
    order = priorities(number, position, seed)
    order = order if keep is None else torch.where(keep, order, EMPTY_PRIORITY)
    order = order.reshape(inputs, length)
    # not kthvalue: on CUDA it is an error under torch.use_deterministic_algorithms(True)
    last = order.topk(most, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
    chosen = (order <= last).reshape(-1)
    return chosen if keep is None else chosen & keep


def by_id(numbers: Tensor, of: Tensor, known: Tensor, size: int, ids: Tensor) -> Tensor:
    """Numbers of rows by the ids of their samples, where these are known.

    Args:
        numbers: (n,) by their places.
        of: (n,) which of the batch's samples each row is of.
        known: (n,) whether that is known.
        size: samples in the batch.
        ids: of them.

    Raises:
        ConfigurationError: if there are not as many ids as samples.
    """
    if ids.shape != (size,):
        raise ConfigurationError(f"id_key= gives {len(ids)} ids, and the batch has {size} samples: each needs one")
    return torch.where(known, ids.to(numbers.device)[of], numbers)


def hash_of(name: str) -> int:
    """32 bits. A cyclic redundancy check is linear in its characters: its bits are mixed, as MurmurHash3 ends."""
    h = zlib.crc32(name.encode())
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16
