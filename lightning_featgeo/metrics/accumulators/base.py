"""What every accumulator is: a bounded, mergeable ``torchmetrics.Metric`` whose states keep device and dtype rules.

States are float64 where sums must hold, so ``.half()`` or ``.to(dtype)`` on a parent module must not touch
them: only a change of device does. Where the device has no float64 (MPS), states live on the host.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torchmetrics import Metric

from lightning_featgeo import _compat
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.types import Tensor

A = TypeVar("A", bound="Accumulator")


def state_device(device: torch.device) -> torch.device:
    """Where the states for features on ``device`` live: there, or on the host if it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class Accumulator(Metric):
    """Bounded state over rows: fixed bytes from the start, ``update(rows)``, ``merge_state(other)``, ``compute()``."""

    full_state_update: bool = False
    higher_is_better: bool | None = None
    is_differentiable: bool = False

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # Merging across processes is ours (``across``): torchmetrics would gather every state.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self._device = state_device(torch.device(device))

    def _state(self, name: str, default: Tensor) -> None:
        """A state that begins, and begins anew, with one value everywhere."""
        state = default.to(self._device)
        self.add_state(name, default=state.flatten()[:1].clone(), dist_reduce_fx=None)
        setattr(self, name, state)  # torchmetrics would keep a second tensor of this size, to begin anew from

    def reset(self) -> None:
        """Forget all rows; the memory is used again."""
        defaults = _compat.state_defaults(self)
        for name, state in self.tensors().items():
            start = defaults[name]
            if state.numel() and isinstance(start, Tensor):
                state.copy_(start.reshape(()).expand_as(state))
        _compat.begins_anew(self)

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        return compute  # torchmetrics' wrapper would gather states, and squeeze vectors of one element

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        def move(t: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=t.device)).device
            return t.to(state_device(device))

        return super()._apply(move, exclude_state)

    @abstractmethod
    def update(self, rows: Rows) -> None:
        """Add a batch of rows; those that don't count (``keep`` False) change nothing."""

    @abstractmethod
    def _merge(self, other: Mapping[str, Tensor]) -> None:
        """Fold another accumulator's states into this one's."""

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Fold another accumulator, or its ``metric_state``, into this one, as if it had seen those rows too.

        Raises:
            ValueError: if the other has states of other shapes (dimension, classes, capacity).
        """
        states: Mapping[str, Any] = (
            incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        )
        mine = self.tensors()
        for name, state in mine.items():
            theirs = states.get(name)
            if not isinstance(theirs, Tensor) or theirs.shape != state.shape:
                got = tuple(theirs.shape) if isinstance(theirs, Tensor) else theirs
                raise ValueError(
                    f"cannot merge into {type(self).__name__}: state {name!r} is {tuple(state.shape)} here, {got} there"
                )
        self._merge({name: states[name].to(mine[name].device) for name in mine})
        _compat.has_updates(self, more=1)

    def across(self: A, ranks: Ranks, keep: bool) -> A:
        """This accumulator as if it had seen the rows of all ranks.

        Args:
            ranks: all of them call this, with the same settings.
            keep: return another one and leave this as it is; else this one changes.

        Raises:
            RankFailure: if a rank runs out of memory on the way; on all of them.
        """
        target = ranks.attempt(lambda: copy.deepcopy(self) if keep else self)
        if ranks.several:
            with torch.no_grad():
                target._reduce(ranks)
        return target

    @abstractmethod
    def _reduce(self, ranks: Ranks) -> None:
        """Turn these states into those of all ranks together, by a sequence of collectives that is the same on all."""

    def sync_bytes(self, size: int) -> int:
        """Bytes that :meth:`across` holds on the way beyond the states, with so many ranks."""
        return 0

    def tensors(self) -> dict[str, Tensor]:
        """The states by name."""
        return {name: state for name, state in self.metric_state.items() if isinstance(state, Tensor)}

    @property
    def memory_bytes(self) -> int:
        """Bytes of all states: fixed by the configuration."""
        return sum(state.numel() * state.element_size() for state in self.tensors().values())
