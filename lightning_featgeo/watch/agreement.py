"""What ranks tell each other before windows are closed, so that all of them close the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_featgeo.capture.sources import Sources
from lightning_featgeo.distributed.ranks import RankFailure, Ranks
from lightning_featgeo.watch.plan import Report, WindowPlan
from lightning_featgeo.watch.watched_layer import WatchedLayer
from lightning_featgeo.watch.window import Window, key_of

Key = tuple[str, int]  # of a window: stage, and number of its loader
Make = Callable[[WindowPlan], list[WatchedLayer]]


def agree(windows: Sequence[Window], sources: Sources, ranks: Ranks, make: Make) -> dict[Key, list[Report]]:
    """Watch the same layers in every window on every rank; returns what each rank tells of each window.

    A rank on which nothing ran takes the head that others have found.

    Args:
        windows: that are about to be closed.
        sources: where features come from, on this rank.
        ranks: all of them call this.
        make: new accumulators for a window that has none.

    Raises:
        RankFailure: on all ranks, if they have found different heads, or one can't make its accumulators.
    """
    watches = [layer.path for layer in sources.layers], sources.watched.outputs
    mine = watches, [window.report() for window in windows]
    heard = ranks.gather(mine) if ranks.several else [mine]
    found = list(dict.fromkeys((tuple(paths), outputs) for (paths, outputs), _ in heard if paths))
    if len(found) > 1:
        names = [paths for paths, _ in found]
        raise RankFailure(f"ranks watch different layers ({names}): name one with layer= or head=")
    told = {key_of(w): [reports[i] for _, reports in heard] for i, w in enumerate(windows)}
    wanted = [w for w in windows if w.plan.logged or any(report.watched for report in told[key_of(w)])]

    def complete() -> None:
        if found and not sources.layers:
            sources.adopt(*found[0])
        for window in wanted:
            window.layers = window.layers or make(window.plan)

    if ranks.several or not all(window.layers for window in wanted):  # alone, mostly nothing is to be made
        ranks.attempt(complete)
    return told
