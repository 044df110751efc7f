"""The Lightning callbacks."""

from lightning_featgeo.callbacks.early_stopping import GeometryAlarm, GeometryEarlyStopping
from lightning_featgeo.callbacks.monitor import FeatureGeometryMonitor

__all__ = ["FeatureGeometryMonitor", "GeometryAlarm", "GeometryEarlyStopping"]
