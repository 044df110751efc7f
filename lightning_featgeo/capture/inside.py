"""What was done to the batch before its first layer: inside of the model's forward, or by a module before it.

A model that sorts its input by length, or an augmentation that is a module of its own (mixup), is given the batch as it
is. What counts is what the first layer is given: a tensor of the same form, without a gradient, that holds the rows in
another order, or mixtures of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_featgeo import _compat
from lightning_featgeo.capture.entries import Entered, Entries
from lightning_featgeo.capture.stash import ORDER, Caught
from lightning_featgeo.capture.taken_behind import joins_the_batch
from lightning_featgeo.rows.evidence import EVERY, FIRST
from lightning_featgeo.rows.origin import Origin
from lightning_featgeo.rows.provenance import origin_of
from lightning_featgeo.types import Tensor

MOST = 4  # tensors that are looked at in one call
FIRST_VAIN, EVERY_VAIN = 16, 8  # batches beyond the regular ones that are looked at, then one in so many
MIXED = 0.5  # share of rows that are mixtures, where it is mixing


@dataclass
class Inside:
    """Looks in the first batches and now and then; in each batch where rows were moved or mixed once.

    ``modules``: whose inputs showed it, which are hooked from then on. ``unsure``: when calls came of which nobody
    knows whether rows were put back again, since no call with a graph has shown that they are not. ``takes``: whether
    the graph shows that rows were taken inside of a module, at its end: its output says no more than they do.
    """

    modules: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)
    takes: bool = False
    _batches: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})  # by whether they were trained on
    _looks: bool = True
    _moved: bool = False
    _joins: bool = False  # the batch itself is joined to features on the way
    _vain: int = 0  # batches beyond the regular ones in which it was looked
    _stays: bool = False  # in training, nothing took rows behind the place where they were moved

    def begin(self, trains: bool) -> None:
        """A batch comes; ``trains``: the model is in training mode."""
        self._looks = self._moved or self._batches[trains] < FIRST or self._batches[trains] % EVERY == 0
        self._batches[trains] += 1

    def entered(self, entries: Entries, one: Entered, call: Caught) -> tuple[Tensor, ...]:
        """What entered for a call that lies inside of an outermost one, or is on what it gave."""
        has_graph, is_taken = call.node is not None, call.taken is not None
        self.takes = self.takes or (is_taken and any(gave.grad_fn is call.node for gave in one.gave))
        origin = entries.origin(one)
        outer = origin.shown()
        if not outer or (origin is one and not one.inside):
            return outer
        chain = entries.chain(one)
        if not self._looks and not self._is_new(chain):
            return outer
        for given, module, is_inside, shortest in _candidates(chain, call.order):
            if not _is_like(given, outer[0]):
                continue
            origin_here = origin_of((given,), outer)
            if shortest and (origin_here is None or origin_here.lacks_some):
                given, origin_here = _unpacked(given, shortest, outer[0], origin_here)
            if not _is_moved_or_mixed(origin_here):
                continue
            self._joins = self._joins or (is_inside and has_graph and joins_the_batch(call.node, len(given)))
            if is_inside and self._joins:
                return outer
            self._moved = True
            self.modules.add(module)
            self._stays = self._stays or (has_graph and not is_taken)
            if is_inside and not has_graph and not self._stays:
                self.unsure.add(call.order)
            return (given,)
        return outer

    def _is_new(self, chain: Sequence[Entered]) -> bool:
        """Whether a first layer was now given something else than the batch itself, which it was given before."""
        if all(link.enters or not link.inside for link in chain):
            return False
        self._vain += 1  # noise that is added now and then is looked at less and less
        return self._vain <= FIRST_VAIN or self._vain % EVERY_VAIN == 0


def look_inside(one: Entered, args: Any, kwargs: Any, module: torch.nn.Module) -> None:
    """Keep what a module inside is given, if it may be the batch's rows in another order, or mixed."""
    with contextlib.suppress(RuntimeError, NotImplementedError):  # some kinds of tensors refuse to be asked
        _look_inside(one, args, kwargs, module)


def _look_inside(one: Entered, args: Any, kwargs: Any, module: torch.nn.Module) -> None:
    if not one.given or one.enters or not _is_plain(one.given[0]):
        return
    outer = one.given[0]
    for given in (*args, *kwargs.values()):
        shortest = 0
        if isinstance(given, PackedSequence):
            shortest = int((given.batch_sizes == given.batch_sizes[0]).sum())  # they are on the CPU
            given = _as_long(given, outer)
        if type(given) is not Tensor or not _is_plain(given):
            continue
        if given is outer or (given.shape == outer.shape and _compat.address(given) == _compat.address(outer)):
            one.enters, one.inside = id(module), []
            return
        fresh = len(one.inside) < MOST and not (one.inside and one.inside[-1][0] is given)
        if fresh and len(given) == len(outer) > 1 and _is_like(given, outer):
            one.inside.append((given, id(module), next(ORDER), shortest))


def _is_plain(x: Tensor) -> bool:
    """Whether it has rows that can be asked for: nested and sparse tensors refuse."""
    return x.layout is torch.strided and not x.is_nested and x.ndim > 0


def _is_like(given: Tensor, outer: Tensor) -> bool:
    """Whether a tensor can be rows of another one: of its form and type, not trained through, and not the same."""
    if not (_is_plain(given) and _is_plain(outer)):
        return False
    same = given.shape[1:] == outer.shape[1:] and given.dtype == outer.dtype and given.ndim == outer.ndim > 1
    return same and not given.requires_grad and _compat.address(given) not in (None, _compat.address(outer))


def _as_long(packed: PackedSequence, outer: Tensor) -> Tensor | None:
    """Packed sequences as (b, t, …), padded to the length of another tensor's; None: they are longer."""
    if outer.ndim < 3 or len(packed.batch_sizes) > outer.shape[1]:
        return None
    return pad_packed_sequence(packed, batch_first=True, total_length=outer.shape[1])[0]


def _unpacked(given: Tensor, shortest: int, outer: Tensor, otherwise: Origin | None) -> tuple[Tensor, Origin | None]:
    """Packed sequences whose padding was no zeros: told by as many steps as each of them has."""
    found = origin_of((given[:, :shortest],), (outer[:, :shortest],))
    if found is None or found.lacks_some or found.changed:
        return given, otherwise
    rows = outer if found.samples is None else outer[found.samples]
    return rows, origin_of((rows,), (outer,))


def _is_moved_or_mixed(found: Origin | None) -> bool:
    """Whether rows are another one's in another order, or most of them mixtures; augmented ones are what they were."""
    if found is None:
        return False
    if found.has_mixed:
        mixed = found.is_mixed
        return bool(mixed) if isinstance(mixed, bool) else float(mixed.double().mean()) > MIXED
    return not found.is_identity and not (found.changed and found.lacks_some)


def _candidates(chain: Sequence[Entered], order: int) -> list[tuple[Tensor, int, bool, int]]:
    """What modules were given on the way, the last ones first; whether inside of another one; the shortest sequence of
    those that were packed.

    Not inside of a call in which the batch itself went into a module: then other rows are of a branch (negatives, a
    consistency loss).
    """
    found: list[tuple[Tensor, int, bool, int]] = []
    for number, one in enumerate(chain):
        own = [] if one.enters else reversed(one.inside)
        found += [(given, module, True, shortest) for given, module, when, shortest in own if when < order]
        if number < len(chain) - 1 and one.given:
            found.append((one.given[0], one.module, False, 0))
    return found[:MOST]
