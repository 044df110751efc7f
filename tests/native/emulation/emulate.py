"""Builds the CUDA kernels for the CPU (``include/cuda_emulator.h``): the real kernels and launchers, as CPU ops.

Every access of a kernel to memory is looked at, and every fault of :mod:`tests.native.emulation.faults` is in the
library, switched off: one build shows that the kernels are right and that the checks would notice if they were not.
Built ``sanitized`` instead, the launchers' own memory and arithmetic are looked at: AddressSanitizer and
UndefinedBehaviorSanitizer know the host's side, which the emulation takes as it is.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import torch

from lightning_featgeo.cuda_ext import build as recipe
from lightning_featgeo.cuda_ext import certified, self_search
from lightning_featgeo.cuda_ext.schemas import define_kernel
from tests.native.emulation.faults import FAULTS

HERE, TORCH = Path(__file__).parent, Path(torch.__file__).parent
# g++ gives the hooks of its thread sanitizer only: what they call is in emulator.cpp
CHECKED = ["-O1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
SANITIZED = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
STREAM = """
#include "cuda_runtime.h"
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
extern "C" __attribute__((visibility("default"))) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** s) {
  *s = nullptr;
  return 0;
}
"""


def translated(source: str) -> str:
    """C++ from CUDA C++: launches, ``__shared__``, and which device the tensors are on."""
    source = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = static_cast<\1*>(emu::dynamic_shared());", source)

    def shared(match: re.Match[str]) -> str:
        align, kind, names = match[1] or "0", match[2], re.findall(r"(\w+)((?:\[[^\]]*\])*)", match[3])
        return " ".join(f"auto& {n} = emu::shared_as<{kind}{dims}, {align}>();" for n, dims in names)

    source = re.sub(r"__shared__ (?:alignas\((\w+)\) )?(\w+) ([^;]+);", shared, source)
    source = re.sub(
        r"(\w+)(<[^<>;]*>)?<<<(.*?)>>>",
        lambda m: f'emu::on({{{m[3]}}}, "{m[1]}", [](auto... each) {{ {m[1]}{m[2] or ""}(each...); }})',
        source,
        flags=re.DOTALL,
    )
    source = re.sub(r"(\w+)\.data_ptr\(\)", r"emu::data_of(\1)", source)
    source = source.replace(".is_cuda()", ".is_cpu()")
    return source.replace("TORCH_LIBRARY_IMPL(lightning_featgeo, CUDA,", "TORCH_LIBRARY_IMPL(lightning_featgeo, CPU,")


def with_faults(sources: dict[str, str]) -> dict[str, str]:
    """The sources with all faults in them, each behind its number."""
    for number, fault in enumerate(FAULTS, 1):
        text = sources[fault.file]
        assert text.count(fault.right) == 1, f"{fault.file}: {text.count(fault.right)} times {fault.right!r}"
        sources[fault.file] = text.replace(fault.right, fault.switched(number))
    return sources


def build(folder: Path, sanitized: bool = False) -> Path:
    """Compile into ``folder``; returns the library. A sanitized one needs the sanitizers' runtimes loaded before."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = with_faults({path.name: path.read_text() for path in (recipe.SOURCES / "cuda").iterdir()})
    for name, text in sources.items():
        (folder / name).with_suffix(".cpp" if name.endswith(".cu") else Path(name).suffix).write_text(translated(text))
    (folder / "stream.cpp").write_text(STREAM)
    flags = [
        "-std=c++17", "-fPIC", "-fvisibility=hidden", "-w", "-ffp-contract=off", "-DUSE_CUDA", "-DFEATGEO_EMULATED",
        f"-DTORCH_TARGET_VERSION={recipe.TARGET}", '-DFEATGEO_FINGERPRINT="emulated"',
        f"-I{HERE / 'include'}", f"-I{folder}", f"-I{TORCH / 'include'}",
    ]  # fmt: skip
    checks = SANITIZED if sanitized else CHECKED
    parts = {folder / "ops.cpp": checks, HERE / "emulator.cpp": ["-O2"], folder / "stream.cpp": ["-O0"]}
    running = []
    for source, extra in parts.items():
        command = ["g++", *flags, *extra, "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        running.append(subprocess.Popen(command))
    if any(process.wait() for process in running):
        raise RuntimeError("the emulated kernels were not compiled")
    target = folder / "emulated.so"
    objects = [str(folder / f"{source.stem}.o") for source in parts]
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-Wl,-z,defs,-Bsymbolic", "-ltorch", "-lc10"]
    linked = ["-fsanitize=address,undefined"] if sanitized else []
    subprocess.run(["g++", "-shared", *linked, *objects, *libraries, "-o", str(target)], check=True)
    return target


def load(path: Path) -> ctypes.CDLL:
    """Make the emulated kernels the CPU kernels of this process, and CUDA tensors CPU tensors."""
    loaded = ctypes.CDLL(str(path))
    loaded.emu_seed.argtypes = [ctypes.c_uint64]
    loaded.featgeo_ops.restype = ctypes.c_char_p
    define_kernel("knn", certified.knn, "CPU")
    define_kernel("self_neighbors", self_search.self_neighbors, "CPU")
    certified.bf16_devices.add("cpu")
    # a method is replaced on purpose, which mypy calls a mistake: in here CUDA tensors are CPU tensors
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    torch.cuda.synchronize = lambda *args: None
    return loaded
