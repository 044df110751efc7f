"""The examples run as scripts, as a newcomer runs them."""

import os
import re
from pathlib import Path

from lightning_featgeo import History
from lightning_featgeo.metrics.catalog import PRESETS
from tests._helpers.processes import run_script
from tests._helpers.wandb_file import read

EXAMPLES = Path(__file__).parents[2] / "examples"


def own_environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}  # not this process's run
    return {**own, "WANDB_MODE": "offline"}


def run(script: str, *arguments: str) -> str:
    return run_script(EXAMPLES / script, *arguments, environment=own_environment())


def test_the_demo_stops_on_geometry_and_shows_its_curves(tmp_path: Path) -> None:
    output = run("digits.py")  # one with an interpreter of its own is in test_wandb_examples
    assert "featgeo: stopping, converged geometry" in output
    for part in ("featgeo/train ", "featgeo/val ", "effective_rank", "nc2_equiangle", "wandb leet"):
        assert part in output
    assert (tmp_path / re.findall(r"wandb leet (\S+)", output)[-1]).is_dir()
    history = History.load(tmp_path / re.findall(r"History: (\S+)", output)[-1])
    assert {r.stage for r in history} == {"train", "val"}
    assert [event["kind"] for event in history.events] == ["stop"]
    metrics, _, summary = read(tmp_path)
    assert metrics["featgeo/val/effective_rank"]["step"] == "featgeo/epoch"
    assert "featgeo_stop_reason" in summary
    report = Path(re.findall(r"Report \(open it in a browser\): (\S+)", output)[-1])
    assert "converged geometry at epoch" in report.read_text(encoding="utf-8")


def test_the_collapse_is_seen_and_drawn(tmp_path: Path) -> None:
    output = run("ssl_digits.py", "--epochs", "9", "--figure", "picture.png")
    assert "self_supervised: a sample has several views" in output
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    rows = {
        line[:36].strip(): [float(v) for v in line[36:].split()]
        for line in output.splitlines()
        if line.startswith(("projector, ", "backbone, "))
    }
    intact, broken = rows["projector, as published"], rows["projector, without stop-gradient"]
    assert broken[0] < intact[0]  # the loss likes the broken run better
    assert broken[1] < 0.5 < 0.8 < intact[1]  # its feature_std does not
    behind = rows["backbone, without stop-gradient"][1] / rows["backbone, as published"][1]
    assert 0.9 < behind < 1.15  # the backbone alone would not have told
    assert "featgeo: stopping, Drop of feature_std" in output
    report = (tmp_path / "runs" / "simsiam.html").read_text(encoding="utf-8")
    assert "simsiam/as published <span class='badge'>baseline" in report
    assert "without stop-gradient, with a stopper" in report


def test_the_curve_that_decides_a_sweep_is_found_and_the_one_that_says_nothing_is_not(tmp_path: Path) -> None:
    output = run("sweep.py", "--runs", "12", "--epochs", "3")
    table = dict(re.findall(r"\| featgeo/val/(\w+) \| .* \| 12 \| ([^|]+) \|", output))
    assert {"effective_rank", "stable_rank"} <= {name for name, chance in table.items() if _share(chance) <= 0.05}
    assert _share(table["coin"]) > 0.05
    assert (tmp_path / "runs" / "sweep" / "report.html").stat().st_size > 500_000


def _share(chance: str) -> float:
    return float(chance.removeprefix("under "))


def columns(output: str, first: str) -> tuple[list[str], list[list[float]]]:
    """The table whose header begins so: names of its columns, and the rows of numbers."""
    lines = output.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:1] == [first])
    rows = []
    for line in lines[at + 1 :]:
        try:
            rows.append([float(cell) for cell in line.split()])
        except ValueError:
            break
    return lines[at].split(), rows


def test_tokens_of_one_epoch_are_watched_in_windows() -> None:
    output = run("tokens.py", "--sequences", "3200", "--steps", "25")
    assert "tokens: each row is a token" in output
    names, rows = columns(output, "step")
    assert names[1:] == list(PRESETS["tokens"])
    assert [row[0] for row in rows] == [25, 50, 75, 100]
    assert "rows in a window: 12,800" in output  # 25 batches of 32 sequences, 16 tokens of each
    spread = [row[names.index("feature_std")] for row in rows]
    assert spread[-1] > spread[0] + 0.1  # it learns to tell tokens apart


def test_embeddings_get_their_preset_and_the_temperature_shows() -> None:
    output = run("embeddings.py", "--epochs", "8")
    assert "the output of 'encoder', 32 dimensions" in output
    names, rows = columns(output, "temperature")
    assert names[1:] == list(PRESETS["embeddings"])
    hot, cold = rows[-1], rows[0]
    assert hot[names.index("alignment")] < cold[names.index("alignment")]  # a high one pulls pairs together
    assert hot[names.index("effective_rank")] < cold[names.index("effective_rank")]


def test_a_long_tail_is_judged_by_its_own_counts() -> None:
    output = run("longtail.py", "--epochs", "15")
    assert "compared with 'train_clean'" in output
    lines = [line.split() for line in output.splitlines() if line.split()[:1] in (["plain"], ["balanced"])]
    plain, balanced = ([float(cell) for cell in line[1:]] for line in lines)
    assert balanced[1] > plain[1]  # of the tail
    assert 40 < plain[3] < 120  # degrees between tail classes


def test_cifar10_on_generated_images(tmp_path: Path) -> None:
    output = run("cifar10.py", "--generated", "--epochs", "2", "--width", "8")
    assert "compared with 'train_clean'" in output
    report = (tmp_path / "runs" / "cifar10.html").read_text(encoding="utf-8")
    assert "val" in report
    assert list(tmp_path.glob("runs/cifar10/version_0/**/tensors.tsv"))  # rows for the projector
    history = History.load(next(tmp_path.glob("runs/**/*.jsonl")))
    assert {record.stage for record in history} == {"val", "train_clean"}
    assert all("nc1" in record.values for record in history)


def test_a_text_model_is_fine_tuned_and_watched() -> None:
    output = run("huggingface_text.py", "--generated")
    lines = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 0", "epoch 1", "epoch 2"]
    assert all("effective_rank" in line for line in lines)


def test_hydra_builds_monitor_stopper_and_alarm() -> None:
    output = run("hydra_app.py", "trainer.max_epochs=2", "trainer.callbacks.0.display.headline=effective_rank")
    assert "'effective_rank'" in output
    assert "featgeo: watching the input of 'fc'" in output


def test_regression_takes_its_own_curves_and_shows_over_compression() -> None:
    output = run("regression.py", "--epochs", "10")
    assert "regressor: the labels are floating-point targets" in output
    table = output.split("weight decay")[1].splitlines()[1:6]
    ratios = [float(line.split()[2]) for line in table if line.split()[2] != "–"]
    assert ratios[0] > 1.5
    assert ratios == sorted(ratios, reverse=True)  # the more decay, the fewer dimensions
    assert "id_ratio is below 1 by two standard errors at weight decay:" in output


def test_fabric_prints_and_logs_its_curves(tmp_path: Path) -> None:
    output = run("fabric_loop.py", "--epochs", "2")
    assert re.search(r"epoch 2: .*effective_rank [\d.]+", output)
    (file,) = tmp_path.rglob("metrics.csv")
    header, *rows = (line.split(",") for line in file.read_text().splitlines())
    assert len(rows) == 2
    assert {"featgeo/val/effective_rank", "featgeo/val/nc1", "featgeo/epoch"} <= set(header)


def test_the_hugging_face_trainer_learns_and_is_watched() -> None:
    output = run("huggingface_trainer.py", "--epochs", "2")
    assert "the model declares it as its head" in output or "the only trainable layer with 8 outputs" in output
    assert re.search(r"epoch 2: .*effective_rank [\d.]+.*nc1 [\d.]+", output)


def test_lightning_cli_builds_monitor_and_stopper_from_yaml(tmp_path: Path) -> None:
    output = run("cli.py", "fit", "--config", str(EXAMPLES / "cli.yaml"), "--trainer.max_epochs", "2")
    assert "featgeo: watching" in output
    (file,) = tmp_path.rglob("metrics.csv")
    assert "featgeo/val/id_two_nn" in file.read_text()
    assert "fraction: 0.3" in next(tmp_path.rglob("config.yaml")).read_text()
