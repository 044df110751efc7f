"""Whether a package is there is a question that never fails."""

import sys
import types
from typing import Any

import pytest

from lightning_featgeo import _compat


def test_what_is_there_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _compat.is_installed("torch", "json")
    assert not _compat.is_installed("torch", "no_such_package")
    stub = types.ModuleType("stub")
    stub.__spec__ = None
    monkeypatch.setitem(sys.modules, "stub", stub)
    assert not _compat.is_installed("stub")

    class Finder:
        def find_spec(self, name: str, *given: Any) -> None:
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert not _compat.is_installed("no_such_package")
