"""The record of every window, the file that keeps them, and what a curve is made of."""

from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.history.sketches import window_mmd

__all__ = ["History", "Record", "window_mmd"]
