"""Padding masks as batches bring them: which key, which way round, and whether it marks padding at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.batches import DECODER_MASK_KEYS, MASK_KEYS, PADDING_KEYS, Selector, find_mask, summarize
from lightning_featgeo.types import Tensor

_OF_INPUTS = (*MASK_KEYS, *PADDING_KEYS)


@dataclass
class MaskReader:
    """Reads the mask of a batch's tokens in one way, which its first batches decide.

    ``attention_mask`` is non-zero where a token is real, by convention. Another key's meaning is read off: the padding
    is where the input repeats one value. One that marks places in between (hidden patches) is no padding mask.

    Args:
        selector: key, index or callable; "auto" looks for usual keys; None: there is none.
        notes: what was assumed.
        decodes: features of a decoder: ``attention_mask`` is its encoder's. None: if the batch has inputs of one.
    """

    selector: Selector
    notes: dict[str, None] = field(default_factory=dict)
    decodes: bool | None = None
    _turned: dict[str, bool | None] = field(default_factory=dict)  # key -> whether it marks padding; None: no mask

    def read(
        self, batch: Any, shape: tuple[int, ...], samples: Tensor | None, entered: Sequence[Tensor] | None = None
    ) -> Tensor | None:
        """(b, t), true where a token is real; None: all are.

        Args:
            batch: what the step got.
            shape: (b, t) of the tokens.
            samples: which of the batch's samples each of the b is; None: in order.
            entered: what entered the network, if that was seen: images have no padding.
        """
        if entered and self.selector == "auto" and all(x.ndim > 3 for x in entered):
            return None
        if self.selector != "auto":
            found = find_mask(batch, self.selector)
            if found is not None and found.ndim == 1:
                return None  # it marks samples: see ``splits``
            return found if found is None or samples is None else found[samples.clamp(min=0).to(found.device)]
        for key, mask in self._candidates(batch):
            turned = self._meaning(key, mask, batch)
            if turned is None:
                continue
            real = (mask == 0) if turned else (mask != 0)
            real = real if samples is None else real[samples.clamp(min=0).to(real.device)]
            if real.shape == shape:
                return real
            told = f"the mask {summarize(mask)} does not fit tokens {shape}: padding counts too"
            self.notes[told] = None
        return None

    def _candidates(self, batch: Any) -> list[tuple[str, Tensor]]:
        named = {str(path[-1]): value for path, value in reversed([*tree.tensors(batch)]) if path and value.ndim == 2}
        two = any(key.startswith("decoder_") for key in named)
        keys = DECODER_MASK_KEYS if self.decodes is True or (self.decodes is None and two) else _OF_INPUTS
        return [(key, named[key]) for key in keys if key in named]

    def _meaning(self, key: str, mask: Tensor, batch: Any) -> bool | None:
        """Whether a mask is true at padding; None: it marks something else, or nothing yet."""
        if key in ("attention_mask", *DECODER_MASK_KEYS):
            return False
        if key not in self._turned:
            marked = mask != 0
            if bool(marked.all()) or not bool(marked.any()):
                return None  # no padding in this batch, whichever way round
            inputs = [t for _, t in tree.tensors(batch) if t is not mask and t.ndim > 1 and t.shape[:2] == mask.shape]
            at_zero = any(_is_constant(t[~marked]) for t in inputs)
            at_one = any(_is_constant(t[marked]) for t in inputs)
            steps = marked.to(torch.int8).diff(dim=1)
            in_one_piece = bool((steps <= 0).all()) or (key in PADDING_KEYS and bool((steps >= 0).all()))
            self._turned[key] = at_one if at_zero != at_one else (key in PADDING_KEYS if in_one_piece else None)
            if self._turned[key] is None:
                self.notes[
                    f"{key!r} is true in between (hidden patches?), so it is no padding mask: every token counts. If "
                    f"it marks the real tokens, say mask={key!r}"
                ] = None
            elif self._turned[key]:
                self.notes[f"{key!r} is true at padding: these tokens are left out"] = None
        return self._turned[key]


def _is_constant(values: Tensor) -> bool:
    """Whether all places hold the same: what a collator has filled in."""
    return len(values) > 1 and bool((values == values[0]).all())
