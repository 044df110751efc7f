"""The one recipe for the compiled ops, of ``setup.py`` and of ``python -m lightning_featgeo.cuda_ext build``.

It needs nothing but the standard library, a C++ compiler, and torch's headers; for the CUDA kernels also ``nvcc``. It
is read by ``setup.py`` before the package can be imported, so that it imports nothing of the package.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
TARGET = "0x020a000000000000"  # LibTorch's stable ABI as of 2.10: one build for every torch from there on
LIBRARIES = {"cpu": "_cpu.so", "cuda": "_cuda.so"}
ARCHITECTURES = ("80", "90")  # machine code for these, and the last one's PTX for what comes later
_X86 = {
    "tile_avx2.cpp": ["-mavx2", "-mfma"],
    "tile_avx512.cpp": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
_BF16 = "-mavx512bf16"


class BuildError(RuntimeError):
    """A library could not be built; the message says why and what to do."""


def source_hash(kind: str) -> str:
    """What a library is built from: a hash of its sources and this recipe. A library with another one is stale."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted((SOURCES / kind).iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build(kind: str, folder: Path, say: Callable[[str], object] = print) -> Path:
    """Compile the library of one kind, ``"cpu"`` or ``"cuda"``, into a folder.

    Raises:
        BuildError: if there is no compiler or no torch, or if the compiler refuses.
    """
    torch = _torch_folder()
    compiler = _nvcc() if kind == "cuda" else _cxx()
    host = _cxx()
    target = folder / LIBRARIES[kind]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700 if is_cache(folder) else 0o777)
    say(f"compiling {target.name} with {' '.join(compiler)}")
    stamp = f'-DFEATGEO_FINGERPRINT="featgeo-sources-{source_hash(kind)}"'
    common = [f"-DTORCH_TARGET_VERSION={TARGET}", stamp, f"-I{torch / 'include'}"]
    sources = sorted((SOURCES / kind).glob("*.cu" if kind == "cuda" else "*.cpp"))
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [Path(temporary) / f"{source.stem}.o" for source in sources]
        commands = [
            [*compiler, *_flags(kind, compiler, source), *common, "-c", str(source), "-o", str(out)]
            for source, out in zip(sources, objects, strict=True)
        ]
        for report in pool.map(_run, commands):
            if report:
                say(report)
        finished = Path(temporary) / target.name
        _run(_link(kind, compiler, host, torch, objects, finished))
        for path, data in ((digest_path(target), digest(finished.read_bytes())), (target, finished.read_bytes())):
            _replace(path, data, finished)
    return target


def digest(library: bytes) -> bytes:
    """What is kept beside a library, to tell one that was cut or damaged before it is opened."""
    return f"{hashlib.sha256(library).hexdigest()} {len(library)}\n".encode()


def digest_path(library: Path) -> Path:
    """Where that is kept."""
    return library.with_name(library.name + ".sha256")


def _replace(path: Path, data: bytes, like: Path) -> None:
    """Beside it first: replacing a file is whole or not at all, and spares processes that run the old one."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if not is_cache(path.parent):
            shutil.copymode(like, beside)  # for everybody who may import the package; in a cache, for its owner
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def can_build() -> bool:
    """Whether there is what the CPU library needs: a compiler, and torch."""
    try:
        return bool(_cxx() and _torch_folder())
    except BuildError:
        return False


def default_folder() -> Path:
    """Beside this file, or where that is not writable, in the user's cache.

    Raises:
        BuildError: if there is neither.
    """
    here = Path(__file__).parent
    return here if os.access(here, os.W_OK) else cache_folder()


def cache_folder() -> Path:
    """A folder of the user's own.

    Raises:
        BuildError: if there is no home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if given.is_absolute():  # others are to be ignored, as the specification has it: they would mean where one stands
        return given / "lightning_featgeo"
    try:
        return Path.home() / ".cache" / "lightning_featgeo"
    except RuntimeError as error:
        raise BuildError("there is no folder to write to, and no home: set XDG_CACHE_HOME") from error


def is_cache(folder: Path) -> bool:
    """Whether a folder is not the package's own: nobody but its owner may write there."""
    return folder.resolve() != Path(__file__).parent.resolve() and folder.name == "lightning_featgeo"


def _flags(kind: str, compiler: Sequence[str], source: Path) -> list[str]:
    if kind == "cuda":
        newest = ARCHITECTURES[-1]
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        ptx = f"-gencode=arch=compute_{newest},code=compute_{newest}"
        return [
            "-O3",
            "-std=c++17",
            "-DUSE_CUDA",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            "-Xptxas",
            "-v",
            *codes,
            ptx,
        ]
    flags = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden"]
    if platform.machine().lower() in ("x86_64", "amd64"):
        flags += _X86.get(source.name, [])
        if source.name == "tile_avx512.cpp" and _accepts(compiler, _BF16):
            flags.append(_BF16)
    return flags


def _link(
    kind: str, compiler: Sequence[str], host: Sequence[str], torch: Path, objects: Sequence[Path], out: Path
) -> list[str]:
    names = [str(o) for o in objects]
    library = [f"-L{torch / 'lib'}"]
    if kind == "cpu":
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        return [*compiler, "-shared", *names, *library, *undefined, "-ltorch_cpu", "-o", str(out)]
    # libtorch.so pulls in libtorch_cuda.so where there is one: without it the weak symbols would stay null
    forced = ["-Xlinker", "--no-as-needed", "-ltorch", "-ltorch_cpu"]
    return [*compiler, "-shared", "-ccbin", host[-1], "-cudart", "static", *names, *library, *forced, "-o", str(out)]


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} could not be started: {error}") from error
    if done.returncode or not Path(command[command.index("-o") + 1]).exists():
        raise BuildError(f"the compiler failed:\n{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stderr if "-Xptxas" in command else ""


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed here: install it first, then build with --no-build-isolation")
    return Path(spec.origin).parent


def _cxx() -> list[str]:
    asked = shlex.split(os.environ.get("CXX", ""))  # "ccache g++" and the like
    for command in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    raise BuildError(
        "no C++ compiler was found (c++, g++ or clang++ on PATH, or CXX): install one, for example `apt install g++`"
    )


def _nvcc() -> list[str]:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which(str(Path(home) / "bin" / "nvcc"))
    if found is None:
        raise BuildError("nvcc was not found (on PATH, or under CUDA_HOME): install the CUDA toolkit 13.0 or later")
    return [found]


def _accepts(compiler: Sequence[str], flag: str) -> bool:
    command = [*compiler, flag, "-x", "c++", "-E", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
