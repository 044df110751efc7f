"""What is watched and computed: declared once here, for the Lightning callback and every adapter.

A dataclass is the declaration. :func:`takes` gives a constructor its parameters and types, :func:`documents` a class
its documentation: so a signature, ``help()``, LightningCLI and the checks always agree.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics.catalog import CATALOG, Signals, named_signals, names, resolve
from lightning_featgeo.metrics.settings import USUAL_NEIGHBORS, Neighbors, check_spectrum_rows
from lightning_featgeo.rows.batches import Selector
from lightning_featgeo.rows.pooling import ALL_TOKENS, Tokens, check_pool
from lightning_featgeo.rows.view_grammar import Views, parse_views

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., None])
AUTO_CLASS_BYTES = 256 * 2**20  # "auto" keeps class statistics up to here


@dataclass(frozen=True)
class WatchSettings:
    """What is watched and computed.

    Args:
        layer: path or glob of the module(s) whose **output** is watched, one or many. None: the penultimate
            features, that is the **input** of the head.
        head: path of the classifier. None: found by rule (see ``capture.heads``); an ambiguous model is an error.
        signals: names, groups, presets ("classifier", "self_supervised", "tokens", "embeddings", "regressor") or "all";
            "auto" tells the kind of run from labels, views and pooling, and prints which it took and why. Functions of
            your own are signals, too: their parameters name the statistics they take (``docs/own_signals.md``).
        pool: "mean", "cls", "last", "tokens" or an einops pattern; None: inferred from the shape, and printed.
        labels, mask: key, index or callable into the batch; "auto" finds the usual ones; None: absent.
        views: how views of a sample are stacked in a call: "auto", a number, "v b", "b v", "2 b", "b 2", a callable on
            the batch, or None (each call brings new samples); see ``rows.view_grammar``.
        num_classes: number of classes C; None: the head's outputs, or what the model or datamodule says.
        groups: key, index or callable into the batch: site, scanner or speaker of a sample (``robustness_index``), or
            its product or person, of which others should be found (``group_recall_at_1``).
        ignore_index: class index of rows without a class, as in ``CrossEntropyLoss``; negative ones are too. One-hot
            and smoothed labels count as classes; mixtures (mixup, several positives) are left out of class signals.
        tokens: with ``pool="tokens"``, which tokens count: ``Tokens(per_sequence=16, skip=1)``.
        neighbors: how neighbours are searched: ``Neighbors(k=10)``.
        spectrum_rows: what spectra (ranks, eigenvalues, ``nc1``) are of: "all" rows, by a d×d scatter (8·d² bytes,
            twice with classes); or so many rows of the bank. "auto": all up to 4,096 dimensions, 1,024 above.
        on_error: "warn": an error in our code becomes a warning and a gap; "raise": it is raised (for tests).
    """

    layer: str | Sequence[str] | None = None
    head: str | None = None
    signals: Signals = "auto"
    pool: str | None = None
    labels: Selector = "auto"
    mask: Selector = "auto"
    views: Views = "auto"
    num_classes: int | None = None
    groups: Selector = None
    ignore_index: int = -100
    tokens: Tokens = ALL_TOKENS
    neighbors: Neighbors = USUAL_NEIGHBORS
    spectrum_rows: int | Literal["auto", "all"] = "auto"
    on_error: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        check_groups(self)
        check_whole(num_classes=self.num_classes, ignore_index=self.ignore_index)
        object.__setattr__(self, "signals", names(self.signals))
        resolve(self.signals) if self.signals != "auto" else ()  # refuses unknown names
        if self.num_classes is not None and self.num_classes < 1:
            raise ConfigurationError(f"num_classes must be at least 1, got {self.num_classes}")
        ungrouped = [name for name in named_signals(self.signals) if "groups" in CATALOG[name].requires]
        if ungrouped and self.groups is None:
            raise ConfigurationError(
                f"{', '.join(ungrouped)} needs the group of each row: groups=<key, index or callable into the batch>"
            )
        paired = [name for name in named_signals(self.signals) if "layers" in CATALOG[name].requires]
        one = isinstance(self.layer, str) and not set(self.layer) & set("*?[")
        if paired and (self.layer is None or one or len(self.layer) < 2):
            raise ConfigurationError(
                f"{', '.join(paired)} compares a layer with the one before it: name several, as in "
                'layer=["encoder", "projector"], or a glob, as in layer="encoder.*"'
            )
        if self.neighbors.reference_rows == "all" and getattr(self, "reference", None) is None:
            raise ConfigurationError(
                'Neighbors(reference_rows="all") needs a reference whose rows vote: paste '
                'FeatureGeometryMonitor(probe_sets={"clean_train": loader}, reference="clean_train", '
                'neighbors=Neighbors(reference_rows="all"))'
            )
        check_pool(self.pool)
        if not (self.head is None or isinstance(self.head, str)):
            raise ConfigurationError(f"head={self.head!r}: name one module by its path, such as head='net.fc'")
        check_spectrum_rows(self.spectrum_rows)
        self.tokens.check(self.pool)
        parse_views(self.views)
        if self.on_error not in ("warn", "raise"):
            raise ConfigurationError(f'on_error must be "warn" or "raise", got {self.on_error!r}')

    @property
    def asked(self) -> tuple[str, ...]:
        """The signals that were asked for; () for "auto", before a batch tells."""
        return () if self.signals == "auto" else resolve(self.signals)


def check_groups(settings: Any) -> None:
    """Refuse a group of arguments that is given as something else.

    Raises:
        ConfigurationError: with the line to paste.
    """
    for name, group in typing.get_type_hints(type(settings)).items():
        fields, given = getattr(group, "__dataclass_fields__", None), getattr(settings, name)
        if fields and not isinstance(given, group):
            inside = given if isinstance(given, dict) else {}
            known = ", ".join(f"{key}={value!r}" for key, value in inside.items() if key in fields)
            raise ConfigurationError(f"{name}={given!r}: paste {name}={group.__name__}({known or '…'})")


def check_whole(**given: Any) -> None:
    """Refuse what should be a whole number and is none.

    Raises:
        ConfigurationError: with the name.
    """
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigurationError(f"{name}={value!r}: a whole number is needed")


def check_between(name: str, given: Any, least: int, most: int) -> None:
    """Refuse a number of things that can't be shown.

    Raises:
        ConfigurationError: with the range.
    """
    if not isinstance(given, int) or not least <= given <= most:
        raise ConfigurationError(f"{name}={given!r}: a whole number from {least} to {most:,} can be shown")


def takes(declaration: Callable[P, Any]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give ``__init__(self, *args, **settings)`` the parameters of a dataclass: for type checkers, which read them from
    the declaration, and for ``inspect.signature`` (so for LightningCLI and notebooks)."""
    return lambda init: _with_parameters(init, declaration)


def takes_also(declaration: type) -> Callable[[F], F]:
    """Let a constructor take a dataclass's parameters as keywords, behind parameters of its own."""
    return lambda init: _with_parameters(init, declaration)


def _with_parameters(init: Any, declaration: Any) -> Any:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(init, eval_str=True).parameters.values()
    own, types = [p for p in parameters if p.kind not in variadic], typing.get_type_hints(declaration)
    names = [*(p.name for p in own[1:]), *types]
    grouped = {  # an argument of a group -> how it is given
        field: f"{name}={group.__name__}({field}=…)"
        for name, group in types.items()
        for field in getattr(group, "__dataclass_fields__", ())
    }

    @functools.wraps(init)
    def with_parameters(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in names:
                hint = f" Give it as {grouped[name]}." if name in grouped else near_misses(name, [*names, *grouped])
                raise TypeError(f"{type(self).__name__} has no argument {name!r}.{hint}")
        init(self, *args, **kwargs)

    kind = inspect.Parameter.KEYWORD_ONLY if len(own) > 1 else inspect.Parameter.POSITIONAL_OR_KEYWORD
    declared = [
        p.replace(annotation=types[p.name], kind=kind) for p in inspect.signature(declaration).parameters.values()
    ]
    made: Any = with_parameters
    made.__signature__ = inspect.Signature([*own, *declared], return_annotation=None)
    made.__annotations__ = {p.name: p.annotation for p in (*own[1:], *declared)} | {"return": None}
    del made.__wrapped__  # else its signature would be taken
    return made


def documents(*declarations: type) -> Callable[[type[Any]], type[Any]]:
    """Put the arguments' documentation of dataclasses behind a class's own, under one ``Args:``."""

    def apply(cls: type[Any]) -> type[Any]:
        told = [arguments_of(declaration) for declaration in declarations]
        text = inspect.cleandoc(cls.__doc__ or "")
        before, found, after = text.partition("Args:\n")
        if not found:
            before, after = text.rstrip() + "\n\n", ""
        end = re.search(r"^\S", after, re.M)
        own, rest = (after[: end.start()], "\n" + after[end.start() :]) if end else (after, "")
        cls.__doc__ = f"{before}Args:\n{own.rstrip()}\n{''.join(told)}{rest}".replace("Args:\n\n", "Args:\n")
        return cls

    return apply


def arguments_of(declaration: type) -> str:
    """The lines below ``Args:`` of its docstring, with those of the dataclass it extends."""
    text = inspect.cleandoc(declaration.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    above = [base for base in declaration.__mro__[1:] if "Args:" in (base.__dict__.get("__doc__") or "")]
    return (arguments_of(above[0]) if above else "") + text.rstrip() + "\n"
