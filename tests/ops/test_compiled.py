"""The compiled CPU ops against their plain-torch references, and the proof of the certified search."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_featgeo.cuda_ext import build, certified, library, ops, reference, scan_ops, search, self_search
from lightning_featgeo.cuda_ext.proof import BF16, F32, F64
from lightning_featgeo.cuda_ext.self_search import SelfNeighbors

needs_kernels = pytest.mark.skipif("cpu" not in library.libraries, reason=f"no kernels: {library.reasons.get('cpu')}")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def test_where_a_compiler_is_the_kernels_are_built() -> None:
    if shutil.which("c++") is None or os.environ.get(library.SWITCH, "auto") != "auto":
        pytest.skip("no C++ compiler here, or the reference was asked for")
    assert library.reasons.get("cpu") is None


def rows_of(kind: str, n: int, d: int) -> torch.Tensor:
    x = torch.randn(n, d)
    return {
        "gaussian": lambda: x,
        "relu": lambda: torch.relu(x),
        "clusters": lambda: 1e-3 * x + torch.randn(5, d)[torch.arange(n) % 5],
        "far": lambda: x + 1000,
        "copies": lambda: x[torch.arange(n) // 7],
        "all equal": lambda: torch.ones(n, d),
        "lattice": lambda: torch.randint(0, 3, (n, d)).float(),
        "decades": lambda: x * 10 ** torch.linspace(-9, 9, n)[:, None],
        "specks": lambda: x * 1e-30,
        "giants": lambda: x * 1e18,
    }[kind]()


KINDS = ["gaussian", "relu", "clusters", "far", "copies", "all equal", "lattice", "decades", "specks", "giants"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [BF16, F32, F64])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("scan", [pytest.param(scan_ops.scan, marks=needs_kernels, id="compiled"), reference.scan])
def test_rows_that_a_scan_calls_certain_are_right(kind: str, precision: int, shared: bool, scan: Callable) -> None:
    x = rows_of(kind, 500, 19)
    q = x if shared else x[:77] * 1.01
    ids = torch.arange(500, dtype=torch.int32)
    query_ids = ids if shared else torch.full((77,), -1, dtype=torch.int32)
    frame = certified.Problem(q, ids, x, ids, 9, True, 0.0).frame
    distances, indices, certain, _, _ = scan(
        q, None if shared else x, query_ids, None if shared else ids, *frame, 9, True, precision, 0.0
    )
    exact, where = search.knn(q, x, 9, None, None, shared, 0.0)[:2]
    torch.testing.assert_close(distances[certain], exact[certain], rtol=1e-11, atol=0)
    agree = (indices[certain] == where[certain]).all(dim=1)
    ties = (exact[certain].diff(dim=1) <= 1e-11 * exact[certain][:, 1:]).any(dim=1)  # of equal truth, unequal rounding
    assert bool((agree | ties).all())
    if kind in ("gaussian", "relu"):
        assert certain.double().mean() > (0.9 if precision else 0.5)
    if kind == "all equal":
        assert not bool(certain.any())  # ties reach beyond the candidates: nothing is certain


@needs_kernels
def test_without_the_proof_bf16_would_be_wrong() -> None:
    x = rows_of("clusters", 2000, 64)
    ids = torch.arange(2000, dtype=torch.int32)
    frame = certified.Problem(x, ids, None, None, 10, True, 0.0).frame
    _, indices, certain, _, _ = scan_ops.scan(x, None, ids, None, *frame, 10, True, BF16, 0.0)
    truth = search.knn(x, x, 10, None, None, True, 0.0)[1]
    wrong = (indices.sort(dim=1).values != truth.sort(dim=1).values).any(dim=1)
    assert wrong.double().mean() > 0.1  # what a scan in low precision alone gets wrong
    assert not bool((wrong & certain).any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_kernels), False])
def test_the_certified_search_is_the_exact_one(kind: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "_WORTH_A_SAMPLE", 0)  # bf16 too is tried on these few rows
    monkeypatch.setattr(certified, "bf16_devices", {"cpu"})
    if not compiled:  # what runs on a GPU, over the plain-torch scan
        monkeypatch.setattr(scan_ops, "scan", reference.scan)
    x = rows_of(kind, 700, 24)
    groups = torch.arange(700) // 3
    groups[::50] = -1
    found = certified.knn(x, x, 12, groups, groups, True, 0.0)
    truth = search.knn(x, x, 12, groups, groups, True, 0.0)
    torch.testing.assert_close(found[0], truth[0], rtol=1e-11, atol=0)
    ties = (truth[0].diff(dim=1) <= 1e-11 * truth[0][:, 1:]).any(dim=1)
    assert bool(((found[1] == truth[1]).all(dim=1) | ties).all())
    if kind not in ("decades", "giants", "specks"):
        assert torch.equal(found[1], truth[1])
    everyone = torch.ones(700, dtype=torch.bool)
    ours = SelfNeighbors(*self_search.self_neighbors(x, 12, groups, everyone, 40, 2.0))
    theirs = SelfNeighbors(*search.self_neighbors(x, 12, groups, everyone, 40, 2.0))
    torch.testing.assert_close(ours.chords.square(), theirs.chords.square(), rtol=0, atol=2e-6)
    torch.testing.assert_close(ours.kernel_sums, theirs.kernel_sums, rtol=1e-5, atol=0)
    assert torch.equal(ours.kernel_counts, theirs.kernel_counts)


@needs_kernels
def test_every_row_is_counted_under_the_precision_that_settled_it() -> None:
    before = dict(certified.settled)
    x = torch.cat([torch.randn(300, 8), torch.zeros(200, 8), torch.randn(1, 8) + 1e-5 * torch.randn(300, 8)])
    ops.knn(x, x, 5, exclude_self=True)
    after = {name: count - before.get(name, 0) for name, count in certified.settled.items()}
    assert after["fp32"] > 250
    assert after["float64"] > 250  # the tight cluster
    assert after["subtraction"] >= 200  # the copies
    assert sum(after.values()) == len(x)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_knn_over_random_shapes_equals_the_reference(data: st.DataObject) -> None:
    n, m = data.draw(st.integers(0, 260)), data.draw(st.integers(0, 460))
    d, k = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 256))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    dtype = data.draw(st.sampled_from(DTYPES))
    q, b = torch.randn(n, 2 * d).to(dtype)[:, ::2], torch.randn(d, m).to(dtype).T  # neither is contiguous
    groups = data.draw(st.booleans())
    mine = (
        {"query_groups": torch.randint(-1, 9, (n,)), "reference_groups": torch.randint(-1, 9, (m,))} if groups else {}
    )
    distances, indices = ops.knn(q, b, k, **mine)
    exact, where = search.knn(q, b, k, mine.get("query_groups"), mine.get("reference_groups"), False, 0.0)[:2]
    torch.testing.assert_close(distances, exact, rtol=1e-11, atol=0)
    assert (indices == where).double().mean() > 0.99 or indices.numel() == 0  # bf16 rows tie now and then
    assert torch.equal(indices < 0, where < 0)


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_streaming_ops_over_random_shapes_equal_their_references(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 230))
    groups = data.draw(st.sampled_from([1, 4, 37]))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    dtype, buckets = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from([0, 1, 2]))
    offset, extremes = data.draw(st.sampled_from([0.0, 300.0])), data.draw(st.booleans())
    f64 = {"dtype": torch.float64}
    states = [
        (
            torch.zeros(groups, d), torch.zeros(groups, **f64), torch.zeros(groups, d, **f64),
            torch.zeros(groups, **f64), torch.zeros(buckets, d, d, **f64) if buckets else None,
        )
        for _ in range(2)
    ]  # fmt: skip
    units = [
        (torch.zeros(d, **f64), torch.full((d,), torch.inf, **f64), torch.full((d,), -torch.inf, **f64))[
            : 3 if extremes else 1
        ]
        for _ in range(2)
    ]
    sums = [(torch.zeros(2, **f64), torch.zeros(d, **f64), torch.zeros(d, **f64)) for _ in range(2)]
    for _ in range(2):
        rows = (torch.randn(n, 2 * d) + offset).to(dtype)[:, ::2]
        ids, keep = torch.randint(-1, groups, (n,)), torch.rand(n) > 0.2
        labelled = max(groups - 1, 0) if buckets == 2 else groups
        for state, scatter in zip(states, (ops.scatter_, reference.scatter_), strict=True):
            scatter(rows, ids, *state, labelled)
        for unit, stats in zip(units, (ops.unit_stats_, reference.unit_stats_), strict=True):
            stats(rows, keep, *unit)
        for total, add in zip(sums, (ops.direction_sums_, reference.direction_sums_), strict=True):
            add(rows, keep, *total)
    for ours, theirs in zip(states[0], states[1], strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-10)
    for ours, theirs in zip((*units[0], *sums[0]), (*units[1], *sums[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@needs_kernels
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_reservoir_slots_are_those_of_the_reference(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 300))
    n, high = data.draw(st.integers(0, capacity)), data.draw(st.sampled_from([5, 400, 2**62]))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    priorities, offered = torch.randint(0, high, (capacity,)), torch.randint(0, high, (n,))
    for x in (priorities, offered):
        x[torch.rand(len(x)) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))] = reference.EMPTY_PRIORITY
    for ours, theirs in zip(
        ops.reservoir_slots(priorities, offered), reference.reservoir_slots(priorities, offered), strict=True
    ):
        assert torch.equal(ours, theirs)


@needs_kernels
def test_results_are_the_same_bits_every_time_and_with_any_number_of_threads() -> None:
    x, before = torch.relu(torch.randn(1500, 40)), torch.get_num_threads()
    groups, voters = torch.arange(1500), torch.ones(1500, dtype=torch.bool)
    ids = torch.arange(1500) % 7
    results = []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            f64 = {"dtype": torch.float64}
            state = (
                torch.zeros(7, 40), torch.zeros(7, **f64), torch.zeros(7, 40, **f64), torch.zeros(7, **f64),
                torch.zeros(1, 40, 40, **f64),
            )  # fmt: skip
            ops.scatter_(x, ids, *state, 7)
            results.append([*ops.self_neighbors(x, 9, groups, voters, 60, 2.0), *ops.knn(x[:99], x, 9), *state])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernels
def test_more_than_2_to_the_31_products() -> None:
    n = 47_000  # n² > 2³¹
    x = torch.randperm(n)[:, None].float()
    distances, indices = ops.knn(x, x, 1, exclude_self=True)
    assert torch.equal(distances, torch.ones(n, 1, dtype=torch.float64))
    assert torch.equal((x[indices.squeeze(1)] - x).abs(), torch.ones(n, 1))


@needs_kernels
def test_a_group_out_of_range_is_refused_before_anything_is_written() -> None:
    state = [torch.zeros(2, 3), *(torch.zeros(s, dtype=torch.float64) for s in ((2,), (2, 3), (2,)))]
    with pytest.raises(RuntimeError, match="group 5 of row 1, but there are 2"):
        ops.scatter_(torch.ones(2, 3), torch.tensor([0, 5]), *state, None, 2)
    assert all(not s.any() for s in state)


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
    stale.write_bytes(f"not a library featgeo-sources-{build.fingerprint('cpu')}".encode())
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
def test_a_process_that_runs_a_library_survives_its_rebuilding(tmp_path) -> None:
    first = build.build("cpu", tmp_path, lambda _: None)
    with first.open("rb") as held:
        before = first.stat().st_ino
        assert (
            build.build("cpu", tmp_path, lambda _: None).stat().st_ino != before
        )  # another file: the old one is intact
        assert held.read(4) == b"\x7fELF"
    assert [p.name for p in tmp_path.iterdir()] == ["_cpu.so"]


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
