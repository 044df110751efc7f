"""What the monitor was asked to do, checked once, when it is built."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from lightning_featgeo.capture.heads import known_class_count
from lightning_featgeo.capture.sources import FeaturesFrom, segment, unique_segments
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics import GeometryMetric
from lightning_featgeo.metrics.catalog import CATALOG, named, resolve
from lightning_featgeo.rows.batches import Selector, describe, find_groups, find_mask, select
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.pooling import check_pool
from lightning_featgeo.rows.views import Views, stacking

STAGES = ("train", "val", "test")
AUTO_CLASS_BYTES = 256 * 2**20  # "auto" keeps class statistics up to here (a language model's head has 50,000)


@dataclass(frozen=True)
class Taste:
    """What the user has chosen to see; see ``FeatureGeometryMonitor``."""

    headline: str | None = None
    class_names: Sequence[str] | None = None
    matrix_classes: int = 20
    embedding_rows: int = 0

    def __post_init__(self) -> None:
        for name, given, least, most in (
            ("embedding_rows", self.embedding_rows, 0, 1000),
            ("matrix_classes", self.matrix_classes, 2, 100),
        ):
            if not isinstance(given, int) or not least <= given <= most:
                raise ConfigurationError(f"{name}={given!r}: a whole number from {least} to {most:,} can be shown")
        if isinstance(self.class_names, str):
            raise ConfigurationError("class_names is one string: give a list of names, in the order of class indices")


@dataclass
class Settings:
    """The monitor's arguments; see ``FeatureGeometryMonitor``."""

    layer: str | Sequence[str] | None
    head: str | None
    features: FeaturesFrom | None
    signals: str | Sequence[str]
    pool: str | None
    labels: Selector
    mask: Selector
    views: Views
    num_classes: int | None
    stages: Any
    loader_names: Sequence[str] | None
    every_n_epochs: int
    every_n_train_steps: int | None
    bank_size: int | Literal["auto"]
    k: int
    knn_vote_k: int
    seed: int
    reference: str | None
    groups: Selector
    ignore_index: int
    resume: bool
    on_error: Literal["warn", "raise"]
    tokens_per_sequence: int | None = None
    skip_tokens: int = 0
    id_key: Selector = None
    taste: Taste = field(default_factory=Taste)

    def __post_init__(self) -> None:
        given = (self.stages,) if isinstance(self.stages, str) else tuple(self.stages)
        for stage in given:
            if stage not in STAGES:
                raise ConfigurationError(f"unknown stage {stage!r} in stages=.{near_misses(str(stage), STAGES)}")
        if not given:
            raise ConfigurationError('stages is empty; use stages=("val",), and add "train" or "test"')
        self.stages: tuple[str, ...] = given
        GeometryMetric(self.signals, self.num_classes, None, self.bank_size, self.k, self.knn_vote_k)  # checks them
        self._check_reference()
        ungrouped = [name for name in named(self.signals) if "groups" in CATALOG[name].requires]
        if ungrouped and self.groups is None:
            raise ConfigurationError(
                f"{', '.join(ungrouped)} needs the group of each row: groups=<key, index or callable into the batch>"
            )
        check_pool(self.pool)
        self._check_tokens()
        self._check_headline()
        unique_segments(self.loader_names or (), "loaders")
        if self.layer is not None and self.features is not None:
            raise ConfigurationError("give layer= or features=, not both: each says where the features come from")
        if self.every_n_epochs < 1 or (self.every_n_train_steps is not None and self.every_n_train_steps < 1):
            raise ConfigurationError("every_n_epochs and every_n_train_steps must be at least 1")
        if self.every_n_train_steps is not None and "train" not in given:
            raise ConfigurationError(
                f'every_n_train_steps={self.every_n_train_steps} makes training windows: add "train" to stages='
            )
        if self.on_error not in ("warn", "raise"):
            raise ConfigurationError(f'on_error must be "warn" or "raise", got {self.on_error!r}')
        try:
            count, _ = stacking(self.views)
        except ValueError:
            raise ConfigurationError(
                f'views={self.views!r}: use "auto", a number, "v b" or "2 b" (view after view), "b v" or "b 2" (sample '
                "by sample)"
            ) from None
        if count is not None and count < 1:
            raise ConfigurationError(f"views={self.views!r}: a call holds at least one view")

    def _check_headline(self) -> None:
        headline = self.taste.headline
        asked = tuple(CATALOG) if self.signals == "auto" else resolve(self.signals)
        if headline is not None and headline not in asked:
            raise ConfigurationError(
                f"headline={headline!r} is not among the signals.{near_misses(headline, asked)} It is the "
                "curve that the progress bar shows"
            )

    def _check_tokens(self) -> None:
        most, skip = self.tokens_per_sequence, self.skip_tokens
        if (most is not None and most < 1) or skip < 0:
            raise ConfigurationError(f"needs tokens_per_sequence ≥ 1 and skip_tokens ≥ 0, got {most} and {skip}")
        if most is not None and self.pool != "tokens":
            raise ConfigurationError(
                f'tokens_per_sequence={most} draws from tokens that are rows: add pool="tokens", or leave it out'
            )
        if skip and self.pool is not None and self.pool not in ("tokens", "mean", "last"):
            raise ConfigurationError(
                f'skip_tokens={skip} leaves out tokens at the start: use it with pool="tokens", "mean" or "last", not '
                f"{self.pool!r}"
            )

    def _check_reference(self) -> None:
        if self.reference is not None:
            self.reference = segment(self.reference)
        if self.reference is None:
            asked = () if self.signals == "auto" else resolve(self.signals)
            needy = [name for name in asked if "reference" in CATALOG[name].requires]
            if needy and (set(needy) & named(self.signals) or needy == list(asked)):
                raise ConfigurationError(
                    f"{', '.join(needy)} compare a window with another one: give "
                    'FeatureGeometryMonitor(reference="train"), or the name of a loader'
                )
            return
        names = [segment(name) for name in self.loader_names or ()]
        if self.reference not in ("train", *names) and (
            names or not re.fullmatch(r"(val|test)(_\d+)?", self.reference)
        ):
            known = ["train", *(names or ("val", "val_1"))]
            raise ConfigurationError(
                f'reference={self.reference!r} is neither "train" nor a loader.{near_misses(self.reference, known)}'
            )
        if self.reference == "train" and "train" in names:
            raise ConfigurationError(
                'reference="train" means the training windows, and a loader is called "train" too: name that one '
                'otherwise in loader_names=, for example "train_clean"'
            )
        if self.reference == "train" and self.stages == ("train",):
            raise ConfigurationError(
                'reference="train" compares other windows with training, and stages= has only "train": add "val"'
            )
        if self.reference == "train" and self.every_n_train_steps is not None:
            raise ConfigurationError(
                'reference="train" needs training windows of whole epochs: leave out every_n_train_steps='
            )

    def check_ids(self, batch: Any) -> None:
        """Whether a batch has the ids that tables are to show.

        Raises:
            ConfigurationError: if it has no such part.
        """
        if self.id_key is not None:
            select(batch, self.id_key, "id_key")

    def check_class_names(self, num_classes: int | None) -> None:
        """As many names as classes.

        Raises:
            ConfigurationError: with both numbers.
        """
        names = self.taste.class_names
        if names is not None and num_classes is not None and len(names) != num_classes:
            raise ConfigurationError(
                f"class_names= has {len(names)} names, and there are {num_classes} classes: give each "
                "class one, in the order of their indices"
            )

    def label_reader(self, num_classes: int | None) -> LabelReader:
        """What reads labels, of so many classes."""
        return LabelReader(self.labels, num_classes, self.ignore_index, self.groups)

    def check_batch(self, batch: Any, num_classes: int | None) -> bool:
        """What a batch alone can tell, before anything was caught: whether it has labels, and that selectors fit.

        Raises:
            ConfigurationError: if a selector finds nothing, or signals asked for by name need labels there are not.
        """
        labels, targets = self.label_reader(num_classes).read(batch)
        find_mask(batch, self.mask)
        find_groups(batch, self.groups)
        asked = sorted(name for name in named(self.signals) if "targets" in CATALOG[name].requires)
        if asked and targets is None:
            raise ConfigurationError(
                f"{', '.join(asked)} need regression targets and the batch has none: it is {describe(batch)}. Name "
                "floating-point ones with labels=<key, index or callable>, or leave these signals out"
            )
        needy = sorted(name for name in named(self.signals) if "labels" in CATALOG[name].requires)
        if needy and labels is None:
            raise ConfigurationError(
                f"{', '.join(needy)} need class labels and the batch has none: it is {describe(batch)}. Name them with "
                "labels=<key, index or callable>, or leave these signals out"
            )
        return labels is not None

    def class_count(self, trainer: pl.Trainer, root: torch.nn.Module) -> int | None:
        """C as given, or as the model or datamodule states it."""
        if self.num_classes is not None:
            return self.num_classes
        datamodule = getattr(trainer, "datamodule", None)
        return known_class_count(root, *root.children(), datamodule)

    def classes_for(self, stated: int | None, head: torch.nn.Module | None, width: int | None) -> int | None:
        """C as given, else the head's outputs, else as stated; None if "auto" finds its memory too dear."""
        if self.num_classes is not None:
            return self.num_classes
        outputs = getattr(head, "out_features", getattr(head, "out_channels", None))
        classes = max(outputs, 2) if isinstance(outputs, int) else stated
        too_dear = classes is not None and classes * (width or 1) * 12 > AUTO_CLASS_BYTES
        return None if self.signals == "auto" and too_dear else classes


def fallback_stages(settings: Settings, trainer: pl.Trainer) -> tuple[tuple[str, ...], str | None]:
    """The stages of this fit: training windows instead of validation where there is no validation."""
    stages: tuple[str, ...] = settings.stages
    if "val" not in stages or trainer.enable_validation:
        return stages, None
    rest = tuple(s for s in stages if s not in ("val", "train"))
    return ("train", *rest), (
        "featgeo: there is no validation loader, so the curves are training windows (featgeo/train/…); "
        "they run over changing weights and augmented batches"
    )


def seed_for(seed: int, stage: str, loader: int) -> int:
    """A seed of its own for each stage and loader, the same in every process and epoch."""
    return seed * 2**32 ^ zlib.crc32(f"{stage}/{loader}".encode())
