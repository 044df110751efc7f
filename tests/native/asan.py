"""Both ops libraries under the address and undefined-behaviour sanitizers, in an interpreter: what ``make asan`` runs.

CPU: a copy of the package gets a library built with them; the tests of the ops run on it, with many more hostile calls.
CUDA: hostile calls on emulated kernels, once with every access of a kernel looked at (by the emulation), once with the
launchers sanitized. What only a GPU does (asynchrony, its own math) is left to ``make gpu-check``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
TESTS = ("tests/ops/test_hostile.py", "tests/ops/test_ops.py", "tests/ops/test_neighbors.py")


def main() -> int:
    """Build, run, and return the tests' own exit status; a sanitizer's report ends the interpreter with 1."""
    examples = sys.argv[1] if len(sys.argv) > 1 else "3000"
    compiler = os.environ.get("CXX", "c++")
    preload = [_library(compiler, name) for name in ("libasan.so", "libubsan.so")]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("lightning_featgeo", "tests", "benchmarks", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder) / name)
        for built in (Path(folder) / "lightning_featgeo" / "cuda_ext").glob("*.so*"):
            built.unlink()
        recipe = Path(folder) / "lightning_featgeo" / "cuda_ext" / "build.py"
        recipe.write_text(recipe.read_text().replace('"-O3"', '"-O1"'))  # with sanitizers, -O3 takes many minutes
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "2"}
        build = [sys.executable, "-m", "lightning_featgeo.cuda_ext", "build", "--no-cuda"]
        subprocess.run(build, cwd=folder, env={**environment, "CXX": f"{compiler} {FLAGS}"}, check=True)
        environment |= {
            "LD_PRELOAD": " ".join(preload),
            # an interpreter leaks by design, and what can't be allocated is refused in words
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "FEATGEO_EXAMPLES": examples,
        }
        info = [sys.executable, "-c", "from lightning_featgeo.cuda_ext import backend_info as b; print(b()['reason'])"]
        subprocess.run(info, cwd=folder, env=environment, check=True)
        tests = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-s",
            "-p",
            "no:cacheprovider",
            *TESTS,
        ]  # -s: a report is no capture
        failed = subprocess.run(tests, cwd=folder, env=environment, check=False).returncode
        for sanitized in (False, True):
            hostile = [sys.executable, "-m", "tests.native.emulation.hostile", str(Path(folder) / "emulated")]
            hostile += ["--calls", examples, *(["--sanitized"] if sanitized else [])]
            own = {**environment, "LIGHTNING_FEATGEO_BACKEND": "reference"}
            if not sanitized:
                own["LD_PRELOAD"] = ""
            print("CUDA, emulated:", "launchers sanitized" if sanitized else "every access looked at", flush=True)
            failed |= subprocess.run(hostile, cwd=folder, env=own, check=False).returncode
        return failed


def _library(compiler: str, name: str) -> str:
    asked = [*compiler.split(), f"-print-file-name={name}"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
