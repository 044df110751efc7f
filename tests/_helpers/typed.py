"""What jaxtyping's import hook checks: axes where annotations name them, and types everywhere else.

Its own check binds a function's arguments anew at each call, and decorates a function inside another one anew at each
call of the outer one: together more than half of the suite's time. Functions whose annotations name no axes get
beartype's check alone, which is compiled once; those inside of others none (mypy has them).
"""

from __future__ import annotations

import ast
import functools
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook

TYPES_ALONE = "types alone"


def _names_axes(function: ast.FunctionDef) -> bool:
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [a.annotation for a in given] + [function.returns]
    return any("[Tensor," in ast.unparse(a) for a in annotations if a is not None)


def check_less() -> None:
    """To be called before the package is imported."""
    transformer = _import_hook.JaxtypingTransformer
    decorate = transformer.visit_FunctionDef

    def visit_function(self: Any, node: ast.FunctionDef) -> ast.FunctionDef:
        if _names_axes(node):
            return decorate(self, node)
        if not any(isinstance(parent, ast.FunctionDef) for parent in self._parents):
            checks = ast.parse(f"jaxtyping._import_hook.Typechecker.lookup['{TYPES_ALONE}']").body[0]
            assert isinstance(checks, ast.Expr)
            for part in ast.walk(checks.value):
                ast.copy_location(part, node)
            node.decorator_list.append(checks.value)
        self._parents.append(node)
        self.generic_visit(node)  # functions inside, which may name axes
        self._parents.pop()
        return node

    transformer.visit_FunctionDef = visit_function
    _import_hook.Typechecker.lookup[TYPES_ALONE] = _types_alone


def _types_alone(function: Any) -> Any:
    checked: Any = None

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if checked is None:
            try:
                typing.get_type_hints(function)
                checked = beartype(conf=BeartypeConf(violation_type=TypeError))(function)
            except NameError:  # of what is imported for type checkers alone
                checked = function
        return checked(*args, **kwargs)

    return either


@contextmanager
def unchecked() -> Iterator[None]:
    """No checks in here: for what does the same with the same shapes over and over, and is checked elsewhere."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
