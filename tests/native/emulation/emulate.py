"""Builds the project's .cu files for the CPU (``cuda_emulator.h``): the real kernels and launchers, as CPU ops."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


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
        flags=re.S,
    )
    source = re.sub(r"(\w+)\.data_ptr\(\)", r"emu::data_of(\1)", source)
    source = source.replace(".is_cuda()", ".is_cpu()")
    return source.replace(
        "STABLE_TORCH_LIBRARY_IMPL(lightning_featgeo, CUDA,", "STABLE_TORCH_LIBRARY_IMPL(lightning_featgeo, CPU,"
    )


def build(csrc: Path, folder: Path, torch: Path, checked: bool = True, optimise: str = "-O1") -> Path:
    """Compile into ``folder``; ``checked``: every access to memory is looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = [
        optimise, "-DFEATGEO_EMULATED", "-g", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-w", "-DUSE_CUDA",
        "-DTORCH_TARGET_VERSION=0x020a000000000000", '-DFEATGEO_FINGERPRINT="emulated"',
        f"-I{HERE / 'include'}", f"-I{folder}", f"-I{torch / 'include'}", "-ffp-contract=off",
    ]  # fmt: skip
    objects, running = [], []
    for path in sorted(csrc.iterdir()):
        text = translated(path.read_text())
        name = path.name if path.suffix != ".cu" else path.stem + ".cu.cpp"
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
    if not (folder / "stream.cpp").exists():
        (folder / "stream.cpp").write_text(
            '#include "cuda_runtime.h"\n#include <torch/csrc/inductor/aoti_torch/c/shim.h>\n'
            'extern "C" __attribute__((visibility("default"))) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** s) { *s = nullptr; return 0; }\n'
        )
    sources = [*sorted(folder.glob("*.cu.cpp")), HERE / "emulator.cpp", folder / "stream.cpp"]
    for source in sources:
        out = folder / (source.stem + ".o")
        objects.append(out)
        extra = (
            ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
            if checked and source.name.endswith(".cu.cpp")
            else []
        )
        if source.name == "emulator.cpp":
            extra = ["-O2"]
        newest = max(x.stat().st_mtime for x in (source, HERE / "include/cuda_emulator.h", *folder.glob("*.cuh")))
        if out.exists() and out.stat().st_mtime > newest:
            continue
        running.append((source, subprocess.Popen(["g++", *flags, *extra, "-c", str(source), "-o", str(out)])))
        if len(running) >= 2:
            check(*running.pop(0))
    for each in running:
        check(*each)
    target = folder / "emulated.so"
    subprocess.run(
        [
            "g++",
            "-shared",
            *map(str, objects),
            f"-L{torch / 'lib'}",
            "-ltorch_cpu",
            "-Wl,-z,defs,-Bsymbolic",
            "-ltorch",
            "-lc10",
            "-o",
            str(target),
        ],
        check=True,
    )
    return target


def check(source: Path, process: subprocess.Popen) -> None:
    if process.wait():
        raise SystemExit(f"{source} was not compiled")


if __name__ == "__main__":
    import sys

    import torch as t

    csrc = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("lightning_featgeo/cuda_ext/csrc/cuda")
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("build/emulated")
    print(build(csrc, out, Path(t.__file__).parent, checked=len(sys.argv) <= 3 or sys.argv[3] != "fast"))
