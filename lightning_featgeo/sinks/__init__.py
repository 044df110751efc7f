"""What loggers can show beyond scalars: one class a logger, whose package is imported only when it is used.

Scalars don't pass here: ``pl_module.log`` (or, inside an epoch, ``logger.log_metrics``) sends them to every logger.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_featgeo.sinks.sink import ALARM, EPOCH, At, Sink
from lightning_featgeo.sinks.stores import CometSink, MLflowSink, TensorBoardSink, TrackioSink
from lightning_featgeo.sinks.weights_biases import WandbSink

__all__ = ["ALARM", "EPOCH", "At", "Sink", "WandbSink", "every_sink", "sinks_of"]

_KINDS: dict[str, type[Sink]] = {
    "WandbLogger": WandbSink,
    "TensorBoardLogger": TensorBoardSink,
    "MLFlowLogger": MLflowSink,
    "CometLogger": CometSink,
    "TrackioLogger": TrackioSink,
}


def every_sink(loggers: Iterable[Any]) -> list[Sink]:
    """A sink for each logger, known by class name: importing wandb costs a second."""
    return [
        next((_KINDS[c.__name__] for c in type(logger).__mro__ if c.__name__ in _KINDS), Sink)(logger)
        for logger in loggers
    ]


def sinks_of(loggers: Iterable[Any]) -> list[Sink]:
    """A sink for each logger that can show more than scalars."""
    return [sink for sink in every_sink(loggers) if type(sink) is not Sink]
