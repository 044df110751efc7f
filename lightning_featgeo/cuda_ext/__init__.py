"""The compiled ops behind the accumulators, and which backend runs them.

Every op has a plain-torch reference that runs on any device. Compiled kernels, where they were built and fit this
machine, are loaded on import and serve the same ops faster. ``python -m lightning_featgeo.cuda_ext build`` builds them.
"""

from __future__ import annotations

import torch

from lightning_featgeo.cuda_ext import certified, library
from lightning_featgeo.cuda_ext.ops import knn
from lightning_featgeo.cuda_ext.schemas import SCHEMAS
from lightning_featgeo.cuda_ext.streaming import StreamingNeighbors

__all__ = ["StreamingNeighbors", "backend_info", "knn"]

library.load()


def backend_info() -> dict[str, str]:
    """Which implementation runs and why.

    ``backend``: "compiled" or "reference", of the CPU ops; ``reason``: why; ``cpu`` and ``cuda``: which ops are
    compiled there, or why none are; ``neighbors``: how many rows' neighbours each precision has settled so far
    (bf16, fp32 and float64 products, and subtraction); ``torch``; ``ops``: all there are.
    """
    kernels = {kind: ", ".join(library.compiled(kind)) or f"none: {library.reasons[kind]}" for kind in ("cpu", "cuda")}
    for name, why in library.faults.items():
        kernels["cuda"] += f"; not {name}, which disagreed with plain torch ({why})"
    cpu = "cpu" in library.libraries
    reason = f"kernels for {library.instruction_set()}" if cpu else library.reasons["cpu"]
    return {
        "backend": "compiled" if cpu else "reference",
        "reason": reason,
        **kernels,
        "neighbors": ", ".join(f"{name} {rows}" for name, rows in certified.settled.items()) or "none searched",
        "torch": torch.__version__,
        "ops": ", ".join(sorted(SCHEMAS)),
    }
