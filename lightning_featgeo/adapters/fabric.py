"""Fabric: windows over its loop, logged by its loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_featgeo.adapters.loop import FeatureWatch
from lightning_featgeo.watch.settings import WatchSettings, documents, takes_also


@documents(WatchSettings)
class FabricGeometry(FeatureWatch):
    """A :class:`~lightning_featgeo.adapters.FeatureWatch` of a model that Fabric has set up.

    Args:
        fabric: the ``lightning.Fabric`` (or ``lightning.fabric.Fabric``) object.
        model: what ``fabric.setup`` returned.
        process_group: of the processes that see different data; None: all.
        history_path: file that every window is appended to; None: in memory only.
        embedding_rows: number of feature rows, up to 1,000, whose places in the plane the history keeps.

    Example::

        geometry = FabricGeometry(fabric, model, signals="auto")
        geometry.open("val", loader=val_loader)
        for batch in val_loader:
            with geometry.batch(batch):
                model(batch[0])
        geometry.close(epoch=epoch, step=step)  # merged over all processes, and logged
    """

    CALL = "FabricGeometry(fabric, model, "

    @takes_also(WatchSettings)
    def __init__(
        self,
        fabric: Any,
        model: torch.nn.Module,
        process_group: Any = None,
        history_path: Any = None,
        embedding_rows: int = 0,
        **settings: Any,
    ) -> None:
        inner = getattr(model, "module", None)  # what the user wrote, inside of Fabric's wrapper
        super().__init__(
            inner if isinstance(inner, torch.nn.Module) else model,
            process_group,
            history_path,
            embedding_rows,
            **settings,
        )
        self.fabric = fabric

    def close(
        self, epoch: float | int | None = None, step: int = 0, metrics: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Close the window, and log its values with ``fabric.log_dict`` at ``step``; ``metrics`` are only kept."""
        values = super().close(epoch, step, metrics)
        with self.guard.around("logging with Fabric"):
            if values:
                self.fabric.log_dict({**values, "featgeo/epoch": self.history.records[-1].epoch}, step=step)
        return values
