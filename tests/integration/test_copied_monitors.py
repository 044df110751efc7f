"""Libraries copy the callbacks that they are given, and run the copies."""

import copy
import pickle

from lightning_featgeo import FeatureGeometryMonitor
from tests._helpers.models import Classifier, loaders, strict, trainer


def run(monitor: FeatureGeometryMonitor, epochs: int = 1) -> None:
    trainer(monitor, max_epochs=epochs).fit(Classifier(), *loaders())


def test_the_monitor_that_the_user_holds_shows_what_its_copy_has_recorded() -> None:
    held = strict(signals=["effective_rank"])
    ran = copy.deepcopy(copy.deepcopy(held))  # as forecasters do: once for the model, once for the fit
    run(ran, 2)
    assert held.history.series("featgeo/val/effective_rank") == ran.history.series("featgeo/val/effective_rank")
    assert len(held.history) == 2
    assert held.history.path == ran.history.path
    assert "2 windows" in repr(held.history)


def test_of_several_copies_the_last_one_and_its_own_runs_before_all() -> None:
    held = strict(signals=["effective_rank"])
    first, second = copy.deepcopy(held), copy.deepcopy(held)
    run(first)
    run(second, 2)
    assert held.history.records == second.history.records
    assert len(first.history) == 1
    run(held, 3)
    assert len(held.history) == 3
    assert len(second.history) == 2
    run(second)
    assert len(held.history) == 3


def test_copies_and_pickles_of_a_monitor_that_has_run_keep_its_records() -> None:
    held = strict(signals=["effective_rank"])
    run(held)
    for again in (copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        assert again.history.series("featgeo/val/effective_rank") == held.history.series("featgeo/val/effective_rank")
