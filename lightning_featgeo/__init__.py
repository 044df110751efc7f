"""Watch the geometry of a network's features while it trains: density, intrinsic dimension and collapse curves."""

from lightning_featgeo._version import __version__
from lightning_featgeo.alarms import ChangePoint, Decline, Drop, Gap, Peak, Plateau, Rule, Threshold
from lightning_featgeo.callbacks import FeatureGeometryMonitor, GeometryAlarm, GeometryEarlyStopping
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning
from lightning_featgeo.history.history import History
from lightning_featgeo.metrics import GeometryMetric
from lightning_featgeo.metrics.document import catalog

__all__ = [
    "ChangePoint",
    "ConfigurationError",
    "Decline",
    "Drop",
    "FeatureGeometryMonitor",
    "FeatureGeometryWarning",
    "Gap",
    "GeometryAlarm",
    "GeometryEarlyStopping",
    "GeometryMetric",
    "History",
    "Peak",
    "Plateau",
    "Rule",
    "Threshold",
    "__version__",
    "catalog",
]
