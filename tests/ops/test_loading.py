"""What importing the package may do to CUDA, when its kernels are loaded, and what ``cuda_ext`` may import."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import lightning_featgeo.cuda_ext
from lightning_featgeo.cuda_ext import library

ROOM = Path(lightning_featgeo.cuda_ext.__file__).parent


def test_importing_the_package_leaves_cuda_alone_and_loads_no_more_than_is_asked_for() -> None:
    """A process in which CUDA was initialised can't fork data loader workers that use it."""
    code = """
import sys
import torch
torch.version.cuda = "13.0"
asked = []
for name in ("is_available", "device_count", "get_device_capability", "get_device_properties", "init", "_lazy_init"):
    setattr(torch.cuda, name, lambda *args, name=name: asked.append(name) or name == "is_available" or (9, 0))
from lightning_featgeo.cuda_ext import backend_info, library
assert "torchmetrics" not in sys.modules
from lightning_featgeo import GeometryMetric
assert "lightning" not in sys.modules
from lightning_featgeo import *
assert "lightning" in sys.modules
assert not asked, asked
print(backend_info()["cuda"])
"""
    environment = {**os.environ, library.CUDA_SWITCH: "1", library.SWITCH: "auto"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("none: ")


def on_cuda() -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(1, device="cuda:0")


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The state after an import on a machine with CUDA kernels; gives the kinds that are loaded."""
    loaded: list[str] = []
    monkeypatch.setattr(library, "libraries", {})
    monkeypatch.setattr(library, "_looked_at", set())
    monkeypatch.setattr(library, "reasons", {"cuda": library._AWAITED})
    monkeypatch.setattr(library, "_load", lambda kind, path: loaded.append(kind) or "not in a test")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return loaded


def test_the_first_cuda_tensor_loads_the_kernels_once(waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    library.load_for(torch.zeros(1))
    assert waiting == []
    library.load_for(on_cuda())
    library.load_for(on_cuda())
    assert waiting == ["cuda"]


def test_while_a_graph_is_recorded_nothing_is_loaded(waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with monkeypatch.context() as recording:
        recording.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        library.load_for(on_cuda())
        assert waiting == []
    library.load_for(on_cuda())
    assert waiting == ["cuda"]


def test_a_gpu_that_is_too_old_is_named(waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(9, 0), (7, 5)][device])
    library.load_for(on_cuda())
    assert waiting == []
    assert library.reasons["cuda"] == "GPU 1 has compute capability 7.5; 8.0 or later is needed"


@pytest.mark.parametrize("name", ["prepare", "select_", "kernel_sums_", "best", "reservoir_slots", "prove"])
def test_an_op_goes_with_those_that_have_its_kernel_inside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[str] = []
    monkeypatch.setattr(library, "faults", {})
    monkeypatch.setattr(library, "define_kernel", lambda op, function, key: replaced.append(op))
    library.set_aside(name, "wrong", "CUDA")
    library.set_aside(name, "wrong", "CUDA")
    beside = {"reservoir_slots": "place_", "best": "best", "prove": "prove"}.get(name, "best")
    assert sorted(replaced) == sorted({name, beside}) == sorted(library.faults)


def test_a_fake_tensor_decides_nothing(waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    library.load_for(on_cuda())
    assert waiting == []
    assert library.reasons["cuda"] == library._AWAITED


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda p: p.stem)
def test_the_ops_know_nothing_above_them(path: Path) -> None:
    allowed = ("lightning_featgeo.types", "lightning_featgeo.errors", "lightning_featgeo.cuda_ext")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [n for n in names if n.startswith("lightning_featgeo") and not n.startswith(allowed)]
