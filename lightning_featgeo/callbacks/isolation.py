"""What a forward beyond the run's own may touch, put back: modes, buffers, metrics, logged values, random states."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torchmetrics import Metric

from lightning_featgeo import _compat

LOGGING = ("log", "log_dict")
DEPTH = 4  # how deep a loader's parts are searched for generators


@contextmanager
def isolated(trainer: Any, module: Any, loader: Any) -> Iterator[None]:
    """Evaluation, without gradient, as in a validation of the Trainer; afterwards everything is what it was.

    Args:
        trainer: whose state says "validating" meanwhile: batches are transferred as in validation.
        module: the LightningModule.
        loader: whose own generators are put back, too.
    """
    with ExitStack() as stack:
        for keep in (_random_states_of(loader), _modes(module), _buffers(module), _metrics(module), _silent(module)):
            stack.enter_context(keep)
        stack.enter_context(_validating(trainer))
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.no_grad())
        yield


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
        (holder, name, buffer, buffer.detach().clone())
        for holder in module.modules()
        for name, buffer in holder.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for holder, name, buffer, value in before:
            if not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
            if getattr(holder, name, None) is not buffer:
                setattr(holder, name, buffer)


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
def _random_states_of(loader: Any) -> Iterator[None]:
    put_back = [back for generator in _generators_in(loader, DEPTH, set()) for back in _state_of(generator)]
    try:
        yield
    finally:
        for back in put_back:
            back()


def _generators_in(holder: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    """Generators that a loader, its samplers or its data set hold as attributes."""
    if id(holder) in seen or depth < 0:
        return
    seen.add(id(holder))
    for name, value in list(getattr(holder, "__dict__", {}).items()):
        if isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            if id(value) not in seen:
                seen.add(id(value))
                yield value
        elif name in ("sampler", "batch_sampler", "dataset", "loader", "base_sampler", "data", "transform"):
            yield from _generators_in(value, depth - 1, seen)


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
