"""Sequences of tokens over several processes. Run on each rank."""

from __future__ import annotations

import os

import torch

from lightning_featgeo import GeometryMetric


def tokens(size: int) -> list[dict[str, float]]:
    """Two windows of tokens, with sketches and histograms, of sequences that ranks share; the last rank has none."""
    if size > 1:
        torch.distributed.init_process_group("gloo")
    rank, shares = int(os.environ.get("RANK", 0)), max(1, size - 1)
    metric = GeometryMetric(["positions", "distribution", "unit_drift", "unit_drift_first"], sync_on_compute=True)
    generator = torch.Generator().manual_seed(0)
    place, found = torch.randn(9, 6, generator=generator), []
    for window in range(2):
        metric.reset()
        x = (
            100
            + place
            + torch.randn(300, 1, 6, generator=generator)
            + 0.5 * torch.randn(300, 9, 6, generator=generator)
        )
        own = torch.arange(300)[rank::shares] if rank < shares else torch.arange(0)
        for part in own.split(32):
            rows = ((1 + window) * x[part]).flatten(0, 1)
            metric.update(rows, sample_index=part.repeat_interleave(9))
        result = metric.window()
        found.append(result.values | dict.fromkeys(result.gaps, 0.0))
    return found
