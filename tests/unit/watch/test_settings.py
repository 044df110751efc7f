"""Arguments are declared once: signature, types, documentation and checks follow from the dataclasses."""

import inspect
from collections.abc import Callable

import jsonargparse
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_featgeo import ConfigurationError, Display, FeatureGeometryMonitor, Neighbors, Tokens, Windows
from lightning_featgeo.adapters import FeatureWatch
from lightning_featgeo.adapters.fabric import FabricGeometry
from lightning_featgeo.adapters.huggingface import GeometryCallback
from lightning_featgeo.callbacks.settings import MonitorSettings
from lightning_featgeo.watch.settings import WatchSettings

MOST = 22  # arguments of the monitor


def test_the_monitor_takes_its_settings_and_few_of_them() -> None:
    parameters = list(inspect.signature(FeatureGeometryMonitor).parameters)
    assert parameters == list(MonitorSettings.__dataclass_fields__)
    assert len(parameters) <= MOST
    annotation = inspect.signature(FeatureGeometryMonitor).parameters["display"].annotation
    assert annotation is Display


@pytest.mark.parametrize(
    ("adapter", "own"),
    [
        (FeatureWatch, ["model", "process_group", "history_path", "embedding_rows"]),
        (FabricGeometry, ["fabric", "model", "process_group", "history_path", "embedding_rows"]),
        (GeometryCallback, ["trainer", "train_steps", "process_group", "history_path", "embedding_rows"]),
    ],
)
def test_adapters_take_the_same_ones(adapter: Callable[..., object], own: list[str]) -> None:
    assert list(inspect.signature(adapter).parameters) == [*own, *WatchSettings.__dataclass_fields__]


@pytest.mark.parametrize("cls", [FeatureGeometryMonitor, FeatureWatch, FabricGeometry, GeometryCallback])
def test_every_argument_is_documented_where_help_looks(cls: type) -> None:
    text = inspect.getdoc(cls) or ""
    _, _, arguments = text.partition("Args:\n")
    for name in inspect.signature(cls).parameters:
        assert f"    {name}:" in arguments or f", {name}:" in arguments or f"    {name}, " in arguments, name
    assert text.count("Args:") == 1


def test_groups_are_built_from_yaml() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    given = {
        "class_path": "lightning_featgeo.FeatureGeometryMonitor",
        "init_args": {
            "layer": "net",
            "stages": ["train", "val"],
            "display": {"headline": "nc1", "class_names": ["a", "b"]},
            "neighbors": {"k": 7, "bank_size": 100},
            "tokens": {"skip": 1},
            "windows": {"every_n_epochs": 2},
        },
    }
    (monitor,) = parser.instantiate(parser.parse_object({"callbacks": [given]})).callbacks
    assert monitor.settings.display == Display(headline="nc1", class_names=["a", "b"])
    assert monitor.settings.neighbors == Neighbors(k=7, bank_size=100)
    assert monitor.settings.tokens == Tokens(skip=1)
    assert monitor.settings.windows == Windows(every_n_epochs=2)
    assert (monitor.settings.layer, monitor.settings.stages) == ("net", ("train", "val"))


def test_positional_arguments_and_defaults_are_those_of_the_declaration() -> None:
    assert FeatureGeometryMonitor("net", None, ["nc1"]).settings == MonitorSettings(layer="net", signals=["nc1"])
    watch = FeatureWatch(torch.nn.Sequential(torch.nn.Linear(4, 2)), layer="0", neighbors=Neighbors(seed=3))
    assert watch.settings == WatchSettings(layer="0", neighbors=Neighbors(seed=3))
    watch.remove()


def test_windows_come_after_at_least_one_of_each() -> None:
    for wrong in ({"every_n_epochs": 0}, {"every_n_train_steps": 0}, {"every_n_batches": -1}):
        with pytest.raises(ConfigurationError, match="must be at least 1"):
            Windows(**wrong)
    with pytest.raises(ConfigurationError, match="every_n_epochs=True: a whole number"):
        Windows(every_n_epochs=True)
