"""Geometry curves outside of Lightning's Trainer: in a loop of your own, with Fabric, with the Hugging Face Trainer."""

from lightning_featgeo.adapters.loop import FeatureWatch

__all__ = ["FeatureWatch"]
