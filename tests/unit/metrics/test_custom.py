"""What becomes a signal of one's own, what is refused, and which names are taken."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_featgeo import ConfigurationError, GeometryEarlyStopping, GeometryMetric
from lightning_featgeo.alarms import Threshold
from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics import CATALOG, Estimate, Signal
from lightning_featgeo.metrics.catalog import SHIPPED, resolve
from tests._helpers.own_signals import broken, heaviest_class, mean_norm

pytestmark = pytest.mark.usefixtures("own_catalogue")


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
    assert 'of own_signals.py: raise KeyError("nothing there"))' in found.gaps["broken"]
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
