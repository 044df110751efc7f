"""What is said of windows that take much of a run's time: once, and with what makes it less."""

import pytest
import torch

from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.watch import price
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.price import Price
from lightning_featgeo.watch.watched_layer import WatchedLayer
from lightning_featgeo.watch.window import Window


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(price.time, "perf_counter", lambda: now[0])
    return now


def window(stage: str, streaming: float, every: int = 1) -> Window:
    metric = GeometryMetric(["id_two_nn"])
    metric.update(torch.randn(30, 3))
    made = Window(WindowPlan(stage, stage, every_n_batches=every))
    made.layers = [WatchedLayer(None, "net", RowAssembler(None), metric)]
    made.seconds = streaming
    return made


@pytest.mark.parametrize("spare", [0, 1])
def test_said_once_of_the_second_window_and_with_what_makes_it_less(
    clock: list[float], spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price, "spare_processors", lambda: spare)
    looks, val = Price(), window("val", 0.5)
    assert looks.look([val], 9.0) is None  # the first one sets things up
    clock[0] = 20.0
    told = looks.look([val], 8.0)
    assert told is not None
    assert "closing windows of val takes most of 8.0 s, 40% of the time" in told
    assert "bank_size=1024" in told
    assert ('windows=Windows(close="background")' in told) == bool(spare)
    assert "every_n_batches" not in told
    clock[0] = 40.0
    assert looks.look([val], 8.0) is None


def test_streaming_training_rows_is_told_apart(clock: list[float]) -> None:
    looks, train = Price(), window("train", 5.0, every=2)
    looks.look([train], 6.0)
    clock[0] = 20.0
    told = looks.look([train], 6.0)
    assert told is not None
    assert "streaming rows of train" in told
    assert "windows=Windows(every_n_batches=16) watches fewer batches" in told
    assert "bank_size" not in told


@pytest.mark.parametrize(("seconds", "between"), [(1.9, 2.0), (2.5, 11.0)])
def test_what_nobody_waits_for_is_not_said(clock: list[float], seconds: float, between: float) -> None:
    looks, val = Price(), window("val", 0.1)
    looks.look([val], 9.0)
    clock[0] = between
    assert looks.look([val], seconds) is None
    assert looks.look([], 9.0) is None
