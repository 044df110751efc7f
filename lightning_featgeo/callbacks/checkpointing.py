"""What a checkpoint keeps of a monitor, and how a run goes on from it.

Kept: every closed window (so that the resumed run's history is whole), what was watched, who was whose neighbour in the
last window, and the training window that was open, if its rows can be gone on from. Plain numbers, strings and tensors:
``torch.load(…, weights_only=True)`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.watch.samplers import loader_of, stateful
from lightning_featgeo.watch.window import Window

if TYPE_CHECKING:
    from lightning_featgeo.callbacks.run import Run

VERSION = 1
LOST = "the run was resumed in the middle of this window, and the rows before that are lost: "
RESTARTS = LOST + "the loader began anew (torchdata's StatefulDataLoader goes on where it was)"
SEVERAL = LOST + "a checkpoint holds those of one rank only"


@dataclass
class Saved:
    """A monitor's state from a checkpoint."""

    windows: int
    records: list[Record] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    dims: list[int | None] = field(default_factory=list)
    classes: int | None = None
    earlier: dict[str, Any] = field(default_factory=dict)
    open: dict[str, Any] | None = None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Saved:
        """Read a state dict.

        Raises:
            Exception: of any kind, if it is not one of ours.
        """
        version = state.get("version", 0)
        if version > VERSION:
            raise ValueError(f"it was written by a later version (format {version}, this one reads up to {VERSION})")
        return cls(
            windows=int(state["windows"]),
            records=[Record(**record) for record in state.get("records", [])],
            events=[dict(event) for event in state.get("events", [])],
            layers=[str(path) for path in state.get("layers", [])],
            dims=[None if dim is None else int(dim) for dim in state.get("dims", [])],
            classes=state.get("classes"),
            earlier=dict(state.get("earlier", {})),
            open=state.get("open"),
        )

    def check(self, layers: list[str], dims: list[int | None], classes: int | None) -> None:
        """Refuse to go on with curves of something else.

        Raises:
            ConfigurationError: with both, and what to do.
        """
        way_out = (
            "Resume with the settings of the checkpoint, or start new curves with FeatureGeometryMonitor(resume=False)"
        )
        if self.layers and layers and self.layers != layers:
            raise ConfigurationError(f"the checkpoint's curves are of {self.layers}, this run's of {layers}. {way_out}")
        for path, before, now in zip(self.layers, self.dims, dims, strict=False):
            if None not in (before, now) and before != now:
                raise ConfigurationError(f"{path!r} had {before} dimensions in the checkpoint, now {now}. {way_out}")
        if self.dims and classes != self.classes:
            raise ConfigurationError(
                f"the checkpoint's curves are of {self.classes} classes, this run's of {classes}. {way_out}"
            )


def save(number: int, history: History, of_run: Mapping[str, Any]) -> dict[str, Any]:
    """A monitor's state for a checkpoint; ``of_run``: what :func:`facts` says of its run."""
    return {
        "version": VERSION,
        "windows": number,
        "records": [asdict(record) for record in history],
        "events": [dict(event) for event in history.events],
        **of_run,
    }


def facts(run: Run) -> dict[str, Any]:
    """What is watched, who was whose neighbour, and the open training window."""
    watched = {(stage, loader): w.watched for stage, loader, w in run.each_window()}
    seen = next((parts for parts in watched.values() if any(part.metric.dim for part in parts)), [])
    earlier = {}
    for (stage, loader), parts in watched.items():
        for index, part in enumerate(parts):
            table = part.metric.earlier_neighbors
            if table is not None:
                earlier[f"{stage}/{loader}/{index}"] = [tensor.cpu() for tensor in table]
    state: dict[str, Any] = {
        "layers": run.paths,
        "dims": [part.metric.dim for part in seen],
        "classes": next((part.metric.num_classes for part in seen), None),
        "earlier": earlier,
    }
    window = run.open_train_window()
    if window is not None:
        state["open"] = _open_window(run, window)
    return state


def _open_window(run: Run, window: Window) -> dict[str, Any]:
    """The training window that is half full: with its rows, if whoever resumes can add the rest to them."""
    progress = run.trainer.fit_loop.epoch_loop.batch_progress
    at_an_end = progress.is_last_batch or progress.current.ready == 0
    goes_on = at_an_end or stateful(loader_of(run.trainer, "train", 0))
    lost = window.failed or (SEVERAL if run.ranks.several else None if goes_on else RESTARTS)
    return {
        "start_step": window.start_step,
        "samples": window.samples,
        "batches": window.batches,
        "seconds": window.seconds,
        "lost": lost,
        "in_epoch": not at_an_end,
        "parts": [] if lost else [
            {"failed": part.failed, "metric": part.metric.checkpoint()} for part in window.watched
        ],
    }  # fmt: skip


def reopen(run: Run, saved: Saved) -> None:
    """Go on with the training window that was open."""
    state = saved.open
    if state is None or "train" not in run.caught_stages:
        return
    run.open("train")
    window = run.open_train_window()
    if window is None:
        return
    window.start_step, window.samples = int(state["start_step"]), int(state["samples"])
    window.batches, window.seconds = int(state["batches"]), float(state["seconds"])
    window.failed = state["lost"]
    if window.failed is None and run.ranks.several:
        window.failed = SEVERAL
    if window.failed is None and state["in_epoch"] and not stateful(loader_of(run.trainer, "train", 0)):
        window.failed = RESTARTS
    if window.failed is None and state["parts"]:
        window.watched = run.watch("train", 0)
        for part, kept in zip(window.watched, state["parts"], strict=True):
            part.failed = kept["failed"]
            part.metric.to(run.trainer.strategy.root_device)
            part.metric.merge_state(kept["metric"])
