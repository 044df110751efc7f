"""Loads the compiled ops where they are there and fit, and says which kernels run and why.

The CPU kernels are loaded on import. The CUDA kernels are loaded when an op gets its first CUDA tensor: whether a GPU
can run them is known only by asking it, and asking initialises CUDA, after which a process can no longer be forked
(by a data loader, say). Then they are checked (:mod:`~lightning_featgeo.cuda_ext.self_check`), and those that are wrong
are not used. Without them the certified search still runs on a GPU, over plain torch ops.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor

from lightning_featgeo.cuda_ext import build, certified, reference, self_check, self_search
from lightning_featgeo.cuda_ext.schemas import define_kernel
from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.types import Tensor

SWITCH = "LIGHTNING_FEATGEO_BACKEND"  # auto (the default), or reference: load nothing
CUDA_SWITCH = "LIGHTNING_FEATGEO_CUDA"  # 1: load the CUDA kernels unchecked; 0: do not load them
COMMAND = "python -m lightning_featgeo.cuda_ext build"
_CAPABILITY = (8, 0)  # of the oldest GPU that the kernels are compiled for
_AWAITED = "they are loaded when an op gets its first CUDA tensor"
# over the compiled ops
_CERTIFIED: dict[str, Callable[..., object]] = {"knn": certified.knn, "self_neighbors": self_search.self_neighbors}

reasons: dict[str, str] = {}  # device type -> why its compiled kernels do not run
libraries: dict[str, ctypes.CDLL] = {}  # device type -> what was loaded
faults: dict[str, str] = {}  # CUDA op -> why its kernel is not used on any GPU
_looked_at: set[int] = set()  # GPUs
_TOGETHER = {  # one takes what the other gives, or has its kernels inside
    "reservoir_slots": ["place_"], "place_": ["reservoir_slots"],
    "prepare": ["best"], "select_": ["best"], "kernel_sums_": ["best"],
}  # fmt: skip


def load() -> None:
    """Load what can be loaded without a GPU, once; ``reasons`` says why the rest is not.

    Never raises: what is missing runs in plain torch.
    """
    _load_kind("cpu", _why_not)
    if (os.environ.get(SWITCH) or "auto") == "auto" and "CUDA" not in _served:
        _serve("CUDA")
    if "cuda" not in libraries:
        reasons["cuda"] = _attempt(_why_not, "cuda") or _AWAITED


def load_for(tensor: Tensor) -> None:
    """Load the CUDA kernels if this is the first CUDA tensor, and check them if it is its GPU's first. Never raises."""
    index = tensor.device.index
    # a fake tensor says it is on CUDA while CUDA may never have been asked for: that decides nothing
    if not tensor.is_cuda or index in _looked_at or not torch.cuda.is_initialized():
        return
    if _recording():
        return  # next time: into a CUDA graph goes what is there, and nothing can be checked meanwhile
    if reasons.get("cuda") == _AWAITED:
        _load_kind("cuda", lambda _: _too_old())
    if isinstance(tensor, FakeTensor):
        return
    _looked_at.add(index)
    if _attempt(lambda _: _no_bf16_products(tensor.device), "cuda") is None:
        certified.bf16_devices.add("cuda")
    unchecked = "cuda" in libraries and os.environ.get(CUDA_SWITCH) != "1"
    if unchecked and (reason := _attempt(lambda _: _check(tensor.device), "cuda")):
        for name in _text("cuda", "featgeo_ops").split():
            set_aside(name, f"not checked: {reason}", "CUDA")


def _recording() -> bool:
    try:
        return bool(torch.cuda.is_current_stream_capturing())
    except Exception:  # a torch without CUDA
        return False


def _check(device: torch.device) -> None:
    """Let the kernels prove themselves on a GPU, and use plain torch for those that don't."""
    properties, dispatch = torch.cuda.get_device_properties(device), device.type.upper()
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: "")()
    built = build.digest_path(_path("cuda"))
    key = f"{properties} {driver} {torch.__version__} {built.read_text() if built.exists() else ''}"
    verdict, known_before = self_check.remembered(key), bool(faults)
    if verdict is None:
        names = _text("cuda", "featgeo_ops").split()
        with torch.cuda.device(device):
            torch.cuda.synchronize()  # what went wrong before is not the kernels' fault
            verdict = self_check.faulty(device, names, lambda name, reason: set_aside(name, reason, dispatch))
            try:
                torch.cuda.synchronize()
            except Exception as error:  # CUDA is of no more use in this process: not again in the next one
                verdict, known_before = dict.fromkeys(names, f"one of them ended this process's CUDA: {error}"), False
        if not known_before:  # else an op was compared with itself
            self_check.remember(key, verdict)
    for name, reason in verdict.items():
        set_aside(name, reason, dispatch)
    if verdict:
        told = "; ".join(f"{name} ({reason})" for name, reason in verdict.items())
        warnings.warn(
            f"compiled ops: on {properties.name} these disagree with plain torch, or could not be compared with it, "
            f"and are not used: {told}. Figures are right, and take longer. Unless memory was short, please report "
            "it, with the output of `python -m lightning_featgeo.cuda_ext`.",
            FeatureGeometryWarning,
            stacklevel=2,
        )


def set_aside(name: str, reason: str, key: str) -> None:
    """Let plain torch serve an op again on the devices of a dispatch key, and the ops that go with it."""
    for each in {name, *_TOGETHER.get(name, [])} - set(faults):
        faults[each] = reason
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that a kernel is replaced
            define_kernel(each, getattr(reference, each), key)


_served: set[str] = set()


def _serve(key: str) -> None:
    _served.add(key)
    for name, function in _CERTIFIED.items():
        define_kernel(name, function, key)


def _load_kind(kind: str, why_not: Callable[[str], str | None]) -> None:
    if kind in libraries:
        return
    reason = _attempt(lambda k: why_not(k) or _load(k, _path(k)), kind)
    if reason is not None:
        reasons[kind] = reason
        return
    reasons.pop(kind, None)
    if kind == "cpu":
        _serve("CPU")
    if kind == "cpu" and _has_bf16(libraries[kind]):
        certified.bf16_devices.add(kind)


def _attempt(step: Callable[[str], str | None], kind: str) -> str | None:
    try:
        return step(kind)
    except Exception as error:  # an unreadable file, warnings made errors: never a reason not to import
        return f"{type(error).__name__}: {error}"


def _why_not(kind: str) -> str | None:
    """What forbids loading, as far as can be told without initialising CUDA."""
    asked = os.environ.get(SWITCH) or "auto"
    if asked == "reference":
        return f"{SWITCH}=reference"
    if asked != "auto":
        return f"{SWITCH}={asked!r} is neither auto nor reference"
    if kind == "cuda":
        if os.environ.get(CUDA_SWITCH) == "0":
            return f"{CUDA_SWITCH}=0"
        if torch.version.cuda is None or int(torch.version.cuda.split(".")[0]) < 13:
            return f"this torch is built for CUDA {torch.version.cuda}; 13 or later is needed"
    return None if _path(kind).exists() else f"not built: `{COMMAND}`"


def _too_old() -> str | None:
    """Whether one of the visible GPUs can't run the kernels: they serve all of them or none."""
    for device in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_capability(device)
        if found < _CAPABILITY:
            return f"GPU {device} has compute capability {_dotted(found)}; {_dotted(_CAPABILITY)} or later is needed"
    return None


def _no_bf16_products(device: torch.device) -> str | None:
    """Why bf16 products with fp32 sums can't be had from this torch and GPU, or are not what they should be."""
    if torch.version.cuda is None:
        return "another vendor's"
    if reason := _too_old():
        return reason
    x = torch.arange(-128, 128, device=device).reshape(16, 16).to(torch.bfloat16)  # exact, and so are the sums
    right = torch.equal(torch.mm(x, x.T, out_dtype=torch.float32).double(), x.double() @ x.double().T)
    return None if right else "their sums are rounded"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _untrusted(path: Path) -> str | None:
    """Why a library in a cache is not loaded: others could have put it there. Beside the package they can't."""
    if not build.is_cache(path.parent) or not hasattr(os, "getuid"):
        return None
    for one in (path.parent, path):
        found = one.stat()
        if found.st_uid not in (os.getuid(), 0):
            return f"{one} belongs to another user"
        if found.st_mode & 0o022:
            return f"{one} can be written by others: `chmod go-w {one}`"
    return None


def _path(kind: str) -> Path:
    beside = Path(__file__).parent / build.LIBRARIES[kind]
    return beside if beside.exists() else build.default_folder() / build.LIBRARIES[kind]


def _load(kind: str, path: Path) -> str | None:
    if reason := _untrusted(path):
        return _warned(f"{reason}, so that {path.name} is not loaded; or build it anew: `{COMMAND}`")
    # read, not asked: loading registers the kernels, and stale ones must not be; one that was cut ends the process
    library = path.read_bytes()
    if f"featgeo-sources-{build.source_hash(kind)}".encode() not in library:
        return _warned(f"{path.name} was built from other sources than are here; build it again: `{COMMAND}`")
    kept = build.digest_path(path)
    if not kept.exists() or kept.read_bytes() != build.digest(library):
        return _warned(f"{path.name} is not what was built (cut or damaged?); build it again: `{COMMAND}`")
    try:
        libraries[kind] = ctypes.CDLL(str(path))  # torch's own loader hides the cause of a failure
    except OSError as error:
        return _warned(f"{path.name} could not be loaded ({error}); build it again: `{COMMAND}`")
    return None


def _warned(reason: str) -> str:
    if "lightning_featgeo.cuda_ext" not in sys.orig_argv:  # whoever runs the command is about to mend it
        warnings.warn(f"compiled ops: {reason}. Plain torch runs instead.", FeatureGeometryWarning, stacklevel=2)
    return reason


def compiled(kind: str) -> list[str]:
    """Which ops have a compiled kernel for ``"cpu"`` or ``"cuda"`` tensors."""
    if kind not in libraries:
        return []
    aside = faults if kind == "cuda" else {}
    return sorted(name for name in (*_text(kind, "featgeo_ops").split(), *_CERTIFIED) if name not in aside)


def instruction_set() -> str:
    """Of the CPU kernels in use; empty if none are."""
    if "cpu" not in libraries:
        return ""
    return _text("cpu", "featgeo_instruction_set") + (" with bf16 products" if "cpu" in certified.bf16_devices else "")


def _has_bf16(library: ctypes.CDLL) -> bool:
    library.featgeo_has_bf16.restype = ctypes.c_bool
    return bool(library.featgeo_has_bf16())


def _text(kind: str, function: str) -> str:
    call = libraries[kind][function]
    call.restype = ctypes.c_char_p
    return str(call().decode())
