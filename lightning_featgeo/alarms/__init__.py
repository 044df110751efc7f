"""Alarms on geometry: rules (pure functions of a signal's past), kinds (which rules make an alarm), and a detector."""

from lightning_featgeo.alarms.alarm import Alarm
from lightning_featgeo.alarms.detector import Detector
from lightning_featgeo.alarms.kinds import KINDS, Kind, Watch
from lightning_featgeo.alarms.movement import ChangePoint, Plateau
from lightning_featgeo.alarms.past import Finding, Past
from lightning_featgeo.alarms.rules import Decline, Drop, GeneralizationGap, Peak, Rule, Threshold

__all__ = [
    "KINDS",
    "Alarm",
    "ChangePoint",
    "Decline",
    "Detector",
    "Drop",
    "Finding",
    "GeneralizationGap",
    "Kind",
    "Past",
    "Peak",
    "Plateau",
    "Rule",
    "Threshold",
    "Watch",
]
