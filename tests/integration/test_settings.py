"""Settings that are wrong: an error before anything is trained, a warning and a gap once it has begun."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_featgeo import (
    ConfigurationError,
    Display,
    FeatureGeometryMonitor,
    FeatureGeometryWarning,
    Neighbors,
    Windows,
)
from lightning_featgeo.adapters import FeatureWatch
from tests._helpers.models import Classifier, loaders, strict, trainer


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"layer": "net.9"}, "no module 'net.9'"),
        ({"head": "nett"}, "Did you mean 'net'"),
        ({"head": "net.*"}, "fits 4 modules"),
        ({"signals": ["effective_rnk"]}, "Did you mean 'effective_rank'"),
        ({"stages": ("valid",)}, "Did you mean 'val'"),
        ({"stages": ()}, "stages is empty"),
        ({"pool": "avg"}, "use one of mean"),
        ({"layer": "net", "features": "h"}, "not both"),
        ({"windows": Windows(every_n_train_steps=5)}, 'add "train" to stages'),
        ({"views": 0}, "at least one view"),
        ({"labels": 7}, "the batch has 2 parts, from 0 to 1.*Paste: labels=1"),
        ({"signals": ["nc1"], "labels": None}, "nc1 needs class labels"),
        ({"signals": ["nc1"], "layer": "net.1"}, "give num_classes"),
    ],
)
def test_wrong_settings_are_an_error_at_fits_start_or_first_batch(kwargs: dict, says: str) -> None:
    model = Classifier()
    with pytest.raises(ConfigurationError, match=says):
        trainer(FeatureGeometryMonitor(**kwargs)).fit(model, *loaders())


def test_two_names_for_one_curve_are_refused() -> None:
    for monitors in ([strict(layer="net.0"), strict(layer="net.1")], [strict(loader_names=("a", "b")), strict()]):
        if monitors[0].settings.loader_names:
            with pytest.raises(ConfigurationError, match="would both be logged as 'a'"):
                strict(loader_names=("A", "a"))
            continue
        with pytest.raises(ConfigurationError, match="two FeatureGeometryMonitors would both log"):
            trainer(*monitors).fit(Classifier(), *loaders())
    a, b = strict(stages="val", signals=["feature_std"]), strict(stages="train", signals=["feature_std"])
    watching = pl.callbacks.EarlyStopping("featgeo/train/feature_std", mode="max")
    trainer(a, b, watching, max_epochs=1).fit(Classifier(), *loaders())
    assert (len(a.history), len(b.history)) == (1, 1)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"neighbors": {"k": 1}}, "k must be at least 2"),
        ({"neighbors": {"bank_size": 1}}, "bank_size"),
        ({"num_classes": 0}, "num_classes"),
        ({"views": "bv"}, 'use "auto", a number, "v b"'),
    ],
)
def test_wrong_numbers_are_refused_when_the_monitor_is_built(kwargs: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        FeatureGeometryMonitor(**{n: Neighbors(**v) if n == "neighbors" else v for n, v in kwargs.items()})


def test_an_argument_that_there_is_not_is_named_with_its_neighbours() -> None:
    with pytest.raises(TypeError, match=r"FeatureGeometryMonitor has no argument 'token'. Did you mean 'tokens'"):
        FeatureGeometryMonitor(token=1)
    with pytest.raises(TypeError, match="FeatureWatch has no argument 'stages'"):
        FeatureWatch(torch.nn.Linear(2, 2), stages=("val",))


def test_a_wrong_selector_is_an_error_in_the_sanity_check_and_a_gap_once_training_has_begun() -> None:
    for kwargs in ({"labels": "nope"}, {"signals": ["nc1"], "labels": None}):
        model = Classifier()
        with pytest.raises(ConfigurationError):
            trainer(FeatureGeometryMonitor(windows=Windows(every_n_epochs=3), **kwargs)).fit(model, *loaders())
        late = FeatureGeometryMonitor(**kwargs)
        run = trainer(late, num_sanity_val_steps=0)
        with pytest.warns(FeatureGeometryWarning, match="Training goes on|has no value"):
            run.fit(Classifier(), *loaders())
        assert run.current_epoch == 2
        assert all(r.gaps for r in late.history)


def test_a_signal_that_cannot_be_had_is_found_late_and_costs_no_other() -> None:
    late = FeatureGeometryMonitor(layer=["net.0", "net.1"], signals=["nc1", "feature_std"])
    with pytest.warns(FeatureGeometryWarning, match="nc1 has no value: needs the number of classes"):
        trainer(late, max_epochs=1, num_sanity_val_steps=0).fit(Classifier(), *loaders())
    for record in late.history:
        assert set(record.values) == {"feature_std", "n_samples"}
        assert set(record.gaps) == {"nc1"}
    early = FeatureGeometryMonitor(layer=["net.0", "net.1"], signals=["nc1", "feature_std"])
    with pytest.raises(ConfigurationError, match="nc1 needs the number of classes"):
        trainer(early, max_epochs=1).fit(Classifier(), *loaders())


@pytest.mark.parametrize("sanity", [0, 2])
def test_what_cannot_be_shown_is_an_error_before_anything_is_trained(sanity: int) -> None:
    for settings, said in (
        ({"embedding_rows": 2000}, "embedding_rows=2000: a whole number from 0 to 1,000"),
        ({"matrix_classes": 1}, "matrix_classes=1: a whole number from 2 to 100"),
        ({"class_names": "cat"}, "class_names is one string"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            FeatureGeometryMonitor(display=Display(**settings))
    for settings, said in (
        ({"class_names": ["a", "b"]}, "class_names= has 2 names, and there are 10 classes"),
        ({"id_key": "path"}, "id_key='path': the batch has 2 parts"),
    ):
        for head in ("net.3", None):
            if sanity == 0 and "id_key" in settings:
                continue  # nobody has seen a validation batch: see below
            run = trainer(FeatureGeometryMonitor(head=head, display=Display(**settings)), num_sanity_val_steps=sanity)
            with pytest.raises(ConfigurationError, match=said):
                run.fit(Classifier(), *loaders())
            assert run.global_step == 0


def test_ids_that_go_wrong_later_cost_no_curve() -> None:
    def late(batch: Any) -> Any:
        return ["x"] * len(batch[0]) if len(batch[0]) == 64 else ["x"]

    monitor = FeatureGeometryMonitor(display=Display(id_key=late))
    with pytest.warns(FeatureGeometryWarning, match="Samples of this window have no ids"):
        trainer(monitor, max_epochs=2).fit(Classifier(), *loaders())
    assert all(len(record.values) == 9 for record in monitor.history)


def test_ids_and_names_that_nobody_could_check_cost_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = FeatureGeometryMonitor(display=Display(id_key="path"))
    with pytest.warns(FeatureGeometryWarning, match="id_key='path': the batch has 2 parts"):
        trainer(monitor, max_epochs=2, num_sanity_val_steps=0).fit(Classifier(), *loaders())
    assert all(len(record.values) == 9 for record in monitor.history)
    monitor = FeatureGeometryMonitor(layer="net.1", signals=["nc1"], display=Display(class_names=["a"]), num_classes=10)
    # as if nobody had known how many there are
    monkeypatch.setattr(Display, "check_class_names", lambda self, classes: None)
    run = trainer(monitor, logger=TensorBoardLogger(tmp_path))
    with pytest.warns(FeatureGeometryWarning, match="has 1 names, and there are 10 classes: their numbers"):
        run.fit(Classifier(), *loaders())
    assert all("nc1" in record.values for record in monitor.history)
