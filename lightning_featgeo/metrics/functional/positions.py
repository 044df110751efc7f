"""Tokens by position: what of their spread comes from where they stand, what from the sequence they are in.

A token t of sequence c is taken apart as x = μ + p_t + m_c + rest, with p_t the mean over sequences at this position
and m_c the mean of the sequence: Song & Zhong (2023), "Uncovering hidden geometry in Transformers via disentangling
position and context" (arXiv 2310.04861). Tokens that grow alike with depth: Tang et al. (2021), "Augmented Shortcuts
for Vision Transformers" (arXiv 2106.15941). Units that fire by position: Voita, Ferrando & Nalmpantis (2023), "Neurons
in Large Language Models: Dead, N-gram, Positional" (arXiv 2309.04827).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.accumulators.positions import Positions
from lightning_featgeo.types import Float, Tensor

PLACED = 0.99  # share of tokens whose sequence must be known
INFORMED = 0.05  # nats that a unit's firing tells of the position


def _at_several(positions: Positions) -> Tensor:
    """Number of tokens.

    Raises:
        Undefined: with tokens at one position only.
    """
    places = int((positions.counts > 0).sum())
    if places < 2:
        raise Undefined(
            f'needs rows at several positions, found {places}: pool="tokens" makes each token a row', GapKind.NO_INPUT
        )
    return positions.counts.sum()


def _share(part: Tensor, positions: Positions) -> Tensor:
    if not positions.spread > 1e-12 * positions.power:
        raise Undefined("all tokens have the same features")
    return (part / positions.spread).clamp(0, 1)


def position_share(positions: Positions) -> Float[Tensor, ""]:
    """Share of the tokens' variance that lies between positions, in [0, 1]: what depends on where a token stands.

    From position 128 on, sixteen bins share each doubling. Of n tokens that know nothing of T positions, (T − 1)/n.

    Raises:
        Undefined: with tokens at one position only, or if all tokens have the same features.
    """
    _at_several(positions)
    return _share(positions.counts @ positions.means.square().sum(dim=1), positions)


def context_share(positions: Positions) -> Float[Tensor, ""]:
    """Share of the tokens' variance that lies between sequences, in [0, 1]: what a sequence's tokens have in common.

    Near 1: tokens of one sequence are all the same. Of n tokens that know nothing of C sequences, (C − 1)/n.

    Raises:
        Undefined: with tokens at one position only, where a token's sequence is not known, or if all tokens have the
            same features.
    """
    if positions.placed < PLACED * _at_several(positions):
        raise Undefined("which sequence these tokens are of can't be told", GapKind.NO_INPUT)
    return _share(positions.context_spread, positions)


def position_context_cosine(positions: Positions) -> Float[Tensor, ""]:
    """Mean absolute cosine between what positions add and what sequences add, in [0, 1]; 0: in separate directions.

    Of the positions' and up to 256 sequences' mean vectors, each about the mean of all tokens. Vectors that have
    nothing to do with each other read about √(2/(πd)).

    Raises:
        Undefined: with tokens at one position only, without two sequences, or if one of the two adds nothing.
    """
    size = (positions.power / _at_several(positions)).sqrt()
    by_place = positions.means[positions.counts > 0]
    units = []
    for vectors, what in ((by_place, "positions"), (positions.contexts, "sequences")):
        length = torch.linalg.vector_norm(vectors, dim=1)
        real = length > 1e-7 * size  # means of sequences are kept in single precision
        if int(real.sum()) < 2:
            raise Undefined(f"fewer than two {what} differ from the mean of all tokens")
        units.append(vectors[real] / length[real][:, None])
    return (units[0] @ units[1].T).abs().mean()


def token_similarity(positions: Positions) -> Float[Tensor, ""]:
    """Mean over sequences of the mean cosine of two of their tokens, in [−1, 1]; 1: all tokens have become one.

    Over-smoothing shows here: without residual connections it rises with depth. Not centred: a common offset raises it.

    Raises:
        Undefined: without a sequence of two tokens that are not zero.
    """
    if not positions.sequences > 0:
        raise Undefined('no sequence has two tokens that are not zero: pool="tokens" makes each token a row')
    return positions.similarity / positions.sequences


def positional_units(positions: Positions) -> Float[Tensor, ""]:
    """Share of units whose being above zero tells more than 0.05 nats of the position, in [0, 1].

    The mutual information of a unit's firing and the position, each position weighted by its tokens: a unit that fires
    at some positions and not at others. Few tokens a position raise it: by about (T − 1)/(2n) of n tokens at T.

    Raises:
        Undefined: with tokens at one position only.
    """
    n = _at_several(positions)
    there = positions.counts > 0
    counts = positions.counts[there]
    rate = positions.active[there] / counts[:, None]
    overall = (positions.active.sum(dim=0) / n).expand_as(rate)
    told = torch.special.xlogy(rate, rate / overall.clamp(min=1e-300))
    told = told + torch.special.xlogy(1 - rate, (1 - rate) / (1 - overall).clamp(min=1e-300))
    return ((counts / n) @ told > INFORMED).double().mean()
