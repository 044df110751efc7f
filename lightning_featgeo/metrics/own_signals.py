"""A signal of your own: a function whose parameters name the statistics it takes, in ``signals=`` beside the others.

>>> from lightning_featgeo import GeometryMetric
>>> def mean_norm(rows):
...     return rows.norm(dim=1).mean()
>>> metric = GeometryMetric(["feature_std", mean_norm])
>>> metric.update(torch.eye(8))
>>> float(metric.compute()["mean_norm"])
1.0
"""

from __future__ import annotations

import copy
import functools
import importlib
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import torch

from lightning_featgeo.errors import ConfigurationError, explain
from lightning_featgeo.metrics.signals import Signal

ENTRY_POINTS = "lightning_featgeo.signals"  # the group under which another package's signals are found by name


def as_signal(given: Any) -> Signal:
    """A function as a signal, with its own name; a :class:`Signal` as it is.

    Raises:
        ConfigurationError: for anything else, and for a function without a name.
    """
    if isinstance(given, Signal):
        return given
    if not callable(given):
        raise ConfigurationError(
            f"signals= has {given!r}: give names, functions whose parameters name statistics, or Signal(…)"
        )
    name = getattr(given, "__name__", None)
    if name is None or name == "<lambda>":
        raise ConfigurationError(f'a signal needs a name: paste Signal("my_signal", …) around {given!r}')
    return Signal(name, given)


def is_same(one: Signal, other: Signal) -> bool:
    """Whether the second is the first, or the same definition that ran again (a notebook's cell, another process).

    A function that another one has made, or a method, may hold other values each time: it is the same only if it is
    the very same object.
    """
    return one == other or _is_same(one.function, other.function)


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        return _is_same(a.func, b.func) and (a.args, a.keywords) == (b.args, b.keywords)
    at, to = ((getattr(f, "__module__", None), getattr(f, "__qualname__", None)) for f in (a, b))
    if None in at or at != to or any(hasattr(f, "__self__") for f in (a, b)):
        return False
    return "<locals>" not in str(at[1]) and (at[1] != "<lambda>" or at[0] == "__main__")


def imported(path: str) -> Signal:
    """The signal at ``package.module:name``, as a YAML file writes it.

    Raises:
        ConfigurationError: if there is none.
    """
    module, _, name = path.partition(":")
    try:
        return as_signal(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"signals= names {path!r}, and it can't be imported: {explain(error)}") from error


def offered() -> dict[str, Any]:
    """Signals of other installed packages, by name: their entry points in the group ``lightning_featgeo.signals``."""
    return {found.name: found for found in entry_points(group=ENTRY_POINTS)}


def loaded(found: Any) -> Signal:
    """The signal of another package.

    Raises:
        ConfigurationError: if it can't be imported, or calls itself otherwise.
    """
    try:
        signal = as_signal(found.load())
    except Exception as error:
        told = f"the signal {found.name!r} ({found.value}) can't be imported: {explain(error)}"
        raise ConfigurationError(told) from error
    if signal.name != found.name:
        raise ConfigurationError(f"{found.value} is called {signal.name!r}, its entry point {found.name!r}: name it so")
    return signal


def copied(statistic: Any) -> Any:
    """What a function of somebody else's may write into: the statistics of the other signals stay as they are."""
    if isinstance(statistic, torch.Tensor):
        return statistic.clone()
    if type(statistic) is tuple:
        return tuple(copied(part) for part in statistic)
    if isinstance(statistic, Mapping):
        return {name: copied(part) for name, part in statistic.items()}
    return copy.deepcopy(statistic)


@contextmanager
def as_it_was() -> Iterator[None]:
    """Random numbers that a function draws are none of the training's: the generators go on as if it had not run."""
    numpy: Any = sys.modules.get("numpy")
    states = random.getstate(), None if numpy is None else numpy.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            if numpy is not None:
                numpy.random.set_state(states[1])


def single_number(result: Any, name: str) -> torch.Tensor:
    """What an own function has returned, as a 0-d tensor.

    Raises:
        TypeError: if it is no number.
    """
    try:
        value = torch.as_tensor(result)
        value = torch.empty(0) if value.is_complex() else value.to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        value = torch.empty(0)
    if value.numel() != 1:
        told = f"a tensor of shape {tuple(result.shape)}" if isinstance(result, torch.Tensor) else f"{result!r:.100}"
        raise TypeError(f"{name} returned {told}; a signal is one number, or an Estimate(value, standard_error)")
    return value.reshape(())


def place(error: BaseException, function: Callable[..., Any]) -> str:
    """The line of the function's file in which it failed: " (line 7 of measures.py: return a / b)"."""
    code = getattr(function, "__code__", None)
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    if not own:
        return ""
    file = own[-1].filename.replace("\\", "/").rpartition("/")[2]
    return f" (line {own[-1].lineno} of {file}: {own[-1].line})" if own[-1].line else f" (line {own[-1].lineno})"
