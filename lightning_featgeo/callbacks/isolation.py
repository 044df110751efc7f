"""What a forward beyond the run's own may touch, put back: modes, buffers, metrics, logged values, random states."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from lightning_featgeo import _compat

LOGGING = ("log", "log_dict")
DEPTH, MOST_PARTS, MOST_ENTRIES = 6, 5000, 64  # how far a loader's parts are searched for generators
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_ELSEWHERE = ("_trainer", "_fabric", "trainer", "_parameters", "_buffers", "__globals__")  # is no part of a data set
_PLAIN = (str, bytes, int, float, bool, torch.Tensor, np.ndarray, type(None), type)


@contextmanager
def isolated(trainer: Any, module: Any, loader: Any = None) -> Iterator[None]:
    """Evaluation, without gradient, as in a validation of the Trainer; afterwards everything is what it was.

    Args:
        trainer: whose state says "validating" meanwhile: batches are transferred as in validation.
        module: the LightningModule.
        loader: whose own generators are put back, too.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_states_of(loader, module))
        for keep in (_modes, _buffers, _metrics, _silent):
            stack.enter_context(keep(module))
        stack.enter_context(_validating(trainer))
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_compat.eagerly())
        yield


def seed_alike() -> None:
    """The same random numbers on all ranks, and none of the environment's variables (``seed_everything`` sets some)."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what users' transforms draw from
    torch.manual_seed(0)


@contextmanager
def _validating(trainer: Any) -> Iterator[None]:
    before = trainer.state.stage
    if not (trainer.validating or trainer.testing or trainer.sanity_checking):
        trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = before


@contextmanager
def _modes(module: torch.nn.Module) -> Iterator[None]:
    """By their flags alone, as Lightning puts them back: ``train()`` of some layers does more (merges an adapter)."""
    before = {one: one.training for one in module.modules()}
    for one in before:
        one.training = False
    try:
        yield
    finally:
        for one, training in before.items():
            one.training = training


@contextmanager
def _buffers(module: torch.nn.Module) -> Iterator[None]:
    before = [
        (_compat.buffers_of(one), {k: (b, _copy_of(b)) for k, b in found.items()})
        for one in module.modules()
        if (found := _compat.buffers_of(one))
    ]
    try:
        yield
    finally:
        for held, was in before:
            for name in [name for name in held if name not in was]:
                del held[name]
            for name, (buffer, value) in was.items():
                held[name] = buffer if buffer is None or value is None else _as_it_was(buffer, value)


def _copy_of(buffer: torch.Tensor | None) -> torch.Tensor | None:
    with torch.inference_mode(False):  # in which an evaluation alone runs: what it makes can't be trained with
        return None if buffer is None or is_lazy(buffer) else buffer.detach().clone()  # a lazy one has no value yet


def _as_it_was(buffer: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The buffer with its old value; what can't be compared or written (sparse, expanded, resized) is replaced."""
    try:
        if buffer.layout is not torch.strided or not torch.equal(buffer, value):
            with torch.no_grad():
                buffer.copy_(value)
        return buffer
    except RuntimeError:
        return value


@contextmanager
def _metrics(module: torch.nn.Module) -> Iterator[None]:
    """Metrics that a forward updates keep what the run's own steps have put in."""
    before = [(one, _compat.states_of_metric(one)) for one in module.modules() if isinstance(one, Metric)]
    try:
        yield
    finally:
        for one, states in before:
            vars(one).update(states)


@contextmanager
def _silent(module: torch.nn.Module) -> Iterator[None]:
    """What a forward logs would be averaged with what the run's own steps have logged."""
    holders = [one for one in module.modules() if all(hasattr(one, name) for name in LOGGING)]
    before = [{name: vars(one)[name] for name in LOGGING if name in vars(one)} for one in holders]
    for one in holders:
        vars(one).update(dict.fromkeys(LOGGING, _nothing))
    try:
        yield
    finally:
        for one, own in zip(holders, before, strict=True):
            for name in LOGGING:
                vars(one).pop(name, None)
            vars(one).update(own)


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


@contextmanager
def _random_states_of(*holders: Any) -> Iterator[None]:
    put_back = [back for generator in _generators_in(holders) for back in _state_of(generator)]
    try:
        yield
    finally:
        for back in put_back:
            back()


def _generators_in(holders: tuple[Any, ...]) -> list[Any]:
    """Generators that a loader, its samplers, data set and transforms, or a model's modules hold as attributes."""
    found: list[Any] = []
    seen: set[int] = set()
    level: list[Any] = list(holders)
    for _ in range(DEPTH):
        inside: list[Any] = []
        for one in level:
            if id(one) in seen or isinstance(one, _PLAIN) or len(seen) > MOST_PARTS:
                continue
            seen.add(id(one))
            if isinstance(one, _GENERATORS):
                found.append(one)
            elif isinstance(one, (list, tuple, dict)):
                parts = list(one.values()) if isinstance(one, dict) else list(one)
                inside += parts if len(parts) <= MOST_ENTRIES else []
            else:
                inside += [value for name, value in getattr(one, "__dict__", {}).items() if name not in _ELSEWHERE]
                inside += _called_by(one)
                inside += list(one.modules()) if isinstance(one, torch.nn.Module) else []
        level = inside
    return found


def _called_by(one: Any) -> list[Any]:
    """What a function, a bound method or a partial one refers to."""
    cells = []
    for cell in getattr(one, "__closure__", None) or ():
        with suppress(ValueError):  # nothing is in it yet
            cells.append(cell.cell_contents)
    own = getattr(one, "__self__", None)
    of_partial = [one.func, *one.args, *one.keywords.values()] if isinstance(one, functools.partial) else []
    given = [*(getattr(one, "__defaults__", None) or ()), *(getattr(one, "__kwdefaults__", None) or {}).values()]
    return [*cells, *([] if own is None else [own]), *of_partial, *given]


def _state_of(generator: Any) -> list[Callable[[], None]]:
    """How to put a generator back to what it is now."""
    if isinstance(generator, np.random.Generator):
        bits, state = generator.bit_generator, copy.deepcopy(generator.bit_generator.state)
        return [lambda: setattr(bits, "state", state)]
    if isinstance(generator, random.Random):
        held = generator.getstate()
        return [lambda: generator.setstate(held)]
    kept = generator.get_state()
    return [lambda: generator.set_state(kept)]
