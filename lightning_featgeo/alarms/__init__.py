"""Alarms on geometry: rules (pure functions of a signal's past), kinds (which rules make an alarm), and a detector."""

from lightning_featgeo.alarms.alarm import Alarm
from lightning_featgeo.alarms.detector import Detector
from lightning_featgeo.alarms.kinds import KINDS, Kind, Watch
from lightning_featgeo.alarms.rules import (
    ChangePoint,
    Decline,
    Drop,
    Finding,
    Gap,
    Past,
    Peak,
    Plateau,
    Rule,
    Threshold,
)

__all__ = [
    "KINDS",
    "Alarm",
    "ChangePoint",
    "Decline",
    "Detector",
    "Drop",
    "Finding",
    "Gap",
    "Kind",
    "Past",
    "Peak",
    "Plateau",
    "Rule",
    "Threshold",
    "Watch",
]
