"""Codes, prototypes and experts: whether rows spread over them, or all choose the same few.

The watched rows are what a choice is made from: scores of prototypes, logits of a router, one-hot codes of a quantizer.
Entries that are −∞ are barred: such a row counts here, and for no other signal.
Collapsed codebooks: van den Oord et al. (2017, arXiv 1711.00937) and Łańcucki et al. (2020, arXiv 2005.08520).
Unbalanced experts: Fedus, Zoph & Shazeer (2022, arXiv 2101.03961).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.types import Float, Int64, Tensor


def code_perplexity(code_counts: Int64[Tensor, " d"]) -> Float[Tensor, ""]:
    """exp of the entropy of how often each code is chosen, in [1, d]: so many codes are in even use; d is the best.

    Raises:
        Undefined: if no row chooses a code.
    """
    return torch.special.entr(_shares(code_counts)).sum().exp()


def unused_codes(code_counts: Int64[Tensor, " d"]) -> Float[Tensor, ""]:
    """Share of the codes that no row chooses, in [0, 1].

    With n rows at least 1 − n/d of them are unused, however they are chosen.

    Raises:
        Undefined: if no row chooses a code.
    """
    return (_shares(code_counts) == 0).double().mean()


def largest_code_share(code_counts: Int64[Tensor, " d"]) -> Float[Tensor, ""]:
    """Share of the rows that choose the code most chosen, in [1/d, 1]: 1/d if the load is even.

    Raises:
        Undefined: if no row chooses a code.
    """
    return _shares(code_counts).max()


def routing_entropy(code_counts: Int64[Tensor, " d"], code_entropy: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Mean entropy of the softmax of a row, in nats, in [0, ln d]: 0 where every row is certain of its choice.

    Of logits (routers, prototypes divided by their temperature). Of one-hot codes it says nothing.

    Raises:
        Undefined: if no row chooses a code.
    """
    rows = int(code_counts.sum())
    if not rows:
        raise Undefined("no row has a largest entry")
    return code_entropy / rows


def _shares(counts: Tensor) -> Tensor:
    rows = int(counts.sum())
    if not rows:
        raise Undefined("no row has a largest entry")
    return counts.double() / rows
