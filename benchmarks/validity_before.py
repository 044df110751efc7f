"""The rules of "collapse" before they were fixed on families: to compare with, side by side."""

from __future__ import annotations

from lightning_featgeo.alarms import Decline, Drop, Threshold, Watch
from lightning_featgeo.alarms.kinds import CLASSES, DEAD, DIMENSIONAL, TOTAL

BEFORE = (
    Watch("feature_std", Drop(0.15), TOTAL, unless=CLASSES),
    Watch("feature_std", Decline(4, 0.05), TOTAL, patience=1, unless=CLASSES),
    Watch("feature_std", Decline(2, 0.12), TOTAL, patience=1, unless=CLASSES),
    Watch("feature_std", Drop(0.07, below=0.5), TOTAL, patience=1, unless=CLASSES),
    Watch("feature_std", Threshold(below=0.02), TOTAL),
    Watch("effective_rank", Drop(0.45), DIMENSIONAL, warmup=2, unless=("feature_std", *CLASSES)),
    Watch("effective_rank", Decline(4, 0.25), DIMENSIONAL, patience=1, warmup=2, unless=("feature_std", *CLASSES)),
    Watch("dead_fraction", Threshold(above=0.9), DEAD, needed=False),
)
