"""Views that are stacked in a call: what larger batches have told of their order holds for one too small to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lightning_featgeo.rows.likeness import LEAST, occurrence
from lightning_featgeo.rows.origin import Origin
from lightning_featgeo.types import Tensor


@dataclass
class Stacked:
    """``views`` of a sample in a call, 0 while that is not known; ``by_sample``: those of a sample lie together."""

    views: int = 0
    by_sample: bool = False

    def settle(self, origin: Origin | None, parts: Sequence[Tensor]) -> Origin | None:
        """Learn from an origin, if its batch is large enough; else complete it, if all that is known of it agrees."""
        if origin is None or origin.samples is None or not isinstance(origin.part, int):
            return origin
        n, known = parts[origin.part].shape[0], origin.samples >= 0
        views = origin.rows // max(n, 1)
        if views < 2 or origin.rows != views * n:
            return origin
        if n >= LEAST:
            for by_sample in (False, True):
                if bool(torch.equal(origin.samples, self._order(origin, n, views, by_sample))):
                    self.views, self.by_sample = views, by_sample
            return origin
        samples = self._order(origin, n, views, self.by_sample)
        if views != self.views or not bool((samples == origin.samples)[known].all()):
            return origin
        return replace(origin, samples=samples, piece=occurrence(samples))

    @staticmethod
    def _order(origin: Origin, n: int, views: int, by_sample: bool) -> Tensor:
        assert origin.samples is not None
        index = torch.arange(origin.rows, device=origin.samples.device)
        return index // views if by_sample else index % n
