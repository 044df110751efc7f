"""The record of every window, the file that keeps them, and what a curve is made of."""

from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record

__all__ = ["History", "Record"]
