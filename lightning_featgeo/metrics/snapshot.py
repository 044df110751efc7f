"""A metric as it is at one moment, in memory of its own: computed beside what goes on, by one process alone."""

from __future__ import annotations

from typing import Any

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.distributed.sharding import whole_head
from lightning_featgeo.errors import Gap, GapKind, explain
from lightning_featgeo.metrics.geometry import GeometryMetric


def snapshot(metric: GeometryMetric, ranks: Ranks, failure: Gap | None = None) -> GeometryMetric:
    """The rows of all ranks as they are now, which neither later rows nor ``reset`` change, and the head's weights.

    All ranks must call it; what is to be computed, rank 0 has.

    Args:
        metric: that goes on.
        ranks: the processes to merge with.
        failure: why this rank's rows are no window: no rank gets one then.

    Raises:
        RankFailure: on all ranks, if one of them failed.
    """
    try:
        metric.complete()
    except Exception as error:  # the others wait below
        failure = failure or Gap(GapKind.FAILED, f"rows could not be added: {explain(error)}")
    with torch.inference_mode(False), torch.no_grad():
        merged = metric.across(ranks, failure, keep=True) if ranks.several or failure else metric
        if metric.signals is None:  # this rank has seen no row that could have told
            metric.signals, metric.left_out = merged.signals, merged.left_out
        read = metric.head is not None and any("head" in row.requires for row in merged.chosen)
        head: Any = whole_head(metric.head, metric.policy.head_root) if read and metric.head is not None else None
        made = ranks.attempt(lambda: merged.twin(owned=True) if merged is metric and ranks.rank == 0 else merged.twin())
        made.use_head(head if head is None or hasattr(head, "base_layer") else Head(**weights(head)))
    return made


class Head(torch.nn.Module):
    """What signals read of a head, as it was at one moment."""

    def __init__(self, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)


def weights(head: Any) -> dict[str, torch.Tensor]:
    """Copies of what signals read of a head; {}: it has nothing of that."""
    found = {name: getattr(head, name, None) for name in ("weight", "bias")}
    return {name: one.detach().clone() for name, one in found.items() if isinstance(one, torch.Tensor)}
