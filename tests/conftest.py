"""Shared by all tests: a folder and a seed for each test, no leftovers, no network."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; idle threads would spin

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests._helpers import typed

typed.check_less()
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp(prefix="trackio-"))  # read when it is imported


# CI runs the same examples every time; everybody else's machine looks for new ones. Slow machines are no failure.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure(config: pytest.Config) -> None:
    # A warning of ours is caught by the test that provokes it. (Not in pyproject.toml: that would import the
    # package before jaxtyping's import hook can add its checks.)
    config.addinivalue_line("filterwarnings", "error::lightning_featgeo.errors.FeatureGeometryWarning")
    config.addinivalue_line("filterwarnings", "ignore::lightning_featgeo.errors.SmallSampleWarning")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_featgeo import _compat

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    if _compat.compiles():  # by an earlier test: then what enters a network can't be seen
        torch._dynamo.reset()


@pytest.fixture
def own_catalogue() -> Iterator[None]:
    """Signals that a test declares are gone after it."""
    from lightning_featgeo.metrics.catalog import CATALOG, SHIPPED

    yield
    for name in set(CATALOG) - SHIPPED:
        del CATALOG[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "compiler" in item.keywords and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            item.add_marker(pytest.mark.skip(reason="needs a C++ compiler"))
