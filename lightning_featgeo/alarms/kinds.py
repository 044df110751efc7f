"""Kinds of alarm: which signals are looked at by which rules, what they mean together, and what to do about it.

Collapse is of two kinds, and no signal sees both: centring takes away the constant of a total collapse and leaves its
noise, whose rank is high; a subspace leaves the spread of directions as it is. So "collapse" watches both. Intact
training moves both, too: what is a failure, and what a notice, was fixed on many families of runs
(``benchmarks/validity.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lightning_featgeo.alarms.movement import ChangePoint, Plateau
from lightning_featgeo.alarms.rules import Drop, GeneralizationGap, Peak, Rule, Threshold
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics.catalog import CATALOG

Grade = Literal["notice", "failure"]


@dataclass(frozen=True)
class Watch:
    """One signal under one rule. ``title``: what it is when the rule holds. ``patience``: checks in a row it takes.

    ``needed``: the kind makes no sense without this signal. ``warmup``: first checks that are not judged and are
    nobody's best (a network that has learned nothing has a high rank, and neighbours of easy data vote well in it).
    ``unless``: signals, where they have values, that must not have got better meanwhile by more than 5 %: what one
    signal loses while another gains is learning.
    ``confirmed_by``: signals that, where they have values, must have lost so much of their best as well; ``strictly``:
    where they have none, nothing is confirmed.
    ``below_needed``: where it is known how many directions the outputs can need that are made of the features, only
    while the signal is at most that. C classes can be told apart in C − 1 directions (Papyan et al. 2020); two classes,
    and numbers that depend on each other, in a single one, and nothing can be told.
    ``grade``: "failure": the features are being lost. "notice": something moves, look at it; a stop doesn't act on it.
    """

    signal: str
    rule: Rule
    title: str
    patience: int = 2
    needed: bool = True
    warmup: int = 0
    unless: tuple[str, ...] = ()
    confirmed_by: tuple[tuple[str, float], ...] = ()
    strictly: bool = False
    below_needed: bool = False
    grade: Grade = "failure"


@dataclass(frozen=True)
class Kind:
    """What is looked for.

    ``watches``: one of them is enough (``mode="any"``), or all that have values must hold (``mode="all"``).
    ``of_training``: windows in which the features can't move, as no weight before them is trained, are no checks.
    ``needs_finite``: windows after a check in which all rows are NaN or infinite are a failure as well.
    ``causes``, ``steps``: by a watch's title.
    """

    name: str
    watches: tuple[Watch, ...]
    mode: Literal["any", "all"] = "any"
    of_training: bool = False
    needs_finite: bool = False
    causes: dict[str, list[str]] = field(default_factory=dict)
    steps: dict[str, list[str]] = field(default_factory=dict)

    @property
    def signals(self) -> list[str]:
        """Names of the signals it can't do without."""
        return list(dict.fromkeys(watch.signal for watch in self.watches if watch.needed))

    @property
    def stages(self) -> list[str]:
        """Other stages that it compares with."""
        return list(dict.fromkeys(w.rule.to for w in self.watches if isinstance(w.rule, GeneralizationGap)))


CLASSES = ("knn_accuracy",)
TOTAL, DIMENSIONAL, DEAD, LOST = "total collapse", "dimensional collapse", "dead units", "class structure lost"

LEARNED = ("feature_std", *CLASSES)
CLASSES_LOST = (("knn_accuracy", 0.05),)

COLLAPSE = Kind(
    "collapse",
    (
        # without labels, the level as well as the loss (of a rank: less than the outputs need, where it is known);
        # with labels, less will do if the classes are being lost too
        Watch("feature_std", Drop(0.7, to=0.1), TOTAL, warmup=1, unless=CLASSES),
        Watch("feature_std", Drop(0.2), TOTAL, unless=CLASSES, confirmed_by=CLASSES_LOST, strictly=True),
        Watch(
            "effective_rank",
            Drop(0.6),
            DIMENSIONAL,
            warmup=2,
            unless=LEARNED,
            confirmed_by=CLASSES_LOST,
            below_needed=True,
        ),
        Watch(
            "effective_rank",
            Drop(0.3),
            DIMENSIONAL,
            warmup=2,
            unless=LEARNED,
            confirmed_by=CLASSES_LOST,
            strictly=True,
        ),
        Watch("knn_accuracy", Drop(0.2), LOST, needed=False, warmup=2),
        Watch("feature_std", Drop(0.3), TOTAL, warmup=1, unless=CLASSES, grade="notice"),
        Watch("effective_rank", Drop(0.4), DIMENSIONAL, warmup=2, unless=LEARNED, grade="notice"),
        Watch("knn_accuracy", Drop(0.1), LOST, needed=False, warmup=2, grade="notice"),
        Watch("dead_fraction", Threshold(), DEAD, needed=False, grade="notice"),
        Watch("feature_std", Threshold(below=0.002), TOTAL),  # from the first check on: there is no better past
    ),
    needs_finite=True,
    causes={
        TOTAL: [
            "a branch without its stop-gradient, or a target that shares the online network's weights",
            "a loss of positive pairs only: no negatives, no variance term, no predictor",
            "a learning rate that silences the network",
        ],
        DIMENSIONAL: [
            "a bottleneck, adapter or projector that lost rank",
            "too strong augmentation or weight decay",
            "a loss that few directions suffice for (neural collapse ends at C−1 directions, not below)",
        ],
        DEAD: ["a learning rate that kills ReLUs", "a bias that drifted far below zero"],
        LOST: ["a learning rate that is too high", "labels or inputs mixed up", "training for something else by now"],
    },
    steps={
        TOTAL: [
            "look at uniformity and mean_resultant beside it",
            "check which branch the gradient reaches",
            "go on from the checkpoint with the cause removed: features that are all alike seldom recover",
        ],
        DIMENSIONAL: [
            "of a classifier, compare with the number of classes minus one: at or above it, with knn_accuracy holding, "
            "it is no failure",
            "if a head of few outputs is trained on it, name it with head=: then it is known what they need",
            "look at the spectrum and at the layer before",
        ],
        DEAD: ["lower the learning rate and go on from the checkpoint", "add normalisation before the ReLUs"],
        LOST: ["take the checkpoint from before", "look at feature_std and effective_rank beside it"],
    },
)

CONVERGED = Kind(
    "converged",
    (
        Watch("effective_rank", Plateau(), "converged geometry", patience=2),
        Watch("feature_std", Plateau(), "converged geometry", patience=2),
        Watch("cdnv", Plateau(), "converged geometry", patience=2, needed=False),
    ),
    mode="all",
    of_training=True,
    causes={"converged geometry": ["training has reached the plateau of its features"]},
    steps={
        "converged geometry": [
            "stop, or lower the learning rate if there is a schedule left to run",
            "a plateau on validation data is class separation, not neural collapse proper",
        ]
    },
)

MEMORISING = Kind(
    "memorising",
    (Watch("knn_accuracy", Peak(), "class structure past its best"),),
    causes={
        "class structure past its best": [
            "noisy labels, or a network large enough to learn each sample by heart",
            "training that goes on after the useful structure is there",
        ]
    },
    steps={
        "class structure past its best": [
            "take the checkpoint at the peak",
            "look at the same signal on clean training rows: if it still improves there, the run memorises",
        ]
    },
)

TAIL_MERGING = Kind(
    "tail_merging",
    (Watch("tail_min_angle", Drop(within=8), "tail classes merging", warmup=8),),
    causes={"tail classes merging": ["labels of rare classes mixed up", "minority collapse of a long tail"]},
    steps={
        "tail classes merging": [
            "look at the rare classes one by one: the mean accuracy does not show it",
            "re-weight or re-sample, or check the label mapping",
        ]
    },
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (COLLAPSE, CONVERGED, MEMORISING, TAIL_MERGING)}


def of_signal(signal: str, rules: Rule | Sequence[Rule] | None, patience: int = 2) -> Kind:
    """A kind of one signal under rules of the user's; None: ``Drop()``, or ``ChangePoint()`` without a direction.

    Raises:
        ConfigurationError: for a signal that is not there, or a rule that can't judge it.
    """
    if signal not in CATALOG:
        raise ConfigurationError(
            f"there is no signal {signal!r}.{near_misses(signal, list(CATALOG))} (One of your own is known once a "
            "monitor has had it in signals=: build the monitor first.)"
        )
    row = CATALOG[signal]
    if rules is None:
        rules = ChangePoint() if row.direction == "none" else Drop()
    given = [rules] if isinstance(rules, Rule) else list(rules)
    if not given:
        raise ConfigurationError(f"no rule for {signal!r}: give one, for example Drop(0.3)")
    for rule in given:
        rule.refuse(row)
    return Kind(signal, tuple(Watch(signal, rule, f"{type(rule).__name__} of {signal}", patience) for rule in given))
