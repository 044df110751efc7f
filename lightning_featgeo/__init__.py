"""Watch the geometry of a network's features while it trains: density, intrinsic dimension and collapse curves.

A name is imported from its module when it is first asked for (PEP 562), so that ``lightning_featgeo.cuda_ext`` and
``lightning_featgeo.GeometryMetric`` load no Lightning, which takes several seconds.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

from lightning_featgeo._version import __version__

if TYPE_CHECKING:
    from lightning_featgeo.alarms import ChangePoint, Decline, Drop, GeneralizationGap, Peak, Plateau, Rule, Threshold
    from lightning_featgeo.callbacks import FeatureGeometryMonitor, GeometryAlarm, GeometryEarlyStopping
    from lightning_featgeo.callbacks.probe_sets import ProbeSet
    from lightning_featgeo.callbacks.settings import Display
    from lightning_featgeo.callbacks.windows import Windows
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
    "ProbeSet",
    "Rule",
    "Threshold",
    "Tokens",
    "Windows",
    "__version__",
    "catalog",
]

# What the imports above say to type checkers; tests/unit/test_imports.py compares the two.
_MODULES = {
    "ChangePoint": "alarms",
    "ConfigurationError": "errors",
    "Decline": "alarms",
    "Display": "callbacks.settings",
    "Drop": "alarms",
    "FeatureGeometryMonitor": "callbacks",
    "FeatureGeometryWarning": "errors",
    "GeneralizationGap": "alarms",
    "GeometryAlarm": "callbacks",
    "GeometryEarlyStopping": "callbacks",
    "GeometryMetric": "metrics",
    "History": "history.history",
    "Neighbors": "metrics.settings",
    "Peak": "alarms",
    "Plateau": "alarms",
    "ProbeSet": "callbacks.probe_sets",
    "Rule": "alarms",
    "Threshold": "alarms",
    "Tokens": "rows.pooling",
    "Windows": "callbacks.windows",
    "catalog": "metrics.document",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value  # the next time it is found without asking here
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")  # lightning_featgeo.metrics, without an import of its own
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
