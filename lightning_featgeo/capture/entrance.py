"""What enters the network: the tensors that its outermost calls are given, which can be compared with the batch.

A watched layer's call is traced to them: it lies inside an outermost call; or its input is what an earlier one gave
(the same memory, or through the autograd graph). Where neither shows, all earlier ones that could be it are handed out.
Hooks are there while a step runs, and gone before anybody exports, copies or pickles the model.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lightning_featgeo import _compat, _hooks
from lightning_featgeo.capture.entries import Entered, Entries
from lightning_featgeo.capture.hooks import Hook
from lightning_featgeo.capture.inside import Inside
from lightning_featgeo.capture.recording import RECORDING, Recording, note_after, note_before, note_inside
from lightning_featgeo.capture.stash import Caught
from lightning_featgeo.capture.taps import display_name
from lightning_featgeo.capture.trace import Trace
from lightning_featgeo.rows.evidence import EVERY, FIRST
from lightning_featgeo.rows.provenance import copied_from
from lightning_featgeo.types import Tensor

SEARCHED = 3  # batches in which every module is hooked; later only those that were outermost
SEARCHES = 4  # times that this begins anew, where a watched module runs in none of these
_KEYS = itertools.count()


class Entrance:
    """Watches what enters a model.

    Args:
        root: the model.
        is_open: whether a call counts now.
    """

    def __init__(self, root: torch.nn.Module, is_open: Callable[[], bool]) -> None:
        self.key, self.root, self._is_open = next(_KEYS), root, is_open
        self._searches, self._searched = 0, {True: 0, False: 0}  # by whether the model is in training mode
        self._links, self._counts = False, set[int]()  # whether a call was given what another gave; calls in a batch
        self._outermost: dict[int, torch.nn.Module] = {}
        self.inside = Inside()
        self._began = set[int]()  # modules with which what a graph linked began
        self._attached: list[Hook] = []
        self._hooks: dict[int, tuple[Hook, Hook]] = {}
        self._first: dict[int, Hook] = {}  # modules that were given the batch itself, inside of another one
        self._recording = Recording()
        self._entries: Entries | None = None  # of the calls, once the step is over
        self.rows: dict[int, tuple[Tensor, int]] = {}  # of calls without a graph: which rows of what, in order
        self.in_order = set[int]()  # when calls without a graph came that are an earlier output's rows, in order
        self._looked, self._moved = 0, False  # how often they were looked for, and whether they were ever moved
        self._copied: int | None = None  # which call's output they were, in order, when it was last looked at
        self.unlinked: set[int] = set()  # when calls came that nothing links with what is said to have entered for them

    def open(self, traces: bool = False) -> None:
        """A step begins; ``traces``: every module's calls are noted."""
        self.close()
        searches = self._searched[self.root.training] < SEARCHED or traces
        modules = list(_hookable(self.root)) if searches else list(self._outermost.values())
        if not searches and (own := self.inside.modules):
            modules += [m for m in self.root.modules() if id(m) in own]
        for module in modules:
            if id(module) not in self._hooks:
                told: dict[str, Any] = {"key": self.key, "owner": id(module)}
                self._hooks[id(module)] = (
                    Hook(module, functools.partial(note_before, **told), before=True),
                    Hook(module, functools.partial(note_after, **told), before=False, always=True),
                )
            before, after = self._hooks[id(module)]
            before.attach(first=_hooks.has_pre_hooks(module))
            after.attach()
            self._attached += (before, after)
        for hook in () if searches else self._first.values():
            hook.attach()
            self._attached.append(hook)
        self._entries = None
        self.inside.begin(self.root.training)
        self._recording = RECORDING[self.key] = Recording(
            is_open=self._is_open,
            holds=searches or len(modules) > 1 or self._links,
            trace=Trace() if traces else None,
        )

    def close(self) -> None:
        """The step is over: unhook. What was seen stays until the next one."""
        if not self._attached and self.key not in RECORDING:
            return
        for hook in self._attached:
            hook.detach()
        count = len(self._recording.calls) if self._attached else 0
        if count and self._searched[self.root.training] < SEARCHED:
            self._searched[self.root.training] += 1
            self._counts.add(count)
            self._outermost.update((id(m), m) for m in self.root.modules() if id(m) in self._recording.used)
            fresh = self._entering() - self._first.keys()
            self._first |= {
                id(m): Hook(m, functools.partial(note_inside, key=self.key, owner=id(m)), before=True)
                for m in (self.root.modules() if fresh else ())
                if id(m) in fresh
            }
        self._attached = []
        RECORDING.pop(self.key, None)

    def _entering(self) -> set[int]:
        """Modules that were given the batch itself by a forward that may do something else: not by a plain chain."""
        chains = {id(m) for m in self._outermost.values() if type(m).forward is torch.nn.Sequential.forward}
        return {one.enters for one in self._recording.calls if one.module not in chains} - {0}

    def search_again(self) -> None:
        """The pattern of calls has changed: look for the outermost modules anew."""
        self._searched = {True: 0, False: 0}

    @property
    def trace(self) -> Trace | None:
        """Every module's calls since the step began, if that was asked for."""
        return self._recording.trace

    def forget_trace(self) -> None:
        """Let go of what modules gave: it would be held through the backward."""
        self._recording.trace = None

    def names(self) -> list[str]:
        """Paths of the modules that the step itself called, in order."""
        paths = {id(module): display_name(path) for path, module in self.root.named_modules() if path}
        ran = (paths[one.module] for one in self._recording.calls if one.module in paths and not _is_a_number(one))
        return list(dict.fromkeys(ran))

    def forget(self) -> None:
        """Let go of what was seen."""
        self.close()
        self._recording, self._entries = Recording(), None

    def of(self, calls: list[Caught], module: torch.nn.Module, is_input: bool) -> list[tuple[Tensor, ...]]:
        """For each call of a watched module, the tensors that may have entered the network for it."""
        for told in (self.unlinked, self.rows, self.in_order, self.inside.unsure):
            told.clear()
        found = self._of(calls, module, is_input)
        unseen = not all(found) or not (self._links or len(self._recording.calls) in self._counts)
        if unseen and self._searched[self.root.training] >= SEARCHED and self._searches < SEARCHES:
            self._searches += 1
            self.search_again()
        return found

    def _of(self, calls: list[Caught], module: torch.nn.Module, is_input: bool) -> list[tuple[Tensor, ...]]:
        entered = self._recording.calls
        alone = len(entered) == len(calls) == 1 and not entered[0].inside
        if alone and entered[0].module != id(module) and _is_inside(calls[0], entered[0]):
            return [entered[0].shown()]  # the usual case
        if self._entries is None:
            self._entries = Entries(entered)
        entries, sources = self._entries, self._entries.first_hand(but=id(module))
        found: list[tuple[Tensor, ...]] = []
        last = -1
        for index, call in enumerate(calls):
            holding = entries.holding(call.order)
            if holding is not None and not (is_input and holding.module == id(module)):
                self._links = self._links or entries.origin(holding) is not holding
                found.append(self.inside.entered(entries, holding, call))
            elif is_input and call.node is None and (given := self._by_content(call, entries)):
                found.append(given)
                self._links = True
            else:
                made = entries.maker(call.place, call.node, call.order)
                if made is not None and call.node is not None:
                    self._began.add(entries.origin(made).module)
                known = self._began_with(sources, call)
                if known and made is not None and entries.origin(made).module not in self._began:
                    made = None  # without a graph, the chain is torn where a step changes what a module gave
                of = known or sources
                given, linked = _behind(call, index, len(calls), last, of) if made is None else ((), True)
                given = given if made is None else self.inside.entered(entries, made, call)
                self._links = self._links or linked
                if holding is not None and not given:  # no module before it: the batch itself, or stored features
                    given, linked = holding.shown(), True
                found.append(given)
                if not linked:
                    self.unlinked.add(call.order)
            last = call.order
        return found

    def _began_with(self, sources: list[Entered], call: Caught) -> list[Entered]:
        """Without a graph, the one call of a module with which the network begins; []: there is none, or several."""
        if call.node is not None:
            return []
        known = [one for one in sources if one.module in self._began and one.stop < call.order]
        return known if len(known) == 1 else []

    def is_in_order(self, order: int) -> bool:
        """Whether a call's rows are all of an earlier module's, which did not take them itself, in order."""
        return order in self.in_order and not self.inside.takes

    def _by_content(self, call: Caught, entries: Entries) -> tuple[Tensor, ...]:
        """What entered for rows that are those of an earlier call's output, in some order; () where they are not."""
        x = call.features
        if x is None or x.ndim < 2 or not x.is_floating_point():
            return ()
        looks = x.device.type == "cpu" or self._moved or self._looked < FIRST or self._looked % EVERY == 0
        self._looked += 1  # elsewhere, looking waits for the device
        for number, one in reversed([(i, one) for i, one in enumerate(entries.calls) if one.stop < call.order]):
            if not looks and number == self._copied and any(gave.shape == x.shape for gave in one.gave):
                return self.inside.entered(entries, one, call)
            for gave in one.gave:
                if gave.shape[1:] != x.shape[1:] or gave.dtype != x.dtype or gave.device != x.device:
                    continue
                origin = copied_from(x, gave.detach(), looks)
                if origin is None or origin.lacks_some:
                    continue
                if origin.samples is not None:
                    self.rows[call.order], self._moved = (origin.samples, len(gave)), True
                else:
                    self.in_order.add(call.order)
                self._copied = number if origin.is_identity else None
                return self.inside.entered(entries, one, call)
        return ()


def _behind(
    call: Caught, index: int, count: int, before: int, sources: list[Entered]
) -> tuple[tuple[Tensor, ...], bool]:
    """For features that no module is known to have made: from what; and whether anything shows that."""
    # whoever gave something with a graph would have been found by it: these rows were stored, or detached and changed
    earlier = [one for one in sources if one.stop < call.order and not any(gave.grad_fn for gave in one.gave)]
    if len(sources) == count and any(one is sources[index] for one in earlier):
        return sources[index].shown(), False
    fresh = [one for one in earlier if one.start > before] or earlier
    return tuple(tensor for one in fresh for tensor in one.shown()), False


def _is_inside(call: Caught, one: Entered) -> bool:
    return one.start <= call.order <= one.stop


def _is_a_number(one: Entered) -> bool:
    """Whether a call gave nothing but a loss, or scores: one number, or one a sample."""
    return bool(one.gave) and all(gave.ndim < 2 or gave.shape[-1] == 1 for gave in one.gave)


def _hookable(root: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """All modules but compiled and scripted ones, and what is inside of these.

    A function that is compiled may call them, too. Within it hooks do nothing; where it was compiled while they were
    there it is compiled once more without them, after the first batches.
    """
    seen: set[torch.nn.Module] = set()
    waiting = [root]
    while waiting:
        module = waiting.pop()
        if module in seen or _compat.is_compiled_in_place(module) or isinstance(module, torch.jit.ScriptModule):
            continue
        seen.add(module)
        yield module
        if not _compat.wraps_compiled(module):
            waiting += module.children()
