"""Pictures for the documentation: an intact and a failing run side by side with their alarms, and the trade-off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from validity_asking import alarms

from lightning_featgeo.alarms import KINDS

# file -> title, intact run, failing run, kind of alarm, signals
PAIRS: dict[str, tuple[str, str, str, str, tuple[str, str]]] = {
    "pair_total_collapse": (
        "Self-supervised: SimSiam, and without its stop-gradient",
        "simsiam_digits/intact", "simsiam_digits/no_stop_gradient", "collapse", ("feature_std", "knn_accuracy"),
    ),
    "pair_dimensional_collapse": (
        "Supervised: a CNN, and one whose last layer loses its rank",
        "digits_cnn/intact", "digits_cnn/rank_lost", "collapse", ("effective_rank", "feature_std"),
    ),
    "pair_fine_tuning": (
        "Pairs: with negatives, and with positive pairs only",
        "pairs_digits/intact", "pairs_digits/no_negatives", "collapse", ("feature_std", "knn_accuracy"),
    ),
    "pair_dying_relu": (
        "Supervised: a constant learning rate, and one that doubles each epoch",
        "digits_mlp_plain/intact", "digits_mlp_plain/rate_doubles", "collapse", ("feature_std", "dead_fraction"),
    ),
    "pair_memorising": (
        "Supervised: a tenth of the labels drawn at random, and 40 %",
        "digits_noisy/intact", "digits_noisy/labels_noisy", "memorising", ("knn_accuracy", "cdnv"),
    ),
    "pair_tail_merging": (
        "Long tail: intact, and rare classes taught as one",
        "digits_long_tail/intact", "digits_long_tail/tail_merges", "tail_merging", ("tail_min_angle", "knn_accuracy"),
    ),
}  # fmt: skip
INTACT, FAILING, FAILURE, NOTICE = "#2a6f97", "#c1121f", "#6b7280", "#b8bec7"


def draw(runs: list[dict[str, Any]], folder: Path) -> None:
    """Every pair as PNG, each of the first seed whose failing run has an alarm."""
    plt = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {(run["run"], run["seed"]): run for run in runs}
    for name, (title, intact, failing, kind, signals) in PAIRS.items():
        seeds = sorted(seed for run, seed in by_name if run == failing and (intact, seed) in by_name)
        watches = KINDS[kind].watches
        seed = next((s for s in seeds if alarms(by_name[failing, s], watches, "failure")), seeds[0])
        figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.1), constrained_layout=True)
        fired = {grade: alarms(by_name[failing, seed], watches, grade) for grade in ("failure", "notice")}
        for axes, signal in zip(panels, signals, strict=True):
            for run, color, label in ((intact, INTACT, "intact"), (failing, FAILING, "failing")):
                kept = by_name[run, seed]["val"]
                values = [float("nan") if v is None else v for v in kept["values"][signal]]
                axes.plot(kept["epoch"], values, color=color, linewidth=2, label=label)
            axes.set(title=signal, xlabel="epoch")
            axes.margins(y=0.14)
            for grade, color in (("notice", NOTICE), ("failure", FAILURE)):
                for check in fired[grade][:1]:
                    axes.axvline(check, color=color, linewidth=1.2, linestyle=(0, (4, 3)))
                    top = axes.get_ylim()[1] if grade == "failure" else sum(axes.get_ylim()) / 2
                    side = "left" if check < 16 else "right"
                    axes.annotate(f" {grade} ", (check, top), va="top", ha=side, color=color, fontsize=9)
        panels[0].legend(frameon=False)
        figure.suptitle(title, fontsize=11)
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)


def trade(points: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Recall against false alarms, a line for each way to judge."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5.4, 3.6), constrained_layout=True)
    for (name, line), color in zip(points.items(), (INTACT, FAILING), strict=True):
        x, y = zip(*sorted(line), strict=True)
        axes.plot([100 * v for v in x], [100 * v for v in y], marker="o", color=color, label=name)
    axes.axvline(1, color=FAILURE, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(" the limit: 1 % ", (1, 100 * max(v for _, v in points["labels"])), color=FAILURE, fontsize=9)
    axes.set(xlabel="intact runs stopped (%)", ylabel="failures found (%)")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    return plt
