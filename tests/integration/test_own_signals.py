"""A measure of one's own as a signal: in runs, under several processes, from YAML and from other packages."""

import copy
import functools
import pickle
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, GeometryEarlyStopping, GeometryMetric
from lightning_featgeo.alarms import Threshold
from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics import CATALOG, Estimate, Signal
from lightning_featgeo.metrics.catalog import SHIPPED, resolve
from tests._helpers.interrupted import interrupted
from tests._helpers.models import Classifier, loaders, strict, trainer
from tests._helpers.processes import on_ranks
from tests._helpers.typed import unchecked


@pytest.fixture(autouse=True)
def _a_catalogue_of_its_own() -> Iterator[None]:
    yield
    for name in set(CATALOG) - SHIPPED:
        del CATALOG[name]


def mean_norm(rows: Tensor) -> Tensor:
    return rows.norm(dim=1).mean()


def heaviest_class(class_counts: Tensor, class_means: Tensor, power: float = 2.0) -> float:
    return float(class_means[class_counts.argmax()].norm() ** power)


def broken(rows: Tensor) -> Tensor:
    raise KeyError("nothing there")


def test_a_function_is_a_signal_by_the_names_of_its_parameters() -> None:
    x, labels = torch.randn(300, 6), torch.arange(300) % 3
    metric = GeometryMetric(["effective_rank", mean_norm, heaviest_class], num_classes=3)
    metric.update(x, labels)
    found = metric.window()
    assert metric.signals == ("effective_rank", "mean_norm", "heaviest_class")
    assert found.values["mean_norm"] == pytest.approx(float(x.double().norm(dim=1).mean()), rel=1e-6)
    assert found.values["heaviest_class"] == pytest.approx(float(x[labels == 0].double().mean(dim=0).norm()) ** 2, 1e-5)
    alone = GeometryMetric(mean_norm)
    alone.update(x)
    assert set(alone.compute()) == {"mean_norm", "n_samples"}
    assert set(alone.accumulators) == {"bank"}  # nobody pays for what it does not take


def test_a_signal_with_a_direction_an_error_and_a_name() -> None:
    def ratio(variances: Tensor) -> Estimate:
        return Estimate(variances.max() / variances.min(), torch.tensor(0.5), 10)

    own = Signal("flatness", ratio, direction="lower", value_range="[1, ∞)", unit="1")
    metric = GeometryMetric([own, Signal("widest", lambda variances: variances.max())])
    metric.update(torch.randn(200, 4))
    found = metric.window()
    assert set(found.values) == {"flatness", "widest", "n_samples"}
    assert found.standard_errors == {"flatness": 0.5}
    assert CATALOG["flatness"].direction == "lower"


def test_what_fails_is_a_gap_that_says_where_and_costs_no_other_curve() -> None:
    def vector(mean: Tensor) -> Tensor:
        return mean

    def text(mean: Tensor) -> str:
        return "high"

    def infinite(mean: Tensor) -> float:
        return float("inf")

    def undefined(mean: Tensor) -> float:
        raise Undefined("it has no value here")

    metric = GeometryMetric(["effective_rank", broken, vector, text, infinite, undefined])
    metric.update(torch.randn(100, 4))
    found = metric.window()
    assert set(found.values) == {"effective_rank", "n_samples"}
    assert found.gaps["broken"].kind is GapKind.FAILED
    assert "KeyError: 'nothing there' (line " in found.gaps["broken"]
    assert f'of {Path(__file__).name}: raise KeyError("nothing there"))' in found.gaps["broken"]
    assert "vector returned a tensor of shape (4,); a signal is one number" in found.gaps["vector"]
    assert "text returned 'high'" in found.gaps["text"]
    assert "not finite" in found.gaps["infinite"]
    assert found.gaps["undefined"] == "it has no value here"
    assert found.gaps["undefined"].kind is GapKind.UNDEFINED


def test_it_may_write_into_what_it_takes() -> None:
    def wild(rows: Tensor, covariance: Tensor, mean: Tensor, earlier_neighbors: tuple[Tensor, Tensor]) -> float:
        for statistic in (rows, covariance, mean, *earlier_neighbors):
            statistic.zero_()
        return 1.0

    x = torch.randn(200, 5)
    plain = GeometryMetric(["id_mle", "effective_rank", "rankme", "neighbor_churn"])
    with_it = GeometryMetric([wild, "id_mle", "effective_rank", "rankme", "neighbor_churn"])
    for _ in range(3):
        for metric in (plain, with_it):
            metric.update(x)
        expected, found = plain.window().values, with_it.window().values
        assert {name: value for name, value in found.items() if name != "wild"} == expected
        plain.reset()
        with_it.reset()


def test_what_can_be_no_signal_is_refused_with_what_to_do() -> None:
    def misspelt(rowz: Tensor) -> Tensor:
        return rowz.sum()

    def effective_rank(rows: Tensor) -> Tensor:
        return rows.sum()

    def lone() -> float:
        return 1.0

    def behind_a_star(*, rows: Tensor) -> Tensor:
        return rows.sum()

    def CamelCase(rows: Tensor) -> Tensor:
        return rows.sum()

    for given, says in (
        (misspelt, "no statistic 'rowz' .*rows for the features.*Did you mean 'rows'"),
        (effective_rank, "exists already, of another function: give yours another name"),
        (CamelCase, "lower-case"),
        (lambda rows: rows.sum(), "a signal needs a name"),
        (max, "by the names of its parameters"),
        (lone, "by the names of its parameters"),
        (behind_a_star, "by the names of its parameters"),
        (3, "signals= has 3"),
        ("os:nowhere", "can't be imported"),
        ("no_such_package_at_all:f", "can't be imported"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            GeometryMetric([given])
    assert set(CATALOG) == SHIPPED
    with pytest.raises(ConfigurationError, match="build the monitor first"):
        GeometryEarlyStopping("featgeo/val/mean_norm", rule=Threshold(below=1.0))


def test_a_cell_that_runs_again_takes_the_place_of_the_first() -> None:
    code = "def spread(rows):\n    return rows.std() * {}\n"
    space: dict[str, Any] = {"__name__": "__main__"}
    values = []
    for factor in (1, 2):
        exec(code.format(factor), space)
        metric = GeometryMetric([space["spread"]])
        metric.update(torch.arange(60.0).reshape(20, 3))
        values.append(float(metric.compute()["spread"]))
    assert values[1] == pytest.approx(2 * values[0])
    exec("def spread(mean):\n    return mean.sum()\n", other := {"__name__": "another_module"})
    with pytest.raises(ConfigurationError, match="exists already, of another"):
        GeometryMetric([other["spread"]])


def test_functions_of_one_name_do_not_take_each_others_place() -> None:
    def make(first: int) -> Any:
        def top(eigenvalues: Tensor) -> Tensor:
            return eigenvalues[:first].sum()

        return top

    class Holder:
        def part(self, mean: Tensor) -> Tensor:
            return mean.sum()

    one = GeometryMetric([make(1)])
    for other in (make(5), Holder().part, Holder().part):
        if getattr(other, "__name__", "") == "part" and "part" not in CATALOG:
            GeometryMetric([other])
            continue
        with pytest.raises(ConfigurationError, match="of another function"):
            GeometryMetric([other])
    with pytest.raises(ConfigurationError, match="two functions called 'top_two'"):
        GeometryMetric([Signal("top_two", make(1)), Signal("top_two", make(5))])
    one.update(torch.randn(50, 4))
    assert one.window().values["top"] > 0
    for _ in range(2):  # a cell with a partial that runs again
        GeometryMetric([Signal("power_of_one", functools.partial(heaviest_class, power=1.0))])


def test_names_of_groups_are_taken_and_groups_hold_no_own_ones() -> None:
    for name in ("drift", "spectrum", "all", "auto", "best"):
        with pytest.raises(ConfigurationError, match=r"preset or group|is taken"):
            GeometryMetric([Signal(name, mean_norm)])
    GeometryMetric([Signal("mine", mean_norm, groups=("spectrum",))])
    assert "mine" not in {*resolve("all"), *resolve("spectrum")}
    assert "mine" in resolve("mine")


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
