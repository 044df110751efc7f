"""What jaxtyping's import hook checks: every function but those inside of functions whose annotations name no axes.

The hook decorates a function inside another one anew at each call of the outer one, and compiles its checks anew: that
was half of the suite's time. Annotations without axes are checked by mypy.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
from jaxtyping import _import_hook


def _names_axes(function: ast.FunctionDef) -> bool:
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [a.annotation for a in given] + [function.returns]
    return any("[Tensor," in ast.unparse(a) for a in annotations if a is not None)


def check_less() -> None:
    """To be called before the package is imported."""
    transformer = _import_hook.JaxtypingTransformer
    decorate = transformer.visit_FunctionDef

    def visit_function(self: Any, node: ast.FunctionDef) -> ast.FunctionDef:
        if any(isinstance(parent, ast.FunctionDef) for parent in self._parents) and not _names_axes(node):
            return node
        return decorate(self, node)

    transformer.visit_FunctionDef = visit_function


@contextmanager
def unchecked() -> Iterator[None]:
    """No checks in here: for what does the same with the same shapes over and over, and is checked elsewhere."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
