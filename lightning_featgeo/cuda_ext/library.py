"""Loads the compiled ops where they are there and fit, and says which kernels run and why."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_featgeo.cuda_ext import build, certified
from lightning_featgeo.cuda_ext.schemas import define_kernel
from lightning_featgeo.errors import FeatureGeometryWarning

SWITCH = "LIGHTNING_FEATGEO_BACKEND"  # auto (the default), or reference: load nothing
CUDA_SWITCH = "LIGHTNING_FEATGEO_CUDA"  # 1: also load the CUDA kernels, which have not yet run on a GPU
COMMAND = "python -m lightning_featgeo.cuda_ext build"
_DEVICES = {"cpu": "CPU", "cuda": "CUDA"}
# over the compiled ops
_CERTIFIED: dict[str, Callable[..., object]] = {"knn": certified.knn, "self_neighbors": certified.self_neighbors}

reasons: dict[str, str] = {}  # device type -> why its compiled kernels do not run
libraries: dict[str, ctypes.CDLL] = {}  # device type -> what was loaded


def load() -> None:
    """Load what can be loaded, once. Never raises: what is missing runs in plain torch, and ``reasons`` says why."""
    for kind in _DEVICES:
        if kind in libraries:
            continue
        try:
            reason = _why_not(kind) or _load(kind, _path(kind))
        except Exception as error:  # an unreadable file, warnings made errors: never a reason not to import
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            reasons[kind] = reason
            continue
        reasons.pop(kind, None)
        for name, function in _CERTIFIED.items():
            define_kernel(name, function, _DEVICES[kind])
        if kind == "cuda" or _has_bf16(libraries[kind]):
            certified.bf16_devices.add(kind)


def _why_not(kind: str) -> str | None:
    asked = os.environ.get(SWITCH) or "auto"
    if asked == "reference":
        return f"{SWITCH}=reference"
    if asked != "auto":
        return f"{SWITCH}={asked!r} is neither auto nor reference"
    if kind == "cuda":
        if os.environ.get(CUDA_SWITCH) != "1":
            return f"the CUDA kernels have not yet run on a GPU, and are loaded only with {CUDA_SWITCH}=1"
        if torch.version.cuda is None or int(torch.version.cuda.split(".")[0]) < 13:
            return f"this torch is built for CUDA {torch.version.cuda}; 13 or later is needed"
        if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
            return f"compute capability {torch.cuda.get_device_capability()}; 8.0 or later is needed"
    return None if _path(kind).exists() else f"not built: `{COMMAND}`"


def _path(kind: str) -> Path:
    beside = Path(__file__).parent / build.LIBRARIES[kind]
    return beside if beside.exists() else build.default_folder() / build.LIBRARIES[kind]


def _load(kind: str, path: Path) -> str | None:
    # read, not asked: loading registers the kernels, and stale ones must not be
    if f"featgeo-sources-{build.fingerprint(kind)}".encode() not in path.read_bytes():
        return _warned(f"{path.name} was built from other sources than are here; build it again: `{COMMAND}`")
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
    return sorted(_text(kind, "featgeo_ops").split() + list(_CERTIFIED))


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
