"""The Lightning callbacks."""

from lightning_featgeo.callbacks.early_stopping import Drop, GeometryEarlyStopping, Plateau, Threshold
from lightning_featgeo.callbacks.monitor import FeatureGeometryMonitor

__all__ = ["Drop", "FeatureGeometryMonitor", "GeometryEarlyStopping", "Plateau", "Threshold"]
