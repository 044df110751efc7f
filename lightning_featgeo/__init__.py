"""Watch the geometry of a network's features while it trains: density, intrinsic dimension and collapse curves."""

from lightning_featgeo._version import __version__
from lightning_featgeo.alarms import ChangePoint, Decline, Drop, GeneralizationGap, Peak, Plateau, Rule, Threshold
from lightning_featgeo.callbacks import FeatureGeometryMonitor, GeometryAlarm, GeometryEarlyStopping
from lightning_featgeo.callbacks.settings import Display
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning
from lightning_featgeo.history.history import History
from lightning_featgeo.metrics import GeometryMetric
from lightning_featgeo.metrics.document import catalog
from lightning_featgeo.metrics.settings import Neighbors
from lightning_featgeo.rows.pooling import Tokens

__all__ = [
    "ChangePoint",
    "ConfigurationError",
    "Decline",
    "Display",
    "Drop",
    "FeatureGeometryMonitor",
    "FeatureGeometryWarning",
    "GeneralizationGap",
    "GeometryAlarm",
    "GeometryEarlyStopping",
    "GeometryMetric",
    "History",
    "Neighbors",
    "Peak",
    "Plateau",
    "Rule",
    "Threshold",
    "Tokens",
    "__version__",
    "catalog",
]
