"""Compiles the ops into the wheel (or in place, for an editable install) where a compiler and torch are at hand.

Where they are not, the wheel is pure Python and every op runs in plain torch; ``python -m lightning_featgeo.cuda_ext
build`` compiles them later. Everything else about the package is in pyproject.toml.
"""

import importlib.util
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = Path(__file__).parent / "lightning_featgeo" / "cuda_ext"


def recipe():
    """The build recipe, read from its file: the package itself can't be imported before it is installed."""
    spec = importlib.util.spec_from_file_location("lightning_featgeo_build", PACKAGE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildOps(build_py):
    """Python files, and the libraries that can be compiled here."""

    def run(self):
        """Copy, then compile."""
        super().run()
        build = recipe()
        folder = PACKAGE if self.editable_mode else Path(self.build_lib) / "lightning_featgeo" / "cuda_ext"
        for stale in () if self.editable_mode else build.LIBRARIES.values():
            for name in (stale, f"{stale}.sha256"):  # of an earlier build in this folder
                (folder / name).unlink(missing_ok=True)
        for kind in build.LIBRARIES:
            try:
                build.build(kind, folder, self.announce)
            except build.BuildError as error:
                self.warn(f"{kind} kernels are left out, plain torch runs instead: {error}")


class Wheel(bdist_wheel):
    """One wheel a platform, for every Python: the libraries know nothing of Python's ABI."""

    def get_tag(self):
        """``py3-none-<platform>`` where libraries are inside."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


class Package(Distribution):
    """Pure Python, or with libraries."""

    def has_ext_modules(self):
        """Whether there is what it takes to compile."""
        return recipe().can_build()


setup(distclass=Package, cmdclass={"build_py": BuildOps, "bdist_wheel": Wheel})
