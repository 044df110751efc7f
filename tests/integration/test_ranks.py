"""Real processes under Lightning's DDP: the same number everywhere, and no rank ever waits for another that gave up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_featgeo import Neighbors
from tests._helpers.processes import Died, on_ranks
from tests._helpers.ranked import callbacks, faults, parallelism, sequences, windows
from tests._helpers.still import TRAIN, VAL


def differences(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    assert ours.keys() == theirs.keys()
    return {name: abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-9) for name in ours}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return on_ranks(1, windows.curves, 1, {"neighbors": Neighbors(bank_size=200)})[0]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return on_ranks(1, windows.curves, 1, {"stages": ("val",)})[0]["records"][0]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_curves_are_those_of_one_process(size: int, alone: dict[str, Any]) -> None:
    every = on_ranks(size, windows.curves, size, {"neighbors": Neighbors(bank_size=200)})
    for rank in every:
        assert rank["records"] == every[0]["records"]
        assert rank["logged"] == every[0]["logged"]
        assert not rank["sync_warnings"]
    assert "while they merge" in every[0]["described"]["described"]
    assert len(every[0]["records"]) == len(alone["records"]) == 4
    for ours, theirs in zip(every[0]["records"], alone["records"], strict=True):
        assert ours["stage"] == theirs["stage"]
        assert ours["gaps"] == theirs["gaps"]
        for name in ("seen", "labelled", "bank", "duplicates", "nonfinite"):
            assert ours["counts"].get(name) == theirs["counts"].get(name)
        length = TRAIN if ours["stage"] == "train" else VAL
        assert ours["counts"]["seen"] == length
        assert ours["counts"].get("padded", 0) == -length % size
        worst = differences(ours["values"], theirs["values"])
        assert max(worst.values()) < 2e-5, sorted(worst.items(), key=lambda item: item[1])[-3:]


@pytest.mark.parametrize(("rows", "reference"), [("bank", "divided"), ("all", "divided"), ("all", "one_batch")])
def test_probe_sets_are_divided_among_the_ranks(rows: str, reference: str) -> None:
    alone = on_ranks(1, windows.probed, 1, rows, reference)[0]["records"]
    every = on_ranks(2, windows.probed, 2, rows, reference)
    assert every[0] == every[1]
    for ours, theirs in zip(every[0]["records"], alone, strict=True):
        if ours["stage"] == "fails":
            assert theirs["counts"]["seen"] == 40
            assert "no such file" in str(ours["gaps"]["feature_std"])
            assert "rank 1" in str(ours["gaps"]["feature_std"])
            continue
        assert (
            ours["counts"]["seen"]
            == theirs["counts"]["seen"]
            == {"val": VAL, "divided": 99, "listed": 70, "one_batch": 60}[ours["stage"]]
        )
        assert ours["counts"].get("repeated", 0) == 0
        assert ours["gaps"] == theirs["gaps"]
        assert max(differences(ours["values"], theirs["values"]).values()) < 2e-5
    assert [record["stage"] for record in alone] == ["val", "divided", "listed", "one_batch", "fails"]


def test_samples_with_ids_are_found_again_on_whichever_rank_they_are() -> None:
    alone, every = on_ranks(1, windows.by_id, 1)[0]["records"], on_ranks(2, windows.by_id, 2)
    assert every[0] == every[1]
    for ours, theirs in zip(every[0]["records"], alone, strict=True):
        assert differences(ours["values"], theirs["values"])["label_disagreement"] < 1e-6  # the same rows are kept
    for record in every[0]["records"][2:]:
        assert record["values"]["neighbor_churn"] == record["values"]["cka_drift"] == 0


def test_a_reference_whose_rows_still_wait_and_one_that_fails_on_one_rank() -> None:
    alone, every = on_ranks(1, windows.waiting_reference, 1)[0], on_ranks(2, windows.waiting_reference, 2)
    for rank in every:
        assert rank["counts"] == alone["counts"]
        assert max(differences(rank["values"], alone["values"]).values()) < 1e-9
        assert "rank 1" in rank["failed"]
        assert "rows were lost" in rank["failed"]


def test_references_small_loaders_and_windows_of_steps() -> None:
    alone, every = on_ranks(1, windows.compared, 1)[0], on_ranks(2, windows.compared, 2)
    assert every[0] == every[1]

    def evaluated(run: dict[str, Any]) -> list[dict[str, Any]]:
        return [record for record in run["records"] if record["stage"] != "train"]

    assert [r["stage"] for r in evaluated(every[0])] == ["val", "clean", "tiny"]
    for ours, theirs in zip(evaluated(every[0]), evaluated(alone), strict=True):
        assert ours["gaps"] == theirs["gaps"]
        assert max(differences(ours["values"], theirs["values"]).values()) < 2e-5
    assert evaluated(every[0])[2]["values"]["n_samples"] == 1
    training = [r for r in every[0]["records"] if r["stage"] == "train"]
    assert [r["values"]["n_samples"] for r in training] == [128.0] * 2  # two steps of 32 rows on each of two ranks
    assert training[0]["values"]["feature_std"] > 0


def test_tokens_by_position_and_sketches_are_those_of_one_process() -> None:
    """The last rank has no sequence at all."""
    (alone,), every = on_ranks(1, sequences.tokens, 1), on_ranks(3, sequences.tokens, 3)
    assert alone[1]["sketch_mmd"] > 0
    assert alone[1]["unit_drift"] > 0
    assert 0.1 < alone[0]["position_share"] < 0.9
    for found in every:
        for ours, right in zip(found, alone, strict=True):
            assert ours == pytest.approx(right, rel=1e-6)


def test_ranks_without_rows_and_with_few_classes_take_part() -> None:
    first, second = on_ranks(2, windows.hidden, 2)
    assert first["records"] == second["records"]
    (record,) = first["records"]
    assert record["counts"]["nonfinite"] == record["counts"]["seen"] == 120
    assert "feature_std" in record["values"]
    assert "nc1" in record["values"]


@pytest.mark.parametrize("where", ["streaming", "merging", "searching", "recording"])
def test_a_rank_that_fails_turns_the_window_into_a_gap_on_all(where: str) -> None:
    every = on_ranks(3, faults.failing, 3, where)
    for rank in every:
        assert rank["epochs"] == 3
        assert rank["records"] == every[0]["records"]
        before, gap, after = rank["records"]
        assert set(gap["gaps"]) == {"feature_std", "id_two_nn", "effective_rank"}
        assert "rank 1: " in gap["gaps"]["feature_std"]
        assert "no room for this" in gap["gaps"]["feature_std"]
        assert not before["gaps"]
        assert not after["gaps"]
    assert any("no room" in said for said in every[0]["said"])


def test_ranks_that_step_differently_close_the_same_windows() -> None:
    first, last = on_ranks(2, callbacks.windows_of_steps_that_differ, 2, limit=240)
    assert first == last
    assert len(first) == 8  # of two of eight batches each, in two epochs


def test_all_ranks_stop_in_the_same_epoch() -> None:
    every = on_ranks(2, callbacks.stopping, 2)
    assert every[0] == every[1]
    assert every[0]["epochs"] == 2


def test_lightnings_own_monitors_and_loggers_see_the_merged_curves() -> None:
    every = on_ranks(2, callbacks.stock, 2)
    assert [rank["epochs"] for rank in every] == [2, 2]
    assert every[0]["best"] == every[1]["best"] > 0
    assert every[1]["file"] == "None"
    assert every[0]["histories"] == 1
    (text,) = every[0]["csv"]
    assert text.splitlines()[0].count("featgeo/val/effective_rank") == 1
    assert len(text.splitlines()) == 3


def test_repeats_of_an_unknown_sampler_are_bounded_and_said() -> None:
    every = on_ranks(2, windows.unprovable, 2)
    (record,) = every[0]["records"]
    assert record["values"]["n_samples"] == VAL + 1
    assert record["counts"]["repeated"] == 1
    assert len(every[0]["said"]) == 1
    assert "up to 1 samples" in every[0]["said"][0]


def test_a_killed_rank_ends_the_others_with_the_frameworks_error() -> None:
    with pytest.raises(Died) as died:
        on_ranks(2, faults.killed, 2)
    first, second = died.value.outcomes
    assert "died with exit code -9" in second
    assert "still running" not in first
    assert "BrokenGroup" in first or "Connection" in first


def test_weights_are_bitwise_those_of_a_run_without_us() -> None:
    ours, theirs = on_ranks(2, callbacks.moving, 2)[0], on_ranks(2, callbacks.moving, -2)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("data", "tensor"), [(2, 1), (1, 2), (2, 2)])
def test_sharded_models_and_heads(data: int, tensor: int, whole: dict[str, Any]) -> None:
    every = on_ranks(data * tensor, parallelism.sharded, data, tensor)
    for rank in every:
        assert rank["kind"] == "DTensor"
        assert rank["layers"] == every[0]["layers"]
        assert "'net.3'" in rank["layers"][0]
        (record,) = rank["records"]
        assert record["gaps"] == whole["gaps"]
        assert "nc3" in record["values"]
        assert max(differences(record["values"], whole["values"]).values()) < 2e-5


@pytest.mark.parametrize("keep_parameters", [True, False])
def test_a_head_inside_fsdp1_is_read_whole(keep_parameters: bool) -> None:
    for rank in on_ranks(2, parallelism.flat, keep_parameters):
        assert rank == {"name": "1", "kind": "Linear", "same": True}


@pytest.mark.parametrize("order", ["auto", "before", "behind"])
def test_a_reference_that_a_rank_has_no_row_of(order: str) -> None:
    alone, every = on_ranks(1, windows.empty_reference, 1, order)[0], on_ranks(2, windows.empty_reference, 2, order)
    assert every[0] == every[1]  # the same names too: Lightning's checkpoint waits for all of them
    assert every[0]["logged"] == alone["logged"]
    for ours, theirs in zip(every[0]["records"], alone["records"], strict=True):
        assert ours["gaps"] == theirs["gaps"]
        assert max(differences(ours["values"], theirs["values"]).values()) < 2e-5


def test_rows_of_samples_that_make_several_are_not_taken_for_repeats() -> None:
    alone, every = on_ranks(1, windows.of_other_sizes, 1, "crops")[0], on_ranks(2, windows.of_other_sizes, 2, "crops")
    assert every[0] == every[1]
    (ours,), (theirs,) = every[0]["records"], alone["records"]
    assert theirs["values"]["n_samples"] == 363
    assert ours["values"]["n_samples"] == 366  # one sample was repeated, and nobody can say which rows it has
    assert ours["counts"]["repeated"] == 1
    assert ours["values"]["effective_rank"] == pytest.approx(theirs["values"]["effective_rank"], rel=1e-2)


def test_a_data_set_of_its_own_on_every_rank_repeats_nothing() -> None:
    every = on_ranks(2, windows.of_other_sizes, 2, "own")
    assert every[0] == every[1]
    (record,) = every[0]["records"]
    assert record["values"]["n_samples"] == 121
    assert "repeated" not in record["counts"]


def test_samples_are_named_whichever_rank_has_seen_them() -> None:
    alone = on_ranks(1, windows.identified, 1)[0]
    every = on_ranks(3, windows.identified, 3)
    assert alone["ids"] == {sample: str(1000 + sample) for sample in alone["samples"]}
    assert every[0]["samples"] == alone["samples"]
    assert all(rank["ids"] == alone["ids"] for rank in every)


@pytest.mark.parametrize("validates", ["backbone", "all"])
def test_ranks_watch_what_a_loss_compares_in_the_same_windows(validates: str) -> None:
    """In training from the second epoch on, once all have seen that validation doesn't run it."""
    first, second = on_ranks(2, windows.projected, 2, validates)
    assert not first["said"]
    assert not second["said"]
    stages = [(stage, epoch) for stage, layer, epoch, _, _ in first["records"] if layer is None]
    expected = [("train", 2.0), ("train", 3.0)] if validates == "backbone" else [("val", e) for e in (1.0, 2.0, 3.0)]
    assert stages == expected
    assert all(seen and values for _, _, _, seen, values in first["records"])
    assert first["records"] == second["records"]


def test_a_rank_that_finds_nothing_holds_nobody_up() -> None:
    """It reports an error or a gap; nobody waits for it for ever."""
    on_ranks(2, windows.projected, 2, "backbone", 1, limit=120.0)
