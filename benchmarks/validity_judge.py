"""What the alarms would have said of stored runs, and the tables of ``validity.py``.

A planted failure is *visible* from the first check on, from which to the run's end at least one recorded signal lies
outside all that the intact twin's tuning runs showed at the same check (a signal without a value is outside). That is
the earliest moment at which somebody with sixty intact runs at hand could have told. An alarm's delay is counted in
checks from there. Alarms before the failure was switched on are false ones, and none of them counts as a detection.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from measuring import table
from scipy.stats import binomtest
from validity_runs import EPOCHS, FULL, LONG, METHODS, SIGNALS, records

from lightning_featgeo.alarms import KINDS, ChangePoint, Detector, Drop, Kind, Rule, Threshold
from lightning_featgeo.alarms.kinds import of_signal

Run = dict[str, Any]
TUNING = 60  # seeds below it are there to fix limits on

# What the ready-made kinds are compared with: one signal, one rule.
SINGLE: dict[str, tuple[str, Rule]] = {
    "feature_std fell by half": ("feature_std", Drop(0.5)),
    "feature_std below 0.1": ("feature_std", Threshold(below=0.1)),
    "effective_rank fell by half": ("effective_rank", Drop(0.5)),
    "rankme fell by 30 %": ("rankme", Drop(0.3)),
    "rankme fell by half": ("rankme", Drop(0.5)),
    "feature_std jumped": ("feature_std", ChangePoint()),
}


def held_out(run: Run) -> bool:
    """Seeds on which no limit was fixed."""
    return run["seed"] >= TUNING


def alarms(run: Run, kind: Kind, stage: str = "val") -> list[int]:
    """Checks (from 1) at which the kind raises an alarm."""
    detector = Detector(kind, stage)
    both = sorted([*records(run, "val"), *records(run, "train_clean")], key=lambda r: (r.window, r.stage))
    return [record.window + 1 for record in both if detector.observe(record) is not None]


Envelopes = dict[str, dict[str, list[tuple[float, float]]]]


def envelopes(runs: Iterable[Run]) -> Envelopes:
    """Method -> signal -> check -> smallest and largest value of its tuning runs."""
    seen: dict[str, dict[str, list[list[float]]]] = defaultdict(
        lambda: {s: [[] for _ in range(EPOCHS)] for s in SIGNALS}
    )
    for run in runs:
        if not held_out(run):
            for signal, values in run["stages"]["val"]["values"].items():
                for check, value in enumerate(values[:EPOCHS]):
                    if value is not None:
                        seen[run["method"]][signal][check].append(value)
    return {
        method: {s: [(min(v), max(v)) if v else (0.0, 0.0) for v in checks] for s, checks in signals.items()}
        for method, signals in seen.items()
    }


def visible(run: Run, ranges: dict[str, list[tuple[float, float]]]) -> int | None:
    """The check (from 1) at which the planted failure becomes visible; None: it never does. See the module."""
    first = None
    for signal, values in run["stages"]["val"]["values"].items():
        if all(low == high for low, high in ranges.get(signal, ())):
            continue
        start = None
        for check, (value, (low, high)) in enumerate(zip(values, ranges[signal], strict=False)):
            outside = value is None or not low <= value <= high
            start = (start or check + 1) if outside else None
        if start is not None and (first is None or start < first):
            first = start
    return None if first is None else max(first, METHODS[run["method"]].begins + 1)


def rate(hits: int, of: int) -> str:
    """A rate with its exact 95 % interval."""
    if not of:
        return "–"
    interval = binomtest(hits, of).proportion_ci(method="exact")
    return f"{hits}/{of} = {hits / of:.0%} ({interval.low:.0%}–{interval.high:.0%})"


def planted_table(
    runs: list[Run], ranges: Envelopes, rules: dict[str, Kind], which: str
) -> tuple[str, list[dict[str, Any]]]:
    """Planted method × rule: recall, false alarms before the failure began, median delay."""
    chosen = [r for r in runs if r["method"] in METHODS and METHODS[r["method"]].planted == which]
    raw, rows = [], []
    for name, kind in rules.items():
        pooled: list[tuple[bool, int | None, int]] = []
        for method in [m for m in METHODS if METHODS[m].planted == which]:
            cases = []
            for run in (r for r in chosen if r["method"] == method):
                begins, fired = METHODS[method].begins, alarms(run, kind)
                after = [check for check in fired if check > begins]
                seen = visible(run, ranges.get(METHODS[method].twin, {}))
                early = sum(check <= begins for check in fired)
                cases.append((bool(after), after[0] - seen if after and seen else None, early))
                raw.append({"method": method, "rule": name, "seed": run["seed"], "alarms": fired, "visible": seen})
            pooled += cases
            rows.append(_row(name, method, cases))
        rows.append(_row(f"**{name}**", "**all**", pooled))
    heads = [
        "rule",
        "planted failure",
        "recall (95 %)",
        "delay in checks: median",
        "9 of 10 within",
        "alarms before it began",
    ]
    return table(heads, rows), raw


def _row(name: str, method: str, cases: list[tuple[bool, int | None, int]]) -> list[object]:
    delays = sorted(delay for _, delay, _ in cases if delay is not None)
    middle = f"{statistics.median(delays):g}" if delays else "–"
    most = f"{delays[int(0.9 * (len(delays) - 1))]}" if delays else "–"
    return [name, method, rate(sum(hit for hit, _, _ in cases), len(cases)), middle, most, sum(e for _, _, e in cases)]


def intact_table(runs: list[Run], rules: dict[str, Kind]) -> tuple[str, list[dict[str, Any]]]:
    """Intact method × rule: runs with a false alarm."""
    raw, rows = [], []
    total: dict[str, list[bool]] = defaultdict(list)
    for method in [m for m in METHODS if METHODS[m].planted is None]:
        cells = []
        for name, kind in rules.items():
            hits = []
            for run in (r for r in runs if r["method"] == method):
                fired = alarms(run, kind)
                hits.append(bool(fired))
                raw.append({"method": method, "rule": name, "seed": run["seed"], "alarms": fired})
            total[name] += hits
            cells.append(rate(sum(hits), len(hits)))
        rows.append([method, *cells])
    rows.append(["**all**", *(f"**{rate(sum(hits), len(hits))}**" for hits in total.values())])
    return table(["intact runs with a false alarm", *rules], rows), raw


def texts(runs: list[Run]) -> str:
    """One alarm in full for each title, from the first held-out run that raised it on its own planted failure."""
    found: dict[str, str] = {}
    for run in sorted(runs, key=lambda r: r["seed"]):
        method = METHODS.get(run["method"])
        kind = KINDS["converged"] if method is None else KINDS.get(method.planted or "")
        for alarm in Detector(kind).replay(records(run, "val")) if kind else []:
            found.setdefault(alarm.title, f"`{run['method']}`, seed {run['seed']}:\n\n```text\n{alarm.report}\n```")
    return "\n\n".join(found.values())


# --- what a stop saves -----------------------------------------------------------------------------------------------


def geometry_stop(run: Run) -> int:
    """The check (from 1) at which the ready-made "converged" stops; the last one if it does not."""
    fired = alarms(run, KINDS["converged"])
    return fired[0] if fired else len(run["outcomes"])


def stock_stop(key: str, mode: str, patience: int) -> Callable[[Run], int]:
    """The same for Lightning's own ``EarlyStopping``, asked what it is asked in a run."""

    def stop(run: Run) -> int:
        stopper = EarlyStopping(monitor=key, mode=mode, patience=patience)
        for check, outcome in enumerate(run["outcomes"], 1):
            if stopper._evaluate_stopping_criteria(torch.tensor(outcome[key]))[0]:
                return check
        return len(run["outcomes"])

    return stop


STOPS: dict[str, Callable[[Run], int]] = {
    'GeometryEarlyStopping("converged")': geometry_stop,
    "EarlyStopping(val loss, patience 3)": stock_stop("loss", "min", 3),
    "EarlyStopping(val loss, patience 5)": stock_stop("loss", "min", 5),
    "EarlyStopping(val loss, patience 10)": stock_stop("loss", "min", 10),
    "EarlyStopping(val accuracy, patience 3)": stock_stop("accuracy", "max", 3),
    "EarlyStopping(val accuracy, patience 5)": stock_stop("accuracy", "max", 5),
    "EarlyStopping(val accuracy, patience 10)": stock_stop("accuracy", "max", 10),
}


def savings_table(runs: list[Run]) -> tuple[str, list[dict[str, Any]]]:
    """Model × stop: epochs saved, and test accuracy lost against the full run (points; negative is gained)."""
    raw, rows = [], []
    chosen = [run for run in runs if run["method"] in LONG]
    for name, stop in STOPS.items():
        pooled: list[tuple[float, float]] = []
        for method in LONG:
            cases = []
            for run in (r for r in chosen if r["method"] == method):
                at, accuracy = stop(run), [outcome["test_accuracy"] for outcome in run["outcomes"]]
                cases.append((1 - at / FULL, 100 * (accuracy[-1] - accuracy[at - 1])))
            stops = " ".join(f"{round(FULL * (1 - saved))}" for saved, _ in cases)
            raw.append({"model": method, "stop": name, "stopped at": stops})
            pooled += cases
            rows.append(_saved(name, method, cases))
        rows.append(_saved(f"**{name}**", "**all**", pooled))
    return table(
        ["stop", "model", "runs", "epochs saved", "worst run saves", "points lost: mean ± se", "worst run loses"], rows
    ), raw


def _saved(name: str, method: str, cases: list[tuple[float, float]]) -> list[object]:
    saved, lost = [s for s, _ in cases], [p for _, p in cases]
    if len(cases) < 2:
        return [name, method, len(cases), "–", "–", "–", "–"]
    error = statistics.stdev(lost) / len(lost) ** 0.5
    return [
        name, method, len(cases), f"{statistics.mean(saved):.0%}", f"{min(saved):.0%}",
        f"{statistics.mean(lost):.2f} ± {error:.2f}", f"{max(lost):.1f}",
    ]  # fmt: skip


def unlabelled(kind: Kind) -> Kind:
    """As it judges a run without labels: no class signal is there to say that a loss is learning."""
    watches = [replace(w, unless=tuple(s for s in w.unless if s == "feature_std")) for w in kind.watches]
    return replace(kind, watches=tuple(watches))


def collapse_rules() -> dict[str, Kind]:
    """The ready-made kind, as it is and without labels, and rules of one signal each."""
    singles = {name: of_signal(signal, rule) for name, (signal, rule) in SINGLE.items()}
    return {'"collapse"': KINDS["collapse"], '"collapse", no labels': unlabelled(KINDS["collapse"]), **singles}
