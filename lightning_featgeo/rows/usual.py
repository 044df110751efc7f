"""The usual batch: one call on the batch's own memory, a row a sample, a class a row.

Once a batch was read in full, others like it are read the same way again, at the least cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.rows import tree
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.chosen import Chosen
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.origin import Origin
from lightning_featgeo.rows.pooling import Pooled, pool_rows
from lightning_featgeo.rows.waiting import PlainRows
from lightning_featgeo.types import Tensor

MOST_ITEMS = 8  # of a batch that is looked at this way
Form = tuple[object, ...]


def form_of(batch: Any) -> Form | None:
    """Keys, types and shapes of a batch, but for its length; None: it is no plain container of a few tensors."""
    kind = type(batch)
    if kind not in (tuple, list, dict) or not 0 < len(batch) <= MOST_ITEMS:
        return None
    items = batch.items() if kind is dict else enumerate(batch)
    found: list[object] = [kind]
    for key, part in items:
        if not isinstance(part, torch.Tensor):
            return None
        found += (key, part.dtype, part.shape[1:])
    return tuple(found)


@dataclass
class Usual:
    """How batches of one form are read.

    Args:
        form: of the batch.
        entrance: key or position of the tensor that enters the network.
        labels: of the class labels; None: there are none.
        ignored: the class index of rows without a class.
        pool: how features become rows.
        present: what the batch brings (see ``Assembled``).
        linked: see ``Call.is_linked``.
    """

    form: Form
    entrance: Any
    labels: Any
    ignored: int
    pool: str
    present: frozenset[str]
    linked: bool

    def fits(self, calls: Sequence[Any], batch: Any) -> bool:
        """Whether this batch is another one of the kind: one whole call, on the same tensor of it."""
        if len(calls) != 1 or form_of(batch) != self.form:
            return False
        call, given = calls[0], batch[self.entrance]
        if type(call) is not Call or call.entered is None or len(call.entered) != 1 or call.entered[0] is not given:
            return False
        if call.is_linked != self.linked:  # what is known of it has changed, and is to be said
            return False
        if call.rows is not None or call.is_reordered or call.is_mixed or call.real is not None or call.scored:
            return False
        n = given.shape[0]
        return call.features.shape[0] == n and (self.labels is None or batch[self.labels].shape[0] == n)

    def again(
        self, calls: Sequence[Any], batch: Any, first_sample: int, ranks: Ranks,
        count_fresh: Callable[[int], int | None] | None,
    ) -> PlainRows | None:  # fmt: skip
        """Its rows; None if it is another batch, or some of its samples don't count.

        Args: those of ``RowAssembler.assemble``.
        """
        if not self.fits(calls, batch):
            return None
        features: Tensor = calls[0].features
        fresh = None if count_fresh is None else count_fresh(len(features))
        if fresh is not None and fresh < len(features):
            return None
        if features.ndim != 2:
            pooled = pool_rows(features, self.pool)
            if pooled.keep is not None or pooled.rows.shape[0] != features.shape[0]:
                return None
            features = pooled.rows
        if features.dtype not in (torch.float32, torch.float64):
            features = features.to(torch.float32)
        label = None
        if self.labels is not None:
            label = batch[self.labels]
            label = label.to(features.device) if label.device != features.device else label.clone()
        return PlainRows(features, label, self.ignored, first_sample, ranks.size, ranks.rank)


def learned(
    batch: Any, found: Sequence[Chosen], pooled: Sequence[Pooled], present: frozenset[str], labels: LabelReader,
    by_memory: Origin | None, pool: str,
) -> Usual | None:  # fmt: skip
    """How to read batches like this one, which was read in full; None: it was no usual one.

    Args:
        batch: the batch.
        found: the calls that counted.
        pooled: their rows.
        present: what it brought.
        labels: what read its labels.
        by_memory: what is known of a call on the batch's own tensor.
        pool: how features became rows.
    """
    form = form_of(batch)
    if form is None or len(found) != 1 or len(pooled) != 1 or by_memory is None or pool == "tokens":
        return None
    (one,), (part,) = found, pooled
    x, home = one.call.features, labels.path if "labels" in present else ()
    if one.origin is not by_memory or not one.is_labelled or one.view != 0 or one.call.entered is None:
        return None
    if part.keep is not None or part.grouped or not len(part.rows) == part.inputs == x.shape[0]:
        return None
    if not x.is_floating_point() or x.ndim < 2 or (x.ndim > 2 and "->" not in pool):  # a mask may be read
        return None
    if present - {"labels"} or home is None or len(home) > 1 or ("labels" in present and labels.kind != "classes"):
        return None
    for key, tensor in tree.children(batch):
        if tensor is one.call.entered[0]:
            return Usual(form, key, home[0] if home else None, labels.ignore_index, pool, present, one.call.is_linked)
    return None
