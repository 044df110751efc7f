"""Every op through torch: schemas, graphs, devices, bad input, and what the smaller ones compute."""

import pytest
import torch

from lightning_featgeo.cuda_ext import backend_info, library, ops
from lightning_featgeo.cuda_ext.ops import (
    hash_priority,
    reservoir_slots,
    unit_stats_,
)
from lightning_featgeo.cuda_ext.reference import EMPTY_PRIORITY
from lightning_featgeo.cuda_ext.schemas import NAMESPACE, SCHEMAS
from tests._helpers.typed import unchecked
from tests.ops.test_compiled import needs_kernels


def arguments(name: str) -> tuple:
    x, keep = torch.randn(12, 5), torch.ones(12, dtype=torch.bool)
    groups, ids = torch.arange(12) % 4, torch.arange(12, dtype=torch.int32)
    f64 = {"dtype": torch.float64}
    tile = x @ x.T, x.square().sum(1), x.square().sum(1), ids, ids
    return {
        "group_sums_": (
            x, groups, torch.zeros(4, 5), torch.zeros(4, **f64), torch.zeros(4, 5, **f64), torch.zeros(4, **f64),
            torch.zeros(2, 5, 5, **f64), 3,
        ),
        "place_": (torch.zeros(8, 5), x, torch.tensor([3, 1]), torch.tensor([0, 11]), torch.tensor([True, False])),
        "frame": (x, x[:3] + 1, 512),
        "best": (x, None, ids, None, torch.zeros(5, **f64), 0.125, 4, 1, 2.0, True),
        "prepare": (x, torch.zeros(5, **f64), 0.125, 0),
        "kernel_sums_": (*tile, -2.0, torch.zeros(12, **f64), torch.zeros(12, **f64)),
        "prove": (
            x, x, torch.rand(12, 4).sort().values, torch.arange(48).reshape(12, 4) % 12, torch.full((12,), torch.inf),
            torch.ones(12, **f64), torch.tensor(1e-7, **f64), 0.125, 3, 1,
        ),
        "hash_priority": (torch.arange(9), 3),
        "reservoir_slots": (torch.randint(0, 99, (8,)), torch.randint(0, 99, (4,))),
        "scatter_": (
            x, groups, torch.zeros(4, 5), torch.zeros(4, **f64), torch.zeros(4, 5, **f64), torch.zeros(4, **f64),
            torch.zeros(2, 5, 5, **f64), 3,
        ),
        "direction_sums_": (x, keep, torch.zeros(2, **f64), torch.zeros(5, **f64), torch.zeros(5, **f64)),
        "unit_stats_": (
            x, keep, torch.zeros(5, **f64), torch.full((5,), torch.inf, **f64), torch.full((5,), -torch.inf, **f64)
        ),
        "knn": (x, x, 3, groups, groups, True, 2.0),
        "self_neighbors": (x, 3, groups, keep, 4, 2.0),
        "scan": (x, None, torch.arange(12, dtype=torch.int32), None, torch.zeros(5, **f64), 0.125, 3, True, 1, 2.0),
        "candidates": (x, torch.arange(12, dtype=torch.int32), torch.zeros(5, **f64), 0.125, 4, 1, 2.0, 1, 2),
        "settle": (
            x, 3, torch.rand(2, 4), torch.arange(8, dtype=torch.int32).reshape(2, 4), torch.full((2,), torch.inf),
            torch.ones(13, **f64), torch.zeros(5, **f64), 0.125, 3, True, 1,
        ),
        "select_": (*tile, 0, torch.full((12, 4), torch.inf), torch.full((12, 4), -1)),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_op_passes_opcheck(name: str) -> None:
    # autograd registration is not tested: no op is differentiable, and all take detached tensors
    torch.library.opcheck(
        getattr(torch.ops, NAMESPACE).__getattr__(name).default,
        arguments(name),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_ops_are_part_of_a_graph_that_is_compiled_as_a_whole() -> None:
    native = getattr(torch.ops, NAMESPACE)

    def stream(x: torch.Tensor, ids: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
        native.scatter_(x, ids, *state, 4)
        return native.knn(x, x, 3, None, None, True, 0.0)[0] + 1

    x, ids = torch.randn(12, 5), torch.arange(12) % 4
    states = [list(arguments("scatter_")[2:7]) for _ in range(2)]
    found = torch.compile(stream, backend="aot_eager", fullgraph=True)(x, ids, states[0])
    torch.testing.assert_close(found, stream(x, ids, states[1]))
    for ours, theirs in zip(*states, strict=True):
        assert torch.equal(ours, theirs)


def test_backend_info_says_what_runs() -> None:
    info = backend_info()
    assert info["backend"] == ("compiled" if "cpu" in library.libraries else "reference")
    assert ("scan" in info["cpu"]) if "cpu" in library.libraries else info["cpu"].startswith("none: ")
    assert "knn" in info["ops"]


def test_hash_is_splitmix64_uniform_and_sensitive_to_the_seed() -> None:
    def reference(index: int, seed: int) -> int:
        mask = 2**64 - 1
        z = (index * 0x9E3779B97F4A7C15 + seed) & mask
        for _ in range(2):
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            z ^= z >> 31
        return z >> 2

    index = torch.arange(-50, 5000)
    assert hash_priority(index, 7).tolist() == [reference(i, 7) for i in index.tolist()]
    share = hash_priority(torch.arange(100_000), 1).double() / 2**62
    assert abs(float(share.mean()) - 0.5) < 0.005
    assert abs(float(((share[1:] - 0.5) * (share[:-1] - 0.5)).mean())) < 0.001
    assert not torch.equal(hash_priority(index, 1), hash_priority(index, 2))


def test_reservoir_slots_keep_the_smallest() -> None:
    priorities = torch.full((10,), EMPTY_PRIORITY)
    offered = torch.randint(0, 1000, (64,))
    for part in offered.split(7):
        slots, sources, accepted = reservoir_slots(priorities, part)
        assert slots.unique().numel() == len(slots)
        priorities[slots[accepted]] = part[sources[accepted]]
    assert priorities.sort().values.tolist() == offered.sort().values[:10].tolist()


@pytest.mark.cuda
@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_op_gives_the_same_on_cuda(name: str) -> None:
    torch.manual_seed(0)
    args = arguments(name)
    on_device = [a.cuda() if isinstance(a, torch.Tensor) else a for a in args]
    library.load_for(on_device[0])  # typed entries do that themselves
    op = getattr(torch.ops, NAMESPACE).__getattr__(name)
    results, on_cpu = op(*on_device), op(*args)
    for a, b in zip(
        [*on_device, *(results or ())] if not isinstance(results, torch.Tensor) else [results],
        [*args, *(on_cpu or ())] if not isinstance(on_cpu, torch.Tensor) else [on_cpu],
        strict=True,
    ):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-9)


def test_unit_minima_and_maxima_are_given_together_or_not_at_all() -> None:
    x, keep, active = torch.randn(12, 5), torch.ones(12, dtype=torch.bool), torch.zeros(5, dtype=torch.float64)
    unit_stats_(x, keep, active)
    assert torch.equal(active, (x > 0).sum(dim=0).double())
    with pytest.raises(ValueError, match="both minimum and maximum, or neither"):
        unit_stats_(x, keep, active, torch.zeros(5, dtype=torch.float64))


@needs_kernels
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_rows_without_numbers_count_and_add_nothing(rows: int) -> None:
    """Their scatter ended the process with a division by zero."""
    counts = torch.zeros(2, dtype=torch.float64)
    empty = torch.zeros(2, 0, dtype=torch.float64)
    groups = torch.arange(rows) % 3 - 1
    squares, scatter = counts.clone(), torch.zeros(1, 0, 0, dtype=torch.float64)
    ops.scatter_(torch.zeros(rows, 0), groups, torch.zeros(2, 0), counts, empty, squares, scatter, 2)
    assert counts.tolist() == [int((groups == g).sum()) for g in range(2)]
    ops.unit_stats_(torch.zeros(rows, 0), torch.ones(rows, dtype=torch.bool), torch.zeros(0, dtype=torch.float64))


@pytest.mark.parametrize("public", [True, False])
def test_tensors_on_different_devices_are_refused(public: bool) -> None:
    """Beside a tensor on meta, an op handed out memory that nobody had written, or did nothing."""
    here, meta = torch.ones(5, 3), torch.ones(4, 3, device="meta")
    raw = torch.ops.lightning_featgeo
    with unchecked(), pytest.raises(ValueError, match=r"cpu and meta|meta and cpu"):
        ops.knn(here, meta, 2) if public else raw.knn(here, meta, 2, None, None, False, 0.0)
    sums, zeros = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    arguments = meta, torch.zeros(4, dtype=torch.int64), torch.zeros(1, 3), zeros, sums, zeros.clone(), None, 1
    with unchecked(), pytest.raises(ValueError, match=r"cpu and meta|meta and cpu"):
        (ops.scatter_ if public else raw.scatter_)(*arguments)
    assert raw.knn(meta, meta, 2, None, None, True, 0.0)[0].device.type == "meta"


@needs_kernels
def test_numbers_that_overflow_are_out_of_range() -> None:
    rows, ids, centre = (
        torch.randn(64, 8),
        torch.full((64,), -1, dtype=torch.int32),
        torch.zeros(8, dtype=torch.float64),
    )
    raw = torch.ops.lightning_featgeo
    found = raw.candidates(rows, ids, centre, 1.0, 16, 1, 0.0, 0, 1)
    for first in (2**63 - 2, 1, -5):
        with pytest.raises(RuntimeError, match=f"64 rows from {first} of 64"):
            raw.settle(rows, first, found[0], found[1], found[2], found[5], centre, 1.0, 4, True, 1)
    with pytest.raises(RuntimeError, match="part 4611686018427387904 of 9223372036854775807"):
        raw.candidates(rows, ids, centre, 1.0, 16, 1, 0.0, 2**62, 2**63 - 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 3, 6, 7])
@pytest.mark.parametrize("grouped", [False, True])
def test_copies_of_narrow_half_precision_rows(dtype: torch.dtype, width: int, grouped: bool) -> None:
    few = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = few[torch.arange(200) % 4]
    groups = torch.arange(200) // 100 if grouped else None
    distances, indices = ops.knn(rows, rows, 2, exclude_self=True, query_groups=groups, reference_groups=groups)
    assert float(distances.max()) == 0
    assert bool((rows[indices[:, 0]] == rows).all())
