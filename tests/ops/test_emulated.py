"""The CUDA kernels, run on a CPU: what a GPU would check, and whether those checks notice a fault."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_featgeo.cuda_ext import library


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("emulated")
    command = [sys.executable, "-m", "tests.native.emulation.check", str(folder)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), library.SWITCH: "reference"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], env=environment
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.compiler
def test_every_kernel_does_in_emulation_what_a_gpu_would_be_asked(emulated: dict[str, Any]) -> None:
    assert emulated["wrong"] == {}


@pytest.mark.compiler
def test_hostile_calls_of_the_kernels_are_refused_or_answered(emulated: dict[str, Any]) -> None:
    assert emulated["hostile"] == {}


@pytest.mark.compiler
def test_every_planted_fault_is_noticed(emulated: dict[str, Any]) -> None:
    assert emulated["planted"] >= 25
    assert emulated["missed"] == []


@pytest.mark.compiler
def test_kernels_that_are_wrong_are_set_aside_and_cost_no_numbers(emulated: dict[str, Any]) -> None:
    assert emulated["set aside"] == ["best", "prepare"]
    assert emulated["right without them"]
    assert emulated["remembered"] == 1
    (told,) = emulated["told"]
    assert "on an emulated GPU these disagree with plain torch, or could not be compared with it" in told
    assert "and are not used: prepare (case 0: off by " in told
    assert "not prepare, which disagreed with plain torch" in emulated["info"]
