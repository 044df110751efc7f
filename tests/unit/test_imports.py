"""The architecture: what may import what, no circle, no long file. Imports for type checkers count too."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import lightning_featgeo

ROOT = Path(lightning_featgeo.__file__).parent
NAME = ROOT.name
NEVER = {  # a room -> what none of its files may import
    "adapters": ["lightning_featgeo.callbacks"],
    "watch": ["lightning", "pytorch_lightning", "lightning_featgeo.callbacks", "lightning_featgeo.adapters"],
    "history": ["lightning_featgeo.metrics"],
    "sinks": ["lightning_featgeo.metrics"],
    "alarms": ["lightning_featgeo.watch", "lightning_featgeo.callbacks"],
    "capture": ["lightning_featgeo.rows.assembler", "lightning_featgeo.metrics", "lightning_featgeo.watch"],
    "rows": ["lightning_featgeo.metrics", "lightning_featgeo.capture", "lightning_featgeo.watch"],
    "distributed": [
        f"lightning_featgeo.{room}"
        for room in ("capture", "rows", "metrics", "history", "watch", "callbacks", "alarms")
    ],
    "metrics": [
        f"lightning_featgeo.{room}" for room in ("capture", "history", "watch", "callbacks", "alarms", "sinks")
    ],
}
ONLY = {"cuda_ext": ["lightning_featgeo.cuda_ext", "lightning_featgeo.types", "lightning_featgeo.errors"]}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_in(text: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports_of(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Modules that a file imports: a submodule where ``from package import submodule`` names one."""
    for node in imports_in(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif node.module is not None and node.level == 0:
            for alias in node.names:
                below = root.parent / (node.module + "." + alias.name).replace(".", "/")
                is_module = below.with_suffix(".py").exists() or (below / "__init__.py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def inside(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def broken_arrows(root: Path = ROOT) -> list[str]:
    """Every import that goes up, as "file imports module"."""
    found = []
    for path in sorted(root.rglob("*.py")):
        room = path.relative_to(root).parts[0]
        for name in imports_of(path, root):
            upwards = any(inside(name, other) for other in NEVER.get(room, ()))
            allowed = room not in ONLY or not inside(name, NAME) or any(inside(name, other) for other in ONLY[room])
            if upwards or not allowed:
                found.append(f"{path.relative_to(root)} imports {name}")
    return found


def circle(root: Path = ROOT) -> list[str]:
    """Modules that import each other in a circle, in order; empty if there is none.

    A package's ``__init__`` that re-exports its modules is no part of a circle through them: it is a door, and whoever
    stands inside does not use it.
    """
    graph = {
        module_of(path) if root == ROOT else ".".join(path.relative_to(root.parent).with_suffix("").parts): [
            name for name in imports_of(path, root) if inside(name, NAME)
        ]
        for path in root.rglob("*.py")
    }
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done or name not in graph:
            return []
        for below in graph[name]:
            found = visit(below, [*trail, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_names_come_from_the_modules_that_type_checkers_are_told() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (told,) = [node for node in tree.body if isinstance(node, ast.If)]
    modules = {
        alias.name: node.module.removeprefix(f"{NAME}.")
        for node in told.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
    assert modules == lightning_featgeo._MODULES
    assert sorted(lightning_featgeo.__all__) == sorted([*modules, "__version__"])
    assert set(lightning_featgeo.__all__) <= set(dir(lightning_featgeo))
    for name, module in modules.items():
        assert getattr(lightning_featgeo, name) is getattr(importlib.import_module(f"{NAME}.{module}"), name)


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    assert lightning_featgeo.metrics.register is importlib.import_module(f"{NAME}.metrics").register
    assert not hasattr(lightning_featgeo, "nothing_of_ours")
    with pytest.raises(ImportError, match="cannot import name 'nothing_of_ours'"):
        exec("from lightning_featgeo import nothing_of_ours")


def test_arrows_point_down() -> None:
    assert broken_arrows() == []


def test_no_file_is_longer_than_one_reading() -> None:
    root = Path(__file__).parents[2]
    tables = {Path("lightning_featgeo/metrics/signals.py")}
    files = (file for room in (NAME, "tests", "benchmarks", "examples", "docs") for file in (root / room).rglob("*.py"))
    lines = {file.relative_to(root): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: n for file, n in lines.items() if n > 300 and file not in tables} == {}


def test_no_imports_in_a_circle() -> None:
    assert circle() == []


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A copy of the package's Python files, to plant a fault in."""
    for path in ROOT.rglob("*.py"):
        copy = tmp_path / NAME / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path / NAME


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("adapters/loop.py", "from lightning_featgeo.callbacks.settings import Display", "callbacks.settings"),
        ("watch/window.py", "import lightning.pytorch as pl", "lightning.pytorch"),
        (
            "history/record.py",
            "if TYPE_CHECKING:\n    from lightning_featgeo.metrics.catalog import CATALOG",
            "catalog",
        ),
        ("cuda_ext/ops.py", "def late():\n    from lightning_featgeo.distributed.ranks import Ranks", "ranks"),
        ("alarms/detector.py", "from lightning_featgeo.watch.guard import Guard", "watch.guard"),
        ("sinks/tables.py", "from lightning_featgeo.metrics import catalog", "metrics.catalog"),
    ],
)
def test_a_planted_import_upwards_is_found(planted: Path, file: str, line: str, found: str) -> None:
    assert broken_arrows(planted) == []
    with (planted / file).open("a", encoding="utf-8") as text:
        text.write(f"\n{line}\n")
    (told,) = broken_arrows(planted)
    assert told.startswith(f"{file} imports")
    assert found in told


def test_a_planted_circle_is_found(planted: Path) -> None:
    assert circle(planted) == []
    with (planted / "errors.py").open("a", encoding="utf-8") as text:
        text.write("\nfrom lightning_featgeo.watch.guard import Guard\n")
    assert {"lightning_featgeo.errors", "lightning_featgeo.watch.guard"} <= set(circle(planted))
