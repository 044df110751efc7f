"""A step's outermost calls, and which of them made what, looked up: many layers cost no more than each its own."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_featgeo import _compat
from lightning_featgeo.types import Tensor

_NODES = 200  # of the autograd graph that are looked through between two modules
_GIVEN = 4  # arguments of a call that are looked at


@dataclass(slots=True)
class Entered:
    """One outermost call: when it began and ended, what it was given, and what it gave."""

    start: int
    module: int
    given: list[Tensor]
    stop: float = math.inf
    gave: list[Tensor] = field(default_factory=list)
    packed: PackedSequence | None = None  # of which ``given`` has the data
    inside: list[tuple[Tensor, int, int, int]] = field(default_factory=list)  # what modules in it got: see ``inside``
    enters: int = 0  # the first module in it that was given that itself; 0: none

    def shown(self) -> tuple[Tensor, ...]:
        """What it was given, sequences one a row: in the order that they had when they were packed."""
        if self.packed is None:
            return tuple(self.given)
        padded, _ = pad_packed_sequence(self.packed, batch_first=True)
        return tuple(padded.detach() if one is self.packed.data else one for one in self.given)


class Entries:
    """Outermost calls in their order, one after the other. Outputs are held, so that nothing else takes their place.

    Args:
        calls: of one step, which is over.
    """

    def __init__(self, calls: list[Entered]) -> None:
        self.calls = calls
        self._starts = [one.start for one in calls]
        self._by_place: dict[int, list[Entered]] = {}
        self._by_node: dict[Any, list[Entered]] = {}
        for one in calls:
            own = {_compat.address(given) for given in one.given}  # a view of what it was given says nothing
            for gave in one.gave:
                place = _compat.address(gave)
                if place is not None and place not in own:
                    self._by_place.setdefault(place, []).append(one)
                if gave.grad_fn is not None:
                    self._by_node.setdefault(gave.grad_fn, []).append(one)
        self._derived: dict[int, Entered | None] = {}
        self._origins: dict[int, Entered] = {}
        self._first_hand: list[Entered] | None = None

    def holding(self, order: int) -> Entered | None:
        """The call that something lies inside of."""
        at = bisect_right(self._starts, order) - 1
        return self.calls[at] if at >= 0 and order <= self.calls[at].stop else None

    def first_hand(self, but: int) -> list[Entered]:
        """Calls, of other modules than this one, on nothing that an earlier call gave."""
        if self._first_hand is None:
            self._first_hand = [one for one in self.calls if self.derived(one) is None]
        return [one for one in self._first_hand if one.module != but]

    def derived(self, one: Entered) -> Entered | None:
        """The earlier call whose output one was given."""
        if id(one) not in self._derived:
            found = None
            for given in one.given[:_GIVEN]:
                if found is None and given.is_floating_point():
                    found = self.maker(_compat.address(given), given.grad_fn, one.start)
            self._derived[id(one)] = found
        return self._derived[id(one)]

    def origin(self, one: Entered) -> Entered:
        """The call that a chain of calls, each on what the one before gave, began with."""
        chain = [one]
        while id(chain[-1]) not in self._origins:
            earlier = self.derived(chain[-1])
            if earlier is None or len(chain) > len(self.calls):
                self._origins[id(chain[-1])] = chain[-1]
                break
            chain.append(earlier)
        found = self._origins[id(chain[-1])]
        self._origins.update((id(link), found) for link in chain)
        return found

    def chain(self, one: Entered) -> list[Entered]:
        """It, the call whose output it was given, and so on to the first one."""
        links = [one]
        while (earlier := self.derived(links[-1])) is not None and len(links) <= len(self.calls):
            links.append(earlier)
        return links

    def maker(self, place: int | None, node: Any, order: int) -> Entered | None:
        """The call that gave a tensor, or what it was made from without another module.

        Args:
            place: where its memory begins.
            node: of the autograd graph that made it, if there is a graph.
            order: when it was used.
        """
        found = None if place is None else _last(self._by_place.get(place), order)
        if found is not None or node is None:
            return found
        seen, waiting = {node}, [node]
        while waiting and len(seen) < _NODES:
            at = waiting.pop()
            found = _last(self._by_node.get(at), order)
            if found is not None:
                return found
            for child, _ in at.next_functions:
                if child is not None and child not in seen:
                    seen.add(child)
                    waiting.append(child)
        return None


def _last(calls: list[Entered] | None, order: int | float) -> Entered | None:
    """The last of them that was over by then."""
    if calls is None:
        return None
    at = bisect_left(calls, order, key=lambda one: one.stop) - 1
    return calls[at] if at >= 0 else None
