"""Building, loading and switching off the compiled libraries."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_featgeo.cuda_ext import build, library
from tests.ops.test_compiled import needs_kernels


def test_where_a_compiler_is_the_kernels_are_built() -> None:
    if shutil.which("c++") is None or os.environ.get(library.SWITCH, "auto") != "auto":
        pytest.skip("no C++ compiler here, or the reference was asked for")
    assert library.reasons.get("cpu") is None


@needs_kernels
@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(instructions: str) -> None:
    code = """
import torch
from lightning_featgeo.cuda_ext import library, ops, search, self_search, reference
torch.manual_seed(0)
x = torch.randn(431, 37)
print(library.instruction_set())
groups, all_of_them = torch.arange(431), torch.ones(431, dtype=torch.bool)
found = ops.self_neighbors(x, 9, groups, all_of_them, 40, 2.0)
truth = self_search.SelfNeighbors(*search.self_neighbors(x, 9, groups, all_of_them, 40, 2.0))
torch.testing.assert_close(found.distances, truth.distances, rtol=1e-11, atol=0)
assert torch.equal(found.indices, truth.indices)
assert torch.equal(found.voted.sort(1).values, truth.voted.sort(1).values)
torch.testing.assert_close(found.kernel_sums, truth.kernel_sums, rtol=1e-6, atol=0)
torch.testing.assert_close(found.kernel_squares, truth.kernel_squares, rtol=1e-6, atol=0)
f64 = dict(dtype=torch.float64)
states = [(torch.zeros(3, 37), torch.zeros(3, **f64), torch.zeros(3, 37, **f64), torch.zeros(3, **f64),
           torch.zeros(2, 37, 37, **f64)) for _ in range(2)]
ops.scatter_(x, groups % 3, *states[0], 2)
reference.scatter_(x, groups % 3, *states[1], 2)
for a, b in zip(*states):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
"""
    environment = {**os.environ, "LIGHTNING_FEATGEO_ISA": instructions}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if instructions != "avx512":  # of which processors have more than one kind
        assert "bf16" not in done.stdout
    if instructions == "portable":
        assert done.stdout.split()[0] == "portable"


def test_a_stale_library_is_not_loaded_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    stale = tmp_path / "_cpu.so"
    stale.write_bytes(b"\x7fELF featgeo-sources-0123456789abcdef")
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    with pytest.warns(UserWarning, match=r"built from other sources.*cuda_ext build"):
        assert "other sources" in library._load("cpu", stale)
    text = f"not a library featgeo-sources-{build.source_hash('cpu')}".encode()
    stale.write_bytes(text)
    build.digest_path(stale).write_bytes(build.digest(text))
    with pytest.warns(UserWarning, match=r"could not be loaded .*cuda_ext build"):
        assert "could not be loaded" in library._load("cpu", stale)


@pytest.mark.parametrize("broken", ["a folder", "stale, and warnings are errors", "sources gone"])
def test_a_broken_library_never_keeps_the_package_from_importing(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    library_file = tmp_path / "_cpu.so"
    library_file.mkdir() if broken == "a folder" else library_file.write_bytes(b"nothing of ours")
    if broken == "sources gone":
        monkeypatch.setattr(build, "SOURCES", tmp_path / "nowhere")
    monkeypatch.setattr(library, "_path", lambda kind: library_file)
    monkeypatch.setattr(library, "libraries", {})
    monkeypatch.setattr(library, "reasons", {})
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    monkeypatch.delenv(library.SWITCH, raising=False)
    library.load()  # here warnings of ours are errors
    assert library.libraries == {}
    assert set(library.reasons) == {"cpu", "cuda"}


@pytest.mark.compiler
def test_a_process_that_runs_a_library_survives_its_rebuilding(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    one_of_them = tmp_path / "sources" / "cpu"  # how a library is written does not depend on how much is in it
    one_of_them.mkdir(parents=True)
    for name in ("reservoir.cpp", "reservoir.h", "buffer.h"):
        shutil.copy(build.SOURCES / "cpu" / name, one_of_them)
    monkeypatch.setattr(build, "SOURCES", tmp_path / "sources")
    folder = tmp_path / "built"
    first = build.build("cpu", folder, lambda _: None)
    with first.open("rb") as held:
        before = first.stat().st_ino
        assert build.build("cpu", folder, lambda _: None).stat().st_ino != before  # another file: the old one is intact
        assert held.read(4) == b"\x7fELF"
    assert sorted(p.name for p in folder.iterdir()) == ["_cpu.so", "_cpu.so.sha256"]


def test_a_compiler_that_cannot_compile_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    if shutil.which("true") is None:
        pytest.skip("no program that does nothing")
    monkeypatch.setenv("CXX", "true --nothing")
    with pytest.raises(build.BuildError, match="the compiler failed"):
        build.build("cpu", tmp_path, lambda _: None)


def test_without_a_compiler_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler was found"):
        build.build("cpu", tmp_path)
    with pytest.raises(build.BuildError, match="nvcc was not found"):
        build.build("cuda", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("switch", ["reference", "turbo"])
def test_the_reference_can_be_asked_for(switch: str) -> None:
    code = "from lightning_featgeo.cuda_ext import backend_info; i = backend_info(); print(i['backend'], i['reason'])"
    environment = {**os.environ, library.SWITCH: switch}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"reference {library.SWITCH}={switch}" if switch == "reference" else "reference")
    assert switch in done.stdout


def test_where_the_package_cannot_be_written_libraries_go_to_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.default_folder() == tmp_path / "lightning_featgeo"
    for nowhere in ("", "cache", "./cache"):  # relative: it would mean whatever folder one stands in
        monkeypatch.setenv("XDG_CACHE_HOME", nowhere)
        assert build.default_folder() == Path.home() / ".cache" / "lightning_featgeo"


def cached(folder: Path, data: bytes) -> Path:
    """A library in a cache, with what is kept beside it."""
    folder.mkdir(mode=0o700)
    path = folder / "_cpu.so"
    for one, content in ((path, data), (build.digest_path(path), build.digest(data))):
        one.write_bytes(content)
        one.chmod(0o600)
    return path


@needs_kernels
@pytest.mark.parametrize("cut", [1, 4096, "half", "a byte"])
def test_a_damaged_library_is_not_opened(cut: int | str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Opening one that was cut ends the interpreter with a bus error, which no ``except`` catches."""
    whole = library._path("cpu").read_bytes()
    path = cached(tmp_path / "lightning_featgeo", whole)
    middle = len(whole) // 2
    path.write_bytes(
        whole[:middle] if cut == "half" else whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        if cut == "a byte" else whole[: -int(cut)]
    )  # fmt: skip
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    with pytest.warns(UserWarning, match="not what was built|other sources"):
        assert library._load("cpu", path)


@pytest.mark.parametrize("what", ["folder", "file", "owner"])
def test_a_cache_that_others_can_write_is_not_trusted(what: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = cached(tmp_path / "lightning_featgeo", f"featgeo-sources-{build.source_hash('cpu')}".encode())
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    with pytest.warns(UserWarning, match="could not be loaded"):  # it is opened: only then may it be refused
        library._load("cpu", path)
    if what == "folder":
        path.parent.chmod(0o770)
    elif what == "file":
        path.chmod(0o666)
    else:
        monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
        if path.stat().st_uid == 0:  # what root owns is trusted by everybody
            os.chown(path, 12345, 12345)
            monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.warns(UserWarning, match="belongs to another user|can be written by others"):
        assert library._load("cpu", path)


@pytest.mark.compiler
def test_what_is_built_into_a_cache_is_its_owners_alone(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    one_of_them = tmp_path / "sources" / "cpu"
    one_of_them.mkdir(parents=True)
    for name in ("reservoir.cpp", "reservoir.h", "buffer.h"):
        shutil.copy(build.SOURCES / "cpu" / name, one_of_them)
    monkeypatch.setattr(build, "SOURCES", tmp_path / "sources")
    path = build.build("cpu", tmp_path / "lightning_featgeo", lambda _: None)
    assert [oct(one.stat().st_mode & 0o777) for one in (path.parent, path)] == ["0o700", "0o600"]
    assert library._untrusted(path) is None


def test_a_library_in_the_current_folder_is_never_looked_at(tmp_path) -> None:
    """A package without a library, and an empty XDG_CACHE_HOME: what lies where one stands is not ours."""
    planted = tmp_path / "lightning_featgeo" / "_cpu.so"
    planted.parent.mkdir()
    planted.write_bytes(f"featgeo-sources-{build.source_hash('cpu')}".encode())
    code = (
        "from lightning_featgeo.cuda_ext import build, library; import os; from pathlib import Path\n"
        "os.access = lambda *_: False; build.LIBRARIES['cpu'] = 'none.so'\n"
        "print(library._path('cpu').is_absolute(), library._path('cpu').exists())"
    )
    for home in ("", "."):
        environment = {**os.environ, "XDG_CACHE_HOME": home, "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["True", "False"]
