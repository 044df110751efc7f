"""What can be shown of the native code without a GPU: its ABI, its dispatch, its sanitizers, its host-side logic."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_featgeo.cuda_ext import build, library
from lightning_featgeo.cuda_ext.schemas import NAMESPACE, SCHEMAS
from tests.ops.test_ops import arguments

HERE = Path(__file__).parents[1] / "native"
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
CUDA_OPS = [
    "best", "direction_sums_", "frame", "group_sums_", "hash_priority", "kernel_sums_", "place_", "prepare", "prove",
    "reservoir_slots", "select_", "unit_stats_",
]  # fmt: skip


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:  # what a release is built for takes twice as long: `make gpu-check`
        patch.setattr(build, "ARCHITECTURES", build.ARCHITECTURES[-1:])
        recipe = build._flags  # the host's part without optimisation; the device's has its own default, -O3
        patch.setattr(build, "_flags", lambda *given: [flag for flag in recipe(*given) if flag != "-O3"])
        path = build.build("cuda", tmp_path_factory.mktemp("cuda"), said.append)
    return path, "\n".join(said)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sanitized")
    sanitize = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    objects = []
    for source in [*sorted((build.SOURCES / "cpu").glob("*.cpp")), HERE / "sanitize.cpp"]:
        if source.name == "ops.cpp":  # its tensors are torch's
            continue
        objects.append(folder / f"{source.stem}.o")
        flags = [f for f in build._flags("cpu", ["c++"], source) if f != "-O3"]
        run("c++", *flags, *sanitize, f"-I{build.SOURCES / 'cpu'}", "-c", source, "-o", objects[-1])
    run("c++", *sanitize, "-pthread", *objects, "-o", folder / "sanitized")
    return folder / "sanitized"


@pytest.mark.compiler
@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
def test_the_cpu_ops_under_sanitizers(sanitized: Path, instructions: str) -> None:
    # whatever a test run itself was started under is not for this process
    assert ": 0 wrong" in run(sanitized, "12", LIGHTNING_FEATGEO_ISA=instructions, LD_PRELOAD="", ASAN_OPTIONS="")


@pytest.mark.skipif("cpu" not in library.libraries, reason="no kernels")
def test_the_cpu_library_keeps_to_the_stable_abi() -> None:
    audited(library._path("cpu"))


@needs_nvcc
@pytest.mark.compiler
def test_the_cuda_library_keeps_to_the_stable_abi(cuda_library: tuple[Path, str]) -> None:
    audited(cuda_library[0])


def audited(path: Path) -> None:
    report = json.loads(run(Path(sys.executable).parent / "torch-abi-audit", "--json", path))
    found = report["bundled_libs"][0]["torch"]
    assert (found["stable"], found["unstable_symbols"], found["min_torch_version"]) == (True, [], "2.10.0")


@needs_nvcc
@pytest.mark.compiler
def test_no_cuda_kernel_spills_its_registers(cuda_library: tuple[Path, str]) -> None:
    lines = [line for line in cuda_library[1].splitlines() if "spill stores" in line]
    assert len(lines) > 20
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in lines)


@needs_nvcc
@pytest.mark.compiler
def test_every_cuda_kernel_is_dispatched_to(cuda_library: tuple[Path, str]) -> None:
    code = f"""
import torch, ctypes
import lightning_featgeo.cuda_ext
has = torch._C._dispatch_has_kernel_for_dispatch_key
names = {CUDA_OPS!r}
assert not any(has("{NAMESPACE}::" + name, "CUDA") for name in names)
held = ctypes.CDLL({str(cuda_library[0])!r})  # loads without a GPU, and without a CUDA build of torch
assert all(has("{NAMESPACE}::" + name, "CUDA") for name in names)
held.featgeo_ops.restype = ctypes.c_char_p
assert held.featgeo_ops().decode().split() == names
"""
    run(sys.executable, "-c", code, **{library.CUDA_SWITCH: "0"})


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_fake_cuda_tensors_get_the_shapes_types_and_device_of_the_real_ones(name: str) -> None:
    real = arguments(name)
    op = getattr(getattr(torch.ops, NAMESPACE), name)
    expected = op(*real)
    with FakeTensorMode():
        like = [
            torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda") if isinstance(a, torch.Tensor) else a
            for a in real
        ]
        found = op(*like)
    if expected is None:
        assert found is None
        return
    pairs = [(expected, found)] if isinstance(expected, torch.Tensor) else list(zip(expected, found, strict=True))
    for one, fake in pairs:
        assert (one.shape, one.dtype, "cuda") == (fake.shape, fake.dtype, fake.device.type)
