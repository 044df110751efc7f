"""Rows that wait to be added together: the same numbers, and nobody can tell that they waited."""

import copy
import io

import pytest
import torch

from lightning_featgeo import GeometryMetric
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.metrics.settings import Policy
from tests._helpers.data import digits_features

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
