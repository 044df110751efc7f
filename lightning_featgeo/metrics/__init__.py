"""Pure functions by topic, accumulators, the catalogue of signals, and the metric that joins them."""

from lightning_featgeo.metrics.catalog import CATALOG, Signal, register
from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.metrics.results import Estimate, WindowResult

__all__ = ["CATALOG", "Estimate", "GeometryMetric", "Signal", "WindowResult", "register"]
