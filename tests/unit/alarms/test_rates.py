"""Rates on a user's own runs, limits fixed on them, and the command for both."""

import warnings
from pathlib import Path

import pytest
import yaml
from scipy.stats import binomtest

from lightning_featgeo import ConfigurationError, GeometryEarlyStopping, History
from lightning_featgeo.alarms import KINDS, Detector, limits, rates
from lightning_featgeo.alarms.__main__ import main
from tests._helpers.detectors import windows

INTACT = {"feature_std": [0.7, 0.8, 0.8, 0.81, 0.8, 0.8], "effective_rank": [30.0, 22.0, 20.0, 20.0, 20.0, 20.0]}
FAILED = {"feature_std": [0.7, 0.8, 0.8, 0.05, 0.04, 0.04], "effective_rank": [30.0, 22.0, 20.0, 20.0, 20.0, 20.0]}
DEEP = {"feature_std": [0.8, 0.8, 0.8, 0.09, 0.09, 0.5], "effective_rank": [20.0] * 6}  # intact, by its user's word
OF_A_LEVEL = {"watch": 8, "signal": "dead_fraction", "rule": "Threshold", "grade": "notice"}
GAPS = {"feature_std": [None] * 6, "effective_rank": [None] * 6}


@pytest.mark.parametrize(("hits", "of"), [(0, 1), (0, 60), (1, 1), (3, 40), (40, 40), (234, 240), (12, 1000)])
def test_intervals_are_exact(hits: int, of: int) -> None:
    low, high = binomtest(hits, of).proportion_ci(method="exact")
    assert rates.interval(hits, of) == pytest.approx((low, high), abs=1e-6)


def written(folder: Path, name: str, signals: dict[str, list[float | None]]) -> str:
    path = folder / name / "featgeo" / "1.jsonl"
    path.parent.mkdir(parents=True)
    history = History(path)
    history.describe({"name": name})
    for record in windows(**signals):
        history.append(record)
    history.end("ended as planned")
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main([*arguments])
    out, err = capsys.readouterr()
    return code, out + err


def test_check_replays_intact_and_failed_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        written(tmp_path / "good", f"g{number}", INTACT)
    written(tmp_path / "bad", "b", FAILED)
    code, text = said(capsys, "check", str(tmp_path / "good"), "--failed", str(tmp_path / "bad"))
    assert code == 0
    assert "failure: false in 0 of 3 = 0% (0% to 71%) of the intact runs" in text
    assert "failure: found in 1 of 1 = 100% (3% to 100%) of the failed runs, at a median of epoch 5" in text
    assert "few intact runs (3)" in text


def test_check_says_what_it_can_not_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, gaps = written(tmp_path, "bad", FAILED), written(tmp_path, "gaps", GAPS)
    code, text = said(capsys, "check", "--failed", bad)
    assert code == 0
    assert "without intact runs nothing can be said of false alarms" in text
    code, text = said(capsys, "check", gaps)
    assert (code, "none of these runs can be judged" in text, "were no checks" in text) == (2, True, True)
    code, text = said(capsys, "check", bad, "--stage", "train")
    assert (code, "it has no window of featgeo/train, but of featgeo/val" in text) == (2, True)
    code, text = said(capsys, "check", bad, "--failed", str(tmp_path / "bad"))
    assert (code, "intact or failed, not both" in text) == (2, True)
    assert "no run of the intact runs" in said(capsys, "check", gaps, "--failed", bad)[1]
    assert said(capsys, "check")[0] == 2
    code, text = said(capsys, "check", str(tmp_path / "nowhere"))
    assert (code, "no such file" in text) == (2, True)
    later = Path(written(tmp_path, "later", INTACT))
    later.write_text(later.read_text().replace('"format": 3', '"format": 99'))
    assert "later" in said(capsys, "check", str(later))[1]


def test_calibrate_writes_limits_that_a_stopper_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep, out = written(tmp_path, "deep", DEEP), tmp_path / "limits.yaml"
    assert Detector(KINDS["collapse"]).replay(windows(**DEEP))[0].grade == "failure"
    code, text = said(capsys, "calibrate", deep, "--out", str(out))
    assert code == 0, text
    assert "total collapse: Drop of feature_std holds from 0.899 (was 0.7), for the sake of deep" in text
    stop = GeometryEarlyStopping("collapse", limits=out)
    assert [a.grade for a in stop.detectors[0].replay(windows(**DEEP))] == ["notice"]
    assert "failure" in [a.grade for a in Detector(limits.read(out, "collapse")).replay(windows(**FAILED))]
    assert "0 of 1" in said(capsys, "check", deep, "--limits", str(out))[1]
    code, text = said(capsys, "calibrate", deep, "--out", str(out))
    assert (code, "is there already" in text) == (2, True)


def test_runs_that_need_no_other_limits_keep_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, out = written(tmp_path, "good", INTACT), tmp_path / "limits.yaml"
    assert "stay as they are" in said(capsys, "calibrate", good, "--out", str(out))[1]
    assert limits.read(out, "collapse") == KINDS["collapse"]
    gaps = written(tmp_path, "gaps", GAPS)
    code, text = said(capsys, "calibrate", gaps, "--out", str(tmp_path / "other.yaml"))
    assert (code, "none of these runs can be judged" in text) == (2, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.update(kind="converged"), "are of 'converged'"),
        (lambda found: found.update(version=99), "of a later version"),
        (lambda found: found["limits"][0].update(signal="rankme"), "are of other rules"),
        (lambda found: found["limits"][0].update(watch=77), "are of other rules"),
        (lambda found: found["limits"][0].update(OF_A_LEVEL), "are of other rules"),
        (lambda found: found.update(kind=[["x"] * 9] * 9), "are damaged .expected a name, got list"),
        (lambda found: found["limits"][0].update(fraction=1.5), "is not between 0 and 1"),
        (lambda found: found["limits"][0].pop("fraction"), "are damaged"),
        (lambda found: found.pop("limits"), "are damaged"),
    ],
)
def test_limits_that_can_not_be_used_say_why(tmp_path: Path, change, says: str) -> None:
    path = tmp_path / "limits.yaml"
    limits.write(path, KINDS["collapse"], {0: 0.9}, 3)
    found = yaml.safe_load(path.read_text())
    change(found)
    path.write_text(yaml.safe_dump(found))
    with pytest.raises(ConfigurationError, match=says):
        GeometryEarlyStopping("collapse", limits=path)


def test_limits_are_of_kinds_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        GeometryEarlyStopping("collapse", limits=tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigurationError, match="of a kind of alarm"):
        GeometryEarlyStopping("featgeo/val/feature_std", limits=tmp_path / "limits.yaml")
