"""Whether a step writes into its batch: what it mixes there in place can't be told from what it only scales."""

from __future__ import annotations

from itertools import islice
from typing import Any

from lightning_featgeo._autograd import version
from lightning_featgeo.rows.tree import tensors

_MOST = 8  # tensors of a batch that are looked at
NOTE = (
    "the step writes into its batch: rows have the labels of their places. If it mixes or reorders samples there, "
    "change a copy (x = x.clone()), which is noticed"
)


class Versions:
    """Of a batch's tensors, as a step begins."""

    def __init__(self, batch: Any = None) -> None:
        self._seen = [(tensor, version(tensor)) for _, tensor in islice(tensors(batch), _MOST)]

    @property
    def changed(self) -> bool:
        """Whether one was written into since. Inference mode doesn't tell."""
        return any(version(tensor) != before for tensor, before in self._seen)
