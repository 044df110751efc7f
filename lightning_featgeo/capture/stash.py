"""The tap's stash: an op, because a Python side effect would break or guard a compiled graph.

``torch.ops.lightning_featgeo.stash(x, key)`` clones x into the open slot ``key``. Declared as an effect, the call keeps
its place in compiled graphs, at one compile for any number of calls; with the slot closed it does nothing.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

import torch

from lightning_featgeo import _compat
from lightning_featgeo.cuda_ext.schemas import NAMESPACE
from lightning_featgeo.types import Tensor


@dataclass
class Caught:
    """One forward call: when it came among all calls, and the features, unless a budget made room."""

    order: int
    features: Tensor | None


@dataclass
class Budget:
    """Bytes that a group of slots may hold together; the oldest make room. Guards the first batch of a large model."""

    limit: int
    held: deque[Caught] = field(default_factory=deque)
    used: int = 0

    def admit(self, x: Tensor) -> bool:
        """Make room for x; False if it alone is too large."""
        size = x.numel() * x.element_size()
        if size > self.limit:
            return False
        while self.used + size > self.limit:
            oldest = self.held.popleft()
            if oldest.features is not None:
                self.used -= oldest.features.numel() * oldest.features.element_size()
                oldest.features = None
        self.used += size
        return True


@dataclass
class Slot:
    """What one tap catches."""

    calls: list[Caught] = field(default_factory=list)
    budget: Budget | None = None
    error: Exception | None = None
    used: int = 0

    def catch(self, x: Tensor) -> None:
        """:meth:`add`, and whatever goes wrong is kept for later: the user's forward goes on."""
        if self.error is None:
            try:
                self.add(x)
            except Exception as error:
                self.error = error

    def add(self, x: Tensor) -> None:
        """Keep a clone: compiled code reuses the buffer that x lies in, eager code may write into it.

        Raises:
            RuntimeError: if x is no plain tensor, or the slot holds as much as one batch may.
        """
        if x.is_nested or _compat.is_inside_torch_func(x):
            raise RuntimeError("they are nested or inside torch.func: watch another layer, or give features=")
        self.used += x.numel() * x.element_size()
        if self.budget is None and self.used > SLOT_BYTES:
            raise RuntimeError(
                f"one batch made more than {SLOT_BYTES >> 20} MiB of them in {len(self.calls) + 1} calls: "
                "watch a smaller layer or give features="
            )
        keep = self.budget is None or self.budget.admit(x)
        caught = Caught(next(_ORDER), x.detach().clone() if keep else None)
        self.calls.append(caught)
        if self.budget is not None and keep:
            self.budget.held.append(caught)


SLOT_BYTES = 512 * 2**20  # what a tap may hold of one batch
_ORDER = itertools.count()
OPEN: dict[int, Slot] = {}  # by a tap's key: where it catches now
_library = torch.library.Library(NAMESPACE, "FRAGMENT")


def _stash(x: Tensor, key: int) -> None:
    slot = OPEN.get(key)
    if slot is not None:
        slot.catch(x)


def _fake_stash(x: Tensor, key: int) -> None:
    """Nothing is caught while a graph is traced."""


_library.define("stash(Tensor x, int key) -> ()")
_library.impl("stash", _stash, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::stash", _fake_stash, lib=_library)
IN_GRAPHS = _compat.keep_in_compiled_graphs(getattr(torch.ops, NAMESPACE).stash.default)
_breaking_the_graph = torch.compiler.disable(_stash)


def stash(x: Tensor, key: int, in_graph: bool = True) -> None:
    """Copy a tensor into the open slot ``key``; does nothing when that slot is closed.

    Only a graph that is being compiled needs the op; eager code takes the list directly, so that tensors which no
    operator knows (nested, inside ``torch.func``) never reach the dispatcher through us.

    Args:
        x: the features.
        key: of the slot.
        in_graph: keep the call inside of compiled graphs; False: break them here. A CUDA graph that is replayed runs
            no Python, and refuses memory of its pool that outlives it, which a copy made inside of it is.
    """
    if torch.compiler.is_compiling() and not (in_graph and IN_GRAPHS):
        _breaking_the_graph(x, key)
    elif torch.compiler.is_compiling():
        getattr(torch.ops, NAMESPACE).stash(x.detach(), key)
    else:
        _stash(x, key)
