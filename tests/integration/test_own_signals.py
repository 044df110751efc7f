"""A measure of one's own as a signal: in runs, under several processes, from YAML and from other packages."""

import copy
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, GeometryEarlyStopping, GeometryMetric
from lightning_featgeo.alarms import Threshold
from lightning_featgeo.metrics import CATALOG
from lightning_featgeo.metrics.catalog import resolve
from tests._helpers.interrupted import interrupted
from tests._helpers.models import Classifier, loaders, strict, trainer
from tests._helpers.own_signals import broken, mean_norm
from tests._helpers.processes import on_ranks
from tests._helpers.typed import unchecked

pytestmark = pytest.mark.usefixtures("own_catalogue")


def test_it_changes_neither_other_signals_nor_the_training() -> None:
    def wild(prdc: dict[str, Tensor], with_previous: Any) -> float:
        for value in prdc.values():
            value.zero_()
        with_previous.now.zero_()
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 - a user's code draws so
        return 1.0

    x = torch.randn(200, 4)
    others = ["fidelity_precision", "cka_drift", "anchor_drift"]
    found = []
    for asked in (others, [wild, *others]):
        metric, reference = GeometryMetric(asked), GeometryMetric(asked)
        reference.update(x + 0.1)
        for shift in (0.0, 0.5):
            metric.reset()
            metric.update(x + shift * x.flip(0))
            before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 - as above
            with unchecked():  # beartype draws which items of a container it looks at
                values = metric.window(reference=reference).values
            after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 - as above
            assert torch.equal(before[0], after[0])
            assert before[1:] == after[1:]
        found.append({name: values[name] for name in others})
    assert values["wild"] == 1
    assert found[0] == found[1]


def test_settings_take_it_along_when_they_are_copied_or_sent() -> None:
    monitor = FeatureGeometryMonitor(signals=["feature_std", mean_norm])
    assert copy.deepcopy(monitor).settings.signals == ["feature_std", "mean_norm"]
    sent = pickle.dumps(monitor.settings)
    del CATALOG["mean_norm"]
    assert pickle.loads(sent).asked == ("feature_std", "mean_norm")
    assert CATALOG["mean_norm"].function is mean_norm


def test_a_run_logs_it_resumes_with_it_and_stops_on_it(tmp_path: Path) -> None:
    monitor = strict(signals=["feature_std", mean_norm], stages=("train", "val"))
    stopper = GeometryEarlyStopping("featgeo/val/mean_norm", rule=Threshold(above=0.1), patience=1)
    run = trainer(monitor, stopper, max_epochs=3, default_root_dir=tmp_path)
    run.fit(Classifier(), *loaders())
    assert run.current_epoch < 3
    assert [event["kind"] for event in monitor.history.events] == ["stop"]
    assert "featgeo/val/mean_norm" in run.callback_metrics
    settings = {"signals": ["effective_rank", mean_norm]}
    goes_on = interrupted(tmp_path / "interrupted", stateful=False, step=5, settings=settings)
    assert all("mean_norm" in record.values for record in goes_on.history)
    # plain strings, whoever defined them
    last = max((tmp_path / "interrupted").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    state = torch.load(last, weights_only=True)
    assert "mean_norm" in str(state["callbacks"])


def _on_ranks(size: int) -> tuple[dict[str, float], dict[str, str]]:
    rank = 0
    if size > 1:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
    metric = GeometryMetric(["effective_rank", mean_norm, broken])
    x = torch.randn(240, 5, generator=torch.Generator().manual_seed(0))
    index = torch.arange(len(x))[rank::size]
    metric.update(x[index], sample_index=index)
    found = metric.window()
    return dict(found.values), {name: str(gap) for name, gap in found.gaps.items()}


def test_processes_agree_on_it() -> None:
    alone, both = _on_ranks(1), on_ranks(2, _on_ranks, 2)
    assert both[0] == both[1]
    assert both[0][0] == pytest.approx(alone[0], rel=1e-9)
    assert "nothing there" in both[0][1]["broken"]


def test_lightning_cli_builds_it_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "measures_in_a_file.py").write_text("def widest(variances):\n    return variances.max()\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(FeatureGeometryMonitor, "monitor")
    for given, asked in (
        ('["effective_rank", "measures_in_a_file:widest"]', ("effective_rank", "widest")),
        ("measures_in_a_file:widest", ("widest",)),
        ("spectrum", resolve("spectrum")),
    ):
        built = parser.instantiate_classes(parser.parse_args([f"--monitor.signals={given}"]))
        assert built.monitor.settings.asked == asked


def test_from_yaml_and_from_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "other_package-1.0.dist-info"
    package.mkdir()
    (tmp_path / "other_measures.py").write_text(
        "def widest(variances):\n    return variances.max()\n\ndef wrongly_named(rows):\n    return 1.0\n"
    )
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[lightning_featgeo.signals]\nwidest = other_measures:widest\nwrong = other_measures:wrongly_named\n"
        "missing = other_measures:missing\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for signals in (["widest"], "other_measures:widest", ["other_measures:widest", "feature_std"]):
        metric = GeometryMetric(signals)
        metric.update(torch.randn(50, 3))
        assert "widest" in metric.compute()
        del CATALOG["widest"]
    with pytest.raises(ConfigurationError, match="is called 'wrongly_named', its entry point 'wrong'"):
        GeometryMetric(["wrong"])
    with pytest.raises(ConfigurationError, match="can't be imported"):
        GeometryMetric(["missing"])
    with pytest.raises(ConfigurationError, match="Did you mean 'widest'"):
        GeometryMetric(["wides"])
