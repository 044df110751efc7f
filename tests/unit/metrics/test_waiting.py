"""Rows that wait to be added together: the same numbers, and nobody can tell that they waited."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_featgeo import GeometryMetric
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.rows.waiting import PlainRows, Waiting, size_of
from tests._helpers.data import digits_features

LABELS = frozenset({"labels"})
SIGNALS = ["effective_rank", "feature_std", "id_two_nn", "nc1", "knn_accuracy", "dead_fraction"]


def metric(waiting_bytes: int = 2**20) -> GeometryMetric:
    return GeometryMetric(SIGNALS, num_classes=10, policy=Policy(waiting_bytes=waiting_bytes))


def fed(waiting_bytes: int, batch: int = 16) -> GeometryMetric:
    x, y = digits_features()
    made = metric(waiting_bytes)
    for start in range(0, len(x), batch):
        made.update(x[start : start + batch], y[start : start + batch])
    return made


def test_the_same_numbers_whether_rows_wait_or_not() -> None:
    at_once, waited = fed(0).window(), fed(2**20).window()
    assert at_once.counts == waited.counts
    for name, value in at_once.values.items():
        assert waited.values[name] == pytest.approx(value, rel=1e-10), name


def test_rows_that_are_written_over_later_were_copied() -> None:
    x, y = digits_features()
    buffer, labels, made = torch.empty(16, x.shape[1]), torch.empty(16, dtype=torch.int64), metric()
    for start in range(0, 1600, 16):
        buffer.copy_(x[start : start + 16])
        labels.copy_(y[start : start + 16])
        made.update(buffer, labels)
    whole = metric()
    whole.update(x[:1600], y[:1600])
    assert made.window().values == pytest.approx(whole.window().values, rel=1e-10)


def test_a_checkpoint_a_copy_and_a_merge_hold_what_waits() -> None:
    x, y = digits_features()
    wanted = fed(0).window().values
    for how in ("checkpoint", "copy", "merge", "pickle"):
        made = metric()
        for start in range(0, 800, 16):
            made.update(x[start : start + 16], y[start : start + 16], torch.arange(start, start + 16))
        if how == "checkpoint":
            other = metric()
            other.merge_state(made.checkpoint())
        elif how == "copy":
            other = copy.deepcopy(made)
        elif how == "pickle":
            file = io.BytesIO()
            torch.save(made, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        else:
            other = metric()
            other.update(x[:16], y[:16], torch.arange(16))
            other.reset()
            other.merge_state(made)
        for start in range(800, len(x), 16):
            part = x[start : start + 16]
            other.update(part, y[start : start + 16], torch.arange(start, start + len(part)))
        assert other.window().values == pytest.approx(wanted, rel=1e-9), how


def test_labels_of_any_whole_type_give_the_same_rows() -> None:
    x, y = digits_features()
    y = torch.where(torch.arange(len(y)) % 7 == 0, -100, y)  # nobody's class
    windows = []
    for kind in (torch.int64, torch.int32):  # batches of one type wait as they are, others are looked at
        made = metric()
        for start in range(0, len(x), 16):
            made.update(x[start : start + 16], y[start : start + 16].to(kind))
        windows.append(made.window())
    assert windows[0].counts == windows[1].counts
    assert windows[0].values == pytest.approx(windows[1].values, rel=1e-10)


def test_more_may_wait_on_a_gpu() -> None:
    with FakeTensorMode():
        x = torch.empty(512, 512, device="cuda")
        rows = PlainRows(x, None, -1, 0, 1, 0)
    assert size_of(rows) == 512 * (4 * 512 + 48)
    assert not Waiting(2**20).has_room_for(replace(rows, features=torch.empty(512, 512)))
    assert Waiting(2**20).has_room_for(rows)
    assert not Waiting(2**20).has_room_for(rows, beside=15 * 2**20)


def test_what_waits_is_forgotten_with_the_rest() -> None:
    x, y = digits_features()
    made = metric()
    for start in range(0, 64, 16):
        made.update(x[start : start + 16], y[start : start + 16])
    made.reset()
    assert made.window().values == {"n_samples": 0.0}


def test_memory_counts_what_may_wait() -> None:
    assert fed(2**20).memory_bytes - fed(0).memory_bytes == 2**20


def test_a_failure_while_they_are_added_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits_features()
    made = metric()
    for start in range(0, 64, 16):
        made.update(x[start : start + 16], y[start : start + 16])

    def fails(rows: object) -> None:
        raise RuntimeError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(made, "_accumulate", fails)
        with pytest.raises(RuntimeError, match="no memory"):
            made.window(ranks=Ranks.alone())
    with pytest.raises(RuntimeError, match="reset"):  # rows are missing: it does not go on as if nothing was
        made.window()
    other = metric()
    other.merge_state(made.checkpoint())
    with pytest.raises(RuntimeError, match="reset"):  # nor does whoever goes on from it
        other.window()
    made.reset()
    made.update(x[:64], y[:64])
    assert made.window().values["n_samples"] == 64


def test_views_keep_nothing_else_alive() -> None:
    made = metric()
    for start in range(0, 160, 16):
        tokens = torch.randn(16, 500, 64)
        made.update_rows(PlainRows(tokens[:, 0], torch.arange(16 * 500).view(16, 500)[:, 1], -100, start, 1, 0), LABELS)
    assert len(made._waiting.batches) == 9
    for rows in made._waiting.batches:
        for column in (rows.features, rows.label):
            assert column.untyped_storage().nbytes() == column.numel() * column.element_size()


def test_tiny_batches_do_not_pile_up() -> None:
    made = GeometryMetric(["feature_std"])
    longest = 0
    for _ in range(1000):
        made.update(torch.randn(1, 2))
        longest = max(longest, len(made._waiting.batches))
        assert made._waiting.held == sum(map(size_of, made._waiting.batches))
    assert longest == 256
    assert made.window().counts["seen"] == 1000


def test_the_bank_and_a_reference_have_all_rows() -> None:
    x, _ = digits_features()
    signals = ["frechet_distance", "knn_ood_auroc"]
    reference, made = GeometryMetric(signals, has_reference=True), GeometryMetric(signals, has_reference=True)
    for start in range(0, 900, 30):
        reference.update(x[start : start + 30])
        made.update(x[start + 800 : start + 830] + 0.1)
    assert made._waiting.batches
    assert made.bank is not None
    assert len(made.bank.compute().rows) == 900
    whole, other = GeometryMetric(signals, has_reference=True), GeometryMetric(signals, has_reference=True)
    whole.update(x[:900])
    other.update(x[800:1700] + 0.1)
    assert made.window(reference).values == pytest.approx(other.window(whole).values, rel=1e-9)


def test_a_reference_that_lost_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = digits_features()
    reference, made = (GeometryMetric(["frechet_distance"], has_reference=True) for _ in range(2))
    for start in range(0, 90, 30):
        reference.update(x[start : start + 30])
        made.update(x[start : start + 30])
    monkeypatch.setattr(reference, "_accumulate", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reference.catch_up()
    with pytest.raises(RuntimeError, match="rows were lost"):
        made.window(reference)
