"""Watch the geometry of a network's features while it trains: density, intrinsic dimension and collapse curves."""

from lightning_featgeo._version import __version__
from lightning_featgeo.callbacks import (
    Drop,
    FeatureGeometryMonitor,
    GeometryEarlyStopping,
    Plateau,
    Threshold,
)
from lightning_featgeo.history import History
from lightning_featgeo.metrics import GeometryMetric
from lightning_featgeo.metrics.document import catalog
from lightning_featgeo.types import ConfigurationError, FeatureGeometryWarning

__all__ = [
    "ConfigurationError",
    "Drop",
    "FeatureGeometryMonitor",
    "FeatureGeometryWarning",
    "GeometryEarlyStopping",
    "GeometryMetric",
    "History",
    "Plateau",
    "Threshold",
    "__version__",
    "catalog",
]
