"""What the alarms would have said of stored runs, and the tables of ``validity.py``.

The rates of the first table are of families that no limit has seen: for each family, limits are chosen on all the
others. The shipped limits were fixed on all families, so that their own tables flatter them. A planted fault
counts as a *failure that ends the run's usefulness* if the probe's accuracy above chance (or R²) at the end is below
seven tenths of what the family's intact runs reach (which must be 0.15 or more). An intact run counts as such if its
probe ends at no less than eight tenths of its best (or, without classes, if its validation loss ends no higher than it
began).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import validity_checkpoints
import validity_stops
from measuring import publish, table
from scipy.stats import binomtest
from validity_asking import NEVER, alarms, first_alarm, firsts, unlabelled
from validity_before import BEFORE
from validity_families import FAMILIES, OTHER_KINDS
from validity_outcomes import is_intact, is_useless, reached
from validity_runs import records

from lightning_featgeo.alarms import KINDS, Detector, Drop, Watch
from lightning_featgeo.alarms.kinds import CLASSES, DIMENSIONAL, LOST, TOTAL

Run = dict[str, Any]
MOST_FALSE = 0.005  # of the intact runs of the other families, when limits are chosen


# --- rules to choose from --------------------------------------------------------------------------------------------


def _candidates() -> dict[str, list[Watch]]:
    """For each watch of the failure grade: versions of it, with other limits."""
    rank = {"title": DIMENSIONAL, "warmup": 2, "unless": ("feature_std", *CLASSES)}
    knn = [(("knn_accuracy", lost),) for lost in (0.05, 0.1)]
    return {
        TOTAL: [
            Watch("feature_std", Drop(fraction, to=to), TOTAL, warmup=1, unless=CLASSES)
            for fraction, to in itertools.product((0.6, 0.7, 0.8), (0.05, 0.1, 0.15))
        ],
        f"{TOTAL}, confirmed": [
            Watch("feature_std", Drop(fraction), TOTAL, unless=CLASSES, confirmed_by=lost, strictly=True)
            for fraction, lost in itertools.product((0.2, 0.3, 0.4, 0.5), knn)
        ],
        DIMENSIONAL: [
            Watch("effective_rank", Drop(fraction), confirmed_by=knn[0], below_needed=True, **rank)
            for fraction in (0.5, 0.6, 0.7, 0.8)
        ],
        f"{DIMENSIONAL}, confirmed": [
            Watch("effective_rank", Drop(fraction), confirmed_by=lost, strictly=True, **rank)
            for fraction, lost in itertools.product((0.2, 0.3, 0.4, 0.5), knn)
        ],
        LOST: [
            Watch("knn_accuracy", Drop(fraction), LOST, needed=False, warmup=2) for fraction in (0.15, 0.2, 0.3, 0.4)
        ],
    }


@dataclass
class Judged:
    """Runs with what they have come to, and the first check at which each candidate rule would have fired."""

    runs: list[Run]
    counts: np.ndarray  # whether a run is in the tables: intact, or ended by its fault
    intact: np.ndarray
    family: np.ndarray
    fires: dict[str, np.ndarray]  # (runs, versions) by watch


def judged(runs: list[Run], candidates: Mapping[str, Sequence[Watch]]) -> Judged:
    """Ask every version of every watch about every run, alone."""
    reach = reached(runs)
    runs = [run for run in runs if run["fault"] not in OTHER_KINDS]
    intact = np.array([not run["fault"] for run in runs])
    counts = np.array([is_intact(run) if not run["fault"] else is_useless(run, reach) for run in runs])
    fires = {
        title: np.stack([firsts(runs, [watch]) for watch in versions], axis=1) for title, versions in candidates.items()
    }
    return Judged(runs, counts, intact, np.array([run["family"] for run in runs]), fires)


def share(of: np.ndarray) -> float:
    """Of truths; 0 of none."""
    return float(of.mean()) if of.size else 0.0


def choose(of: Judged, among: np.ndarray, titles: Sequence[str]) -> dict[str, int]:
    """Versions with the highest recall at no more than ``MOST_FALSE`` false alarms in these runs."""
    good, bad = among & of.counts & of.intact, among & of.counts & ~of.intact
    best, picked = (-1.0, 0.0), {}
    for combination in itertools.product(*(range(of.fires[title].shape[1]) for title in titles)):
        fires = np.min([of.fires[t][:, v] for t, v in zip(titles, combination, strict=True)], axis=0) < NEVER
        false = share(fires[good])
        if false <= MOST_FALSE and (score := (share(fires[bad]), -false)) > best:
            best, picked = score, dict(zip(titles, combination, strict=True))
    return picked


# --- tables ----------------------------------------------------------------------------------------------------------


def rate(hits: int, of: int) -> str:
    """A rate with its exact 95 % interval."""
    if not of:
        return "–"
    interval = binomtest(hits, of).proportion_ci(method="exact")
    return f"{hits}/{of} = {hits / of:.1%} ({interval.low:.1%}–{interval.high:.1%})"


def _delays(runs: Sequence[Run], first: Sequence[int]) -> str:
    late = sorted(at - (run["begins"] or 0) for run, at in zip(runs, first, strict=True) if at < NEVER)
    return f"{statistics.median(late):g}, {late[int(0.9 * (len(late) - 1))]}" if late else "–"


def family_table(of: Judged, rules: Mapping[str, np.ndarray]) -> str:
    """Family × rule: false alarms and recall; a row for all of them and one for the worst family."""
    heads = ["family", *(f"{name}: {what}" for name in rules for what in ("false", "recall", "delay: median, 9 of 10"))]
    rows: list[list[object]] = []
    worst = dict.fromkeys(rules, 0.0)
    for family in [*FAMILIES, ""]:
        here = (of.family == family) | (family == "")
        good, bad = here & of.counts & of.intact, here & of.counts & ~of.intact
        row: list[object] = [family or "**all**"]
        for name, first in rules.items():
            false, hits = int((first[good] < NEVER).sum()), int((first[bad] < NEVER).sum())
            if family and good.sum():
                worst[name] = max(worst[name], false / good.sum())
            full = (rate(false, int(good.sum())), rate(hits, int(bad.sum()))) if not family else (
                f"{false}/{good.sum()}", f"{hits}/{bad.sum()}" if bad.sum() else ""
            )  # fmt: skip
            chosen = [run for run, is_bad in zip(of.runs, bad, strict=True) if is_bad]
            row += [*full, _delays(chosen, list(first[bad]))]
        rows.append(row)
    rows.append(["**worst family**", *itertools.chain(*([f"{worst[name]:.0%}", "", ""] for name in rules))])
    return table(heads, rows)


def left_out(of: Judged, candidates: Mapping[str, Sequence[Watch]], titles: Sequence[str]) -> tuple[np.ndarray, str]:
    """First alarms with limits chosen on all other families, and which limits these were."""
    first = np.full(len(of.runs), NEVER)
    picked: dict[tuple[str, ...], int] = {}
    for family in FAMILIES:
        here = of.family == family
        versions = choose(of, ~here, titles) if here.any() else {}
        chosen = [of.fires[t][:, v] for t, v in versions.items()]
        if chosen:
            first[here] = np.min(chosen, axis=0)[here]
        named = tuple(
            repr(candidates[t][v].rule) + str(candidates[t][v].confirmed_by or "") for t, v in versions.items()
        )
        picked[named] = picked.get(named, 0) + 1
    lines = [f"- {count} of {len(FAMILIES)} times: {'; '.join(named)}" for named, count in picked.items()]
    return first, "\n".join(lines)


def judge(runs: list[Run], out: Path | None) -> None:
    """All tables."""
    seconds = sum(run["seconds"] for run in runs)
    candidates = _candidates()
    free = {title: list(unlabelled(versions)) for title, versions in candidates.items()}
    free = {title: versions for title, versions in free.items() if versions}
    of, of_free = judged(runs, candidates), judged(runs, free)
    now, plain = KINDS["collapse"].watches, unlabelled(KINDS["collapse"].watches)
    chosen, which = left_out(of, candidates, list(candidates))
    chosen_free, which_free = left_out(of_free, free, list(free))
    every = of.runs
    shipped = {
        "failure": firsts(every, now, "failure"),
        "notice": firsts(every, now),
        "before": firsts(every, BEFORE),
    }
    shipped_free = {
        "failure": firsts(every, plain, "failure"),
        "notice": firsts(every, plain),
        "before": firsts(every, unlabelled(BEFORE)),
    }
    intact, planted = int(of.intact.sum()), int((~of.intact).sum())
    good, bad = int((of.intact & of.counts).sum()), int((~of.intact & of.counts).sum())
    told = (__doc__ or "").partition("\n\n")[2]
    publish(
        "How often alarms on geometry are right",
        {
            "What was run": (
                f"{len(runs)} training runs of {len(FAMILIES)} families, {seconds / 3600:.1f} hours of one core "
                f"together. {intact} runs without a fault, of which {good} are intact by their probe or loss; "
                f"{planted} with a planted fault, of which it ended the usefulness of {bad}. The others are in no "
                f"table. Intervals are exact (Clopper–Pearson), 95 %.\n\n{' '.join(told.split())}"
            ),
            "Limits chosen on the other families": family_table(of, {"labels": chosen, "no labels": chosen_free}),
            "Which limits were chosen": f"With labels:\n\n{which}\n\nWithout:\n\n{which_free}",
            "The shipped rules": family_table(of, shipped),
            "The shipped rules, without labels": family_table(of_free, shipped_free),
            "The trade": trade(of, of_free, out),
            "Other kinds": other_kinds(of, runs),
            **validity_stops.tables(runs),
            **validity_checkpoints.tables(runs),
            "One alarm of each title, in full": texts(of.runs, of),
        },
        {"runs": outcomes(of, {"unseen": chosen, "unseen, no labels": chosen_free, **shipped})},
        out,
    )  # fmt: skip


def outcomes(of: Judged, rules: Mapping[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """Run -> seed -> what it has come to, and the check of the first alarm by each rule ("-": none)."""
    found: dict[str, dict[str, str]] = {}
    for at, run in enumerate(of.runs):
        came = ("intact" if of.intact[at] else "ended") if of.counts[at] else "in no table"
        told = ", ".join(f"{name} {first[at] if first[at] < NEVER else '-'}" for name, first in rules.items())
        found.setdefault(run["run"], {})[str(run["seed"])] = f"{came}: {told}"
    return found


def other_kinds(of: Judged, all_runs: list[Run]) -> str:
    """Recall and false alarms of the kinds that look for something else than collapse."""
    good = of.counts & of.intact
    runs = [run for run, is_good in zip(of.runs, good, strict=True) if is_good and run["classes"]]
    rows: list[list[object]] = []
    for name in ("memorising", "tail_merging"):
        fired = [run["family"] for run in runs if alarms(run, KINDS[name].watches)]
        worst = max(set(fired), key=fired.count, default="–")
        planted = [run for run in all_runs if OTHER_KINDS.get(run["fault"]) == name]
        found = sum(first_alarm(run, KINDS[name].watches, after=run["begins"] or 0) < NEVER for run in planted)
        told = (rate(found, len(planted)), rate(len(fired), len(runs)), f"{worst}: {fired.count(worst)}")
        rows.append([f'"{name}"', *told])
    return table(["kind", "planted faults found", "intact runs with an alarm", "most in"], rows)


def trade(of: Judged, of_free: Judged, out: Path | None) -> str:
    """Recall against false alarms as the limit on ``feature_std`` moves, with the other watches as shipped."""
    rows: list[list[object]] = []
    points: dict[str, list[tuple[float, float]]] = {"labels": [], "no labels": []}
    for fraction in (0.3, 0.45, 0.6, 0.75, 0.9):
        row: list[object] = [fraction]
        for name, judged_runs in (("labels", of), ("no labels", of_free)):
            watches = KINDS["collapse"].watches if name == "labels" else unlabelled(KINDS["collapse"].watches)
            moved = [
                replace(w, rule=replace(w.rule, fraction=fraction, to=None))
                if isinstance(w.rule, Drop) and w.grade == "failure" and w.signal != "knn_accuracy"
                else w
                for w in watches
            ]
            first = firsts(judged_runs.runs, moved, "failure") < NEVER
            good, bad = of.counts & of.intact, of.counts & ~of.intact
            points[name].append((share(first[good]), share(first[bad])))
            row += [f"{points[name][-1][0]:.1%}", f"{points[name][-1][1]:.1%}"]
        rows.append(row)
    if out is not None:
        import validity_figures

        validity_figures.trade(points, out.with_name("validity_trade.png"))
    heads = ["loss of spread or rank, at any level", "false", "recall", "no labels: false", "recall"]
    shown = "" if out is None else "\n\n![recall against false alarms](validity_trade.png)"
    return table(heads, rows) + shown


def texts(runs: list[Run], of: Judged) -> str:
    """One alarm in full for each grade and title, from the first run that its fault ended."""
    found: dict[str, str] = {}
    for run, counts in zip(runs, of.counts, strict=True):
        if run["fault"] and counts:
            for alarm in Detector(KINDS["collapse"]).replay(records(run)):
                told = f"`{run['run']}`, seed {run['seed']}:\n\n```text\n{alarm.report}\n```"
                found.setdefault(f"{alarm.grade} {alarm.title}", told)
    return "\n\n".join(found.values())
