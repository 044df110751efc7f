"""Pictures for the documentation: an intact and a failing run side by side, with the alarm where it was raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from validity_judge import alarms

from lightning_featgeo.alarms import KINDS

# file -> title, intact method, failing method, kind of alarm, signals
PAIRS: dict[str, tuple[str, str, str, str, tuple[str, str]]] = {
    "pair_total_collapse": (
        "Self-supervised: SimSiam, and without its stop-gradient",
        "simsiam", "simsiam_no_stop_gradient", "collapse", ("feature_std", "effective_rank"),
    ),
    "pair_dimensional_collapse": (
        "Supervised: a bottleneck, and one that loses rank from epoch 13 on",
        "linear_bottleneck", "rank_loss", "collapse", ("effective_rank", "feature_std"),
    ),
    "pair_fine_tuning": (
        "Fine-tuning on pairs: with negatives, and with positive pairs only",
        "pairs_contrastive", "pairs_cosine_only", "collapse", ("feature_std", "knn_accuracy"),
    ),
    "pair_dying_relu": (
        "Supervised: a constant learning rate, and one that doubles each epoch from the 13th on",
        "no_norm", "dying_relu", "collapse", ("feature_std", "dead_fraction"),
    ),
    "pair_memorising": (
        "Supervised: clean labels, and 40 % drawn at random",
        "adam_no_decay", "noisy_labels", "memorising", ("knn_accuracy", "cdnv"),
    ),
    "pair_tail_merging": (
        "Long tail: intact, and rare classes taught as one from epoch 13 on",
        "long_tail", "tail_merge", "tail_merging", ("tail_min_angle", "knn_accuracy"),
    ),
}  # fmt: skip
INTACT, FAILING, ALARM = "#2a6f97", "#c1121f", "#6b7280"


def draw(runs: list[dict[str, Any]], folder: Path, seed: int = 60) -> None:
    """Every pair, of one held-out seed, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    found = {run["method"]: run for run in runs if run["seed"] == seed}
    for name, (title, intact, failing, kind, signals) in PAIRS.items():
        figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.1), constrained_layout=True)
        fired = alarms(found[failing], KINDS[kind])
        for axes, signal in zip(panels, signals, strict=True):
            for method, color, label in ((intact, INTACT, "intact"), (failing, FAILING, "failing")):
                stage = found[method]["stages"]["val"]
                values = [float("nan") if v is None else v for v in stage["values"][signal]]
                axes.plot(stage["epoch"], values, color=color, linewidth=2, label=label)
            axes.set(title=signal, xlabel="epoch")
            axes.margins(y=0.12)
            top = axes.get_ylim()[1]
            for before, check in zip([-9, *fired], fired, strict=False):
                axes.axvline(check, color=ALARM, linewidth=1, linestyle=(0, (4, 3)))
                side = "left" if check < 22 else "right"
                axes.annotate(
                    " alarm " if check - before > 3 else "", (check, top), va="top", ha=side, color=ALARM, fontsize=9
                )
        panels[0].legend(frameon=False)
        figure.suptitle(title, fontsize=11)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)
