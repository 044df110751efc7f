"""From settings and layers to what a window feeds: rows and a metric for each layer, the same on every rank."""

from __future__ import annotations

from typing import Any

import torch

from lightning_featgeo.capture.sources import Sources
from lightning_featgeo.distributed.ranks import RankFailure, Ranks
from lightning_featgeo.metrics import GeometryMetric
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.watch.settings import Settings
from lightning_featgeo.watch.window import Watched


def watch_layers(
    settings: Settings, sources: Sources, stated: int | None, root: torch.nn.Module | None, seed: int, **metric: Any
) -> list[Watched]:
    """New accumulators for each layer.

    Args:
        settings: what was asked for.
        sources: the layers and the head.
        stated: C as the model or datamodule states it.
        root: what a strategy has wrapped, to read a sharded head.
        seed: of the banks.
        **metric: of ``GeometryMetric``, where they differ from the settings.
    """
    s, watched = settings, []
    for layer in sources.layers:
        labels = s.label_reader(s.classes_for(stated, sources.head, None))
        made = GeometryMetric(
            **{
                "signals": s.signals,
                "num_classes": s.classes_for(stated, sources.head, layer.width),
                "head": sources.head,
                "bank_size": s.bank_size,
                "k": s.k,
                "knn_vote_k": s.knn_vote_k,
                "seed": seed,
                **metric,
            }
        )
        made.head_is_inside(root)
        made.strict = s.on_error == "raise"
        made.tolerated = frozenset({"reference", "earlier"})
        assembler = RowAssembler(
            s.pool, labels, s.mask, s.views, s.groups, layer.width, s.tokens_per_sequence, s.skip_tokens, seed
        )
        watched.append(Watched(layer.name, assembler, made, path=layer.path))
    return watched


def agree_on_layers(ranks: Ranks, sources: Sources) -> None:
    """Watch the same layers on every rank; one that nothing ran on takes the head that others have found.

    Raises:
        RankFailure: on all ranks, if they have found different heads.
    """
    heard = ranks.gather([layer.path for layer in sources.layers])
    found = list(dict.fromkeys(map(tuple, filter(None, heard))))
    if len(found) > 1:
        raise RankFailure(f"ranks watch different layers ({found}): name one with layer= or head=")
    ranks.attempt(lambda: sources.adopt(found[0][0]) if found and not sources.layers else None)


def why_empty(sources: Sources, name: str) -> list[str]:
    """For each layer, what to say if no rank has caught anything in the window of that name."""
    return [
        f"no features were caught: {layer.path!r} did not run in {name}. If the model was compiled and called before "
        "fit, compile it anew; if this stage uses another part of the model, name a layer that runs in it"
        for layer in sources.layers
    ]
