"""The tap's stash: an op, because a Python side effect would break or guard a compiled graph.

``torch.ops.lightning_featgeo.stash(x, key)`` clones x into the open slot ``key``. Declared as an effect, the call keeps
its place in compiled graphs, at one compile for any number of calls; with the slot closed it does nothing.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from lightning_featgeo import _compat
from lightning_featgeo._autograd import number
from lightning_featgeo.capture.joined import pieces_of
from lightning_featgeo.capture.mixing import mixes_rows
from lightning_featgeo.capture.reordering import Taken, taken_rows
from lightning_featgeo.capture.taken_behind import is_opaque, taken_behind
from lightning_featgeo.capture.values import plain
from lightning_featgeo.cuda_ext.schemas import NAMESPACE
from lightning_featgeo.types import Tensor


@dataclass
class Caught:
    """One forward call of a watched module.

    Attributes:
        order: when it came, among all calls of all modules.
        features: a copy; None if a budget made room.
        real: (b, t), False where a packed or nested sequence was shorter.
        with_gradient: whether it was run to be trained on; None: compiled code doesn't tell.
        needs_gradient: whether something trainable lies before it.
        state: how many backwards had begun in this batch.
        place: where the memory of what was caught begins.
        node: of the autograd graph, that made it.
        reached: whether the loss is trained through it; None: unknown.
        taken: how rows were taken on the way, as the graph tells.
        is_opaque: whether part of the graph tells nothing.
        pieces: what entered for each of the pieces that rows were put together of.
        own_layers: whether they went through different layers.
        is_mixed: whether rows are sums of several samples' rows, as the graph tells.
        scored: the classes that losses score its rows against, a tensor each.
    """

    order: int
    features: Tensor | None
    real: Tensor | None = None
    with_gradient: bool | None = None
    needs_gradient: bool | None = None
    state: int = 0
    place: int | None = None
    node: Any = None
    reached: bool | None = None
    taken: Taken | None = None
    is_opaque: bool = False
    pieces: tuple[Tensor, ...] = ()
    own_layers: bool = False
    is_mixed: bool = False
    scored: tuple[Tensor, ...] = ()


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
class Pace:
    """How many operations autograd counts from one call's features to the next one's: it shows what now runs otherwise.

    A network that takes or mixes rows in some batches only runs more operations there.
    """

    last: int | None = None
    known: set[int] = field(default_factory=set)

    def is_new(self, node: Any) -> bool:
        """Whether so many have never come between two calls."""
        count = number(node)
        steps = None if count is None or self.last is None else count - self.last
        self.last = count
        if steps is None or steps in self.known or len(self.known) >= _PACES:
            return False
        self.known.add(steps)
        return True


def _always() -> bool:
    return True


@dataclass
class Slot:
    """What one tap catches. ``searches``: whether a graph is searched far back for rows that were mixed or taken."""

    calls: list[Caught] = field(default_factory=list)
    budget: Budget | None = None
    is_open: Callable[[], bool] = _always
    error: Exception | None = None
    used: int = 0
    state: int = 0
    searches: bool = False
    pace: Pace = field(default_factory=Pace)

    def catch(self, find: Callable[[], Any], eager: bool = True) -> None:
        """:meth:`add` what is found, and whatever goes wrong is kept for later: the user's forward goes on."""
        if self.error is None:
            try:
                if self.is_open() and (value := find()) is not None:
                    self.add(value, eager)
            except Exception as error:
                self.error = error

    def add(self, value: Any, eager: bool = True) -> None:
        """Keep a clone: compiled code reuses the buffer that a tensor lies in, eager code may write into it.

        Args:
            value: a tensor of any kind, or a packed sequence.
            eager: whether it was caught in code that is not compiled: then autograd can be asked.

        Raises:
            ConfigurationError, RuntimeError: see ``plain``; or the slot holds as much as one batch may.
        """
        made = plain(value)
        x = made.features
        self.used += x.numel() * x.element_size()
        if self.budget is None and self.used > SLOT_BYTES:
            raise RuntimeError(
                f"one batch made more than {SLOT_BYTES >> 20} MiB of them in {len(self.calls) + 1} calls: "
                "watch a smaller layer or give features="
            )
        keep = self.budget is None or self.budget.admit(x)
        told: dict[str, Any] = {}
        if eager:
            given: Any = value.data if isinstance(value, PackedSequence) else value
            new = given.grad_fn is not None and self.pace.is_new(given.grad_fn)
            taken, far = taken_rows(given.grad_fn), (self.searches or new) and x.ndim > 0 and given.grad_fn is not None
            if taken is None and far:
                taken = taken_behind(given.grad_fn, x.shape[0])
            pieces, own = pieces_of(given.grad_fn, x.shape[0]) if far else ((), False)
            told = {
                "with_gradient": torch.is_grad_enabled(),
                "needs_gradient": given.requires_grad,
                "place": _compat.address(given),
                "node": given.grad_fn,
                "taken": taken,
                "pieces": pieces,
                "own_layers": own,
                "is_opaque": far and is_opaque(given.grad_fn, x.shape[0]),
                "is_mixed": mixes_rows(given.grad_fn, x.shape[0] if x.ndim else 0, far),
            }
        caught = Caught(next(ORDER), x.detach().clone() if keep else None, made.real, state=self.state, **told)
        self.calls.append(caught)
        if self.budget is not None and keep:
            self.budget.held.append(caught)


_PACES = 32  # numbers of operations that are told apart
SLOT_BYTES = 512 * 2**20  # what a tap may hold of one batch
ORDER = itertools.count()  # of everything that is seen in a step
OPEN: dict[int, Slot] = {}  # by a tap's key: where it catches now
_library = torch.library.Library(NAMESPACE, "FRAGMENT")


def _stash(x: Tensor, key: int) -> None:
    slot = OPEN.get(key)
    if slot is not None:
        slot.catch(lambda: x, eager=False)


def _fake_stash(x: Tensor, key: int) -> None:
    """Nothing is caught while a graph is traced."""


_library.define("stash(Tensor x, int key) -> ()")
_library.impl("stash", _stash, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::stash", _fake_stash, lib=_library)
IN_GRAPHS = _compat.keep_in_compiled_graphs(getattr(torch.ops, NAMESPACE).stash.default)
_breaking_the_graph = torch.compiler.disable(_stash)


def stash(find: Callable[[], Any], key: int, in_graph: bool = True) -> None:
    """Copy features into the open slot ``key``; does nothing when that slot is closed.

    Only a graph that is being compiled needs the op; eager code takes the list directly, so that tensors which no
    operator knows (nested, inside ``torch.func``) never reach the dispatcher through us.

    Args:
        find: gives the features, or None where there are none.
        key: of the slot.
        in_graph: keep the call inside of compiled graphs; False: break them here. A CUDA graph that is replayed runs
            no Python, and refuses memory of its pool that outlives it, which a copy made inside of it is.
    """
    if torch.compiler.is_compiling():
        x = find()
        if not isinstance(x, torch.Tensor):
            return
        if in_graph and IN_GRAPHS:
            getattr(torch.ops, NAMESPACE).stash(x.detach(), key)
        else:
            _breaking_the_graph(x, key)
        return
    slot = OPEN.get(key)
    if slot is not None:
        slot.catch(find)
