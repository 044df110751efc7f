"""Views that are stacked in a call: what larger batches have told of their order holds for one too small to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lightning_featgeo.rows.likeness import LEAST, occurrence
from lightning_featgeo.rows.origin import BY_LIKENESS, Origin
from lightning_featgeo.types import Tensor


@dataclass
class Stacked:
    """``views`` of a sample in a call, 0 while that is not known; ``by_sample``: those of a sample lie together."""

    views: int = 0
    by_sample: bool = False
    part: int = 0

    def settle(self, origin: Origin | None, parts: Sequence[Tensor], given: Sequence[Tensor] = ()) -> Origin | None:
        """Learn from an origin, if its batch is large enough; else complete it, if all that is known of it agrees.

        Args:
            origin: what is known of a call; None: nothing.
            parts: the batch's tensors.
            given: what the call was about.
        """
        if origin is None:
            return self._told_before(parts, given)
        if origin.samples is None or not isinstance(origin.part, int):
            return origin
        n, known = parts[origin.part].shape[0], origin.samples >= 0
        views = origin.rows // max(n, 1)
        if views < 2 or origin.rows != views * n:
            return origin
        if n >= LEAST:
            for by_sample in (False, True):
                if bool(torch.equal(origin.samples, self._order(origin, n, views, by_sample))):
                    self.views, self.by_sample, self.part = views, by_sample, origin.part
            return origin
        samples = self._order(origin, n, views, self.by_sample)
        if views != self.views or not bool((samples == origin.samples)[known].all()):
            return origin
        return replace(origin, samples=samples, piece=occurrence(samples))

    def _told_before(self, parts: Sequence[Tensor], given: Sequence[Tensor]) -> Origin | None:
        """What entered resembles the batch in no row, as all of it was changed, and the batch is too small to tell."""
        if not self.views or not given or self.part >= len(parts):
            return None
        part, x = parts[self.part], given[0]
        n = part.shape[0]
        if not 0 < n < LEAST or x.shape[0] != self.views * n or x.shape[1:] != part.shape[1:]:
            return None
        unknown = Origin(torch.full((x.shape[0],), -1, device=x.device), self.part, 0, x.shape[0], BY_LIKENESS, True)
        samples = self._order(unknown, n, self.views, self.by_sample)
        return replace(unknown, samples=samples, piece=occurrence(samples))

    @staticmethod
    def _order(origin: Origin, n: int, views: int, by_sample: bool) -> Tensor:
        assert origin.samples is not None
        index = torch.arange(origin.rows, device=origin.samples.device)
        return index // views if by_sample else index % n
