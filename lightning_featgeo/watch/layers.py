"""From settings and sources to what a window feeds: rows and a metric for each watched layer."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lightning_featgeo.capture import facts
from lightning_featgeo.capture.sources import Sources
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL, PRESETS, named_signals, names
from lightning_featgeo.metrics.earlier import NOTHING, Earlier
from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.rows import tree
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.rows.batches import find_groups, find_mask, select, summarize
from lightning_featgeo.rows.label_rows import kind_of_matrix
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.role import Role
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.settings import AUTO_CLASS_BYTES, WatchSettings
from lightning_featgeo.watch.watched_layer import WatchedLayer

MOST_WAITING, LEAST_WAITING = 64 * 2**20, 64 * 2**10  # bytes of rows that wait, of all layers, and of each


def watched_layers(
    settings: WatchSettings,
    sources: Sources,
    stated: int | None,
    plan: WindowPlan,
    policy: Policy,
    check: Callable[[int], None] | None = None,
    earlier: Callable[[int], Earlier] = lambda index: NOTHING,
) -> list[WatchedLayer]:
    """New accumulators for each layer.

    Args:
        settings: what was asked for.
        sources: the layers and the head.
        stated: C as the model or datamodule states it.
        plan: of the window.
        policy: of the metrics.
        check: see :class:`WatchedLayer`; of the first layer.
        earlier: index of a layer -> what it is compared with sample by sample, as a checkpoint keeps it.
    """
    s, watched = settings, []
    policy = replace(
        policy, waiting_bytes=max(LEAST_WAITING, min(policy.waiting_bytes, MOST_WAITING // max(1, len(sources.layers))))
    )
    seed = seed_for(s.neighbors.seed, plan.stage, plan.number)
    of_head = bool(sources.watched.of_head())
    for index, layer in enumerate(sources.layers):
        classes = class_count(s, stated, sources, layer.width)
        metric = GeometryMetric(
            s.signals if plan.logged else COUNT_SIGNAL,
            classes,
            sources.head,
            replace(s.neighbors, seed=seed),
            has_reference=plan.reference is not None,
            serve=plan.serves,
            policy=replace(
                policy, keeps_samples=plan.keeps_samples, by_id=plan.pairs_by_id, several_layers=len(sources.layers) > 1
            ),
            earlier=earlier(index),
            spectrum_rows=s.spectrum_rows,
        )
        assembler = RowAssembler(
            s.pool, label_reader(s, stated, sources), s.mask, s.views, s.groups, layer.width, s.tokens, seed,
            role_of(s, sources, layer.path, plan), sources.watched.scoring if index == 0 and of_head else None,
        )  # fmt: skip
        needed = sources.needed or facts.needed_directions(sources.head, sources.reading)
        first = check if index == 0 else None
        watched.append(WatchedLayer(layer.name, layer.path, assembler, metric, first, needed, plan.every_n_batches))
    return watched


def learn_labels(watcher: Any, stage: str, outputs: Any, batch: Any) -> None:
    """From a training step that no window takes: what it tells of the labels that other windows read.

    Its loss tells which ones are learned, and what entered whether rows are in the batch's order.

    Args:
        watcher: the ``Watcher``; what was caught is let go of.
        stage: whose step it was.
        outputs, batch: of the step.

    Raises:
        ConfigurationError: if the head can't be told.
    """
    sources: Sources = watcher.sources
    if stage != "train" or not any(tap.calls for tap in sources.watched.of_head()):
        sources.settle(None)
        sources.forget()
        return
    calls = sources.take(outputs, batch)
    with contextlib.suppress(Exception):  # rows of training that can't be read cost evaluation nothing
        plan = WindowPlan("train", "train", logged=False)
        (part, *_) = watched_layers(watcher.settings, sources, watcher.stated_classes, plan, Policy(lenient=True))
        part.assembler.assemble(calls[0], batch, 0)


def _may_be_labels(batch: Any) -> bool:
    """Whether some columns could be labels, of which the loss of the first training step will tell."""
    whole = [x for _, x in tree.tensors(batch) if x.ndim == 1 and x.dtype != torch.bool and not x.is_floating_point()]
    return len(whole) > (0 if tree.is_mapping(batch) else 1)


def _may_be_weights(settings: WatchSettings, batch: Any) -> bool:
    """Whether a matrix could be soft labels of as many classes as the head has, which is still to be found."""
    named = settings.labels is not None and settings.labels != "auto"
    found = [select(batch, settings.labels, "labels")] if named else [x for _, x in tree.tensors(batch)]
    tables = [x for x in found if isinstance(x, torch.Tensor) and x.layout is torch.strided and not x.is_nested]
    kinds = [kind_of_matrix(x) for x in tables if x.ndim == 2 and x.shape[1] > 1 and not x.is_complex()]
    return "soft" in kinds or (named and "multi-label" in kinds)


def served_signals(settings: WatchSettings) -> tuple[str, ...]:
    """Signals whose reference a window is, where one of these settings is named as the reference."""
    return PRESETS["classifier"] if settings.signals == "auto" else settings.asked


def seed_for(seed: int, stage: str, number: int) -> int:
    """A seed of its own for each stage and loader, the same in every process and epoch."""
    return seed * 2**32 ^ zlib.crc32(f"{stage}/{number}".encode())


def label_reader(settings: WatchSettings, stated: int | None, sources: Sources) -> LabelReader:
    """What reads labels, of as many classes as are known."""
    reading = sources.reading
    given = settings.num_classes is not None or asks_for(settings, "labels")
    learns_others = reading is not None and reading.reconstructs and settings.labels == "auto" and not given
    return LabelReader(
        settings.labels, class_count(settings, stated, sources, None), settings.ignore_index, settings.groups,
        outputs=facts.outputs(sources.head, sources.reading), stated=given,
        reads_mixtures=any("mixtures" in CATALOG[name].requires for name in settings.asked),
        awaits_mixtures=_asks_for_mixtures(settings), ignored=learns_others,
    )  # fmt: skip


def _asks_for_mixtures(settings: WatchSettings) -> bool:
    """Whether signals of mixtures, or their group, were asked for by name: then a run mixes, if not from the start."""
    given = names(settings.signals)
    asked = {given} if isinstance(given, str) else {*given}
    return "mixed" in asked or any("mixtures" in CATALOG[name].requires for name in asked if name in CATALOG)


def asks_for(settings: WatchSettings, need: str) -> bool:
    """Whether signals were asked for by name that need labels, views or targets: then there are some."""
    return any(need in CATALOG[name].requires for name in named_signals(settings.signals))


def role_of(settings: WatchSettings, sources: Sources, path: str, plan: WindowPlan) -> Role:
    """What a watched layer is in its model."""
    asked = () if settings.signals == "all" else settings.asked  # a preset of views says that there are some
    has_views = any("views" in CATALOG[name].requires for name in asked)
    tap = next((tap for tap in sources.taps if tap.name == path.partition(":")[0]), None)
    return Role(
        trains=plan.stage == "train",
        stage=plan.stage,
        is_classifier=facts.is_classifier(sources.taps, sources.head, sources.reading) and not has_views,
        predicts_tokens=facts.predicts_tokens(sources.root, sources.head),
        scores_groups=None if sources.reading is None else sources.reading.scores_groups,
        has_views=has_views,
        decodes=facts.decodes(sources.root, path),
        time_first=facts.time_first(tap),
        may_be_time_first=facts.may_be_time_first(sources.root),
        reads_last=sources.head is not None and facts.reads_last(sources.root, path),
        several_loaders=plan.several_loaders,
        chooses=_of_codes(asked),
    )


def _of_codes(asked: Sequence[str]) -> bool | None:
    """Whether signals of codes alone were asked for; None: with others."""
    codes = [name for name in asked if "codes" in CATALOG[name].requires]
    return None if codes and set(asked) - {*codes, COUNT_SIGNAL} else bool(codes)


def class_count(settings: WatchSettings, stated: int | None, sources: Sources, width: int | None) -> int | None:
    """C as given, else the head's outputs, else as stated; None if "auto" finds its memory too large."""
    if settings.num_classes is not None:
        return settings.num_classes
    outputs = facts.outputs(sources.head, sources.reading)
    classes = max(outputs, 2) if outputs is not None else stated
    too_large = classes is not None and classes * (width or 1) * 12 > AUTO_CLASS_BYTES
    return None if settings.signals == "auto" and too_large else classes


def check_batch(settings: WatchSettings, batch: Any, stated: int | None, sources: Sources) -> bool:
    """What a batch alone can tell, before anything was caught: whether it has labels, and that selectors fit.

    Raises:
        ConfigurationError: if a selector finds nothing, or signals asked for by name need labels there are not.
    """
    labels, targets = label_reader(settings, stated, sources).read(batch)
    find_mask(batch, settings.mask)
    find_groups(batch, settings.groups)
    asked = named_signals(settings.signals)
    waits = sources.scouting and settings.labels == "auto" and targets is None and _may_be_labels(batch)
    waits = waits or (
        sources.scouting
        and class_count(settings, stated, sources, None) is None
        and labels is None
        and _may_be_weights(settings, batch)
    )
    for lack, missing, what in (
        ("targets", targets is None, "regression targets"),
        ("labels", labels is None, "class labels"),
    ):
        needy = sorted(name for name in asked if lack in CATALOG[name].requires)
        if needy and missing and not (lack == "labels" and waits):
            kind = "floating-point ones" if lack == "targets" else "them"
            raise ConfigurationError(
                f"{', '.join(needy)} need{'s' * (len(needy) == 1)} {what} and the batch has none: it is "
                f"{summarize(batch)}. Name {kind} with "
                "labels=<key, index or callable>, or leave these signals out"
            )
    return labels is not None
