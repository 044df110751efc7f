"""The monitor's arguments that only Lightning's Trainer has; those of every engine are in ``watch.settings``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_featgeo.callbacks.probe_sets import ProbeSet, named
from lightning_featgeo.callbacks.windows import USUAL_WINDOWS, Windows
from lightning_featgeo.capture.names import segment, unique_segments
from lightning_featgeo.capture.step_outputs import FeaturesFrom
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics.catalog import CATALOG, SHIPPED, named_signals
from lightning_featgeo.rows.batches import Selector
from lightning_featgeo.watch.layouts import MOST_ROWS
from lightning_featgeo.watch.settings import WatchSettings, check_between

MEDIA = ("first", "all", "none")
FILES = (True, False, "history")
STAGES = ("train", "val", "test")


@dataclass(frozen=True)
class Display:
    """What loggers and the progress bar show beyond curves: ``FeatureGeometryMonitor(display=Display(…))``.

    Args:
        headline: the signal on the progress bar; None: the first one.
        class_names: names in tables and pictures, in the order of class indices.
        matrix_classes: most classes in the matrix of cosines, from 2 to 100: those nearest to others.
        id_key: key, index or callable into the batch: what each sample is called in tables; and by which signals over
            time find it again where the order changes (training windows, loaders that shuffle). None: its position.
        embedding_rows: number of feature rows, up to 1,000, whose places in the plane the history keeps (the report
            shows them with a slider), and that are sent to loggers that can show them; of the layers of ``media``.
        media: whose spectra, histograms, pictures and tables are sent: "first" (the first layer's), "all" or "none".
            Charts over depth come with several layers in any case.
        files: whether the history's file and a report (with ``lightning-featgeo[report]``) become files of a run in
            Weights & Biases, MLflow or Comet, too; "history": without a report. On disk the history is in any case.

    Raises:
        ConfigurationError: if a number is out of range, or ``class_names`` is one string.
    """

    headline: str | None = None
    class_names: Sequence[str] | None = None
    matrix_classes: int = 20
    id_key: Selector = None
    embedding_rows: int = 0
    media: str = "first"
    files: bool | str = True

    def __post_init__(self) -> None:
        check_between("embedding_rows", self.embedding_rows, 0, MOST_ROWS)
        check_between("matrix_classes", self.matrix_classes, 2, 100)
        if self.media not in MEDIA:
            raise ConfigurationError(f"media={self.media!r}: choose of {', '.join(MEDIA)}")
        if self.files not in FILES:
            raise ConfigurationError(f"files={self.files!r}: choose of {', '.join(map(repr, FILES))}")
        if isinstance(self.class_names, str):
            raise ConfigurationError("class_names is one string: give a list of names, in the order of class indices")

    def check_class_names(self, num_classes: int | None) -> None:
        """As many names as classes.

        Raises:
            ConfigurationError: with both numbers.
        """
        names = self.class_names
        if names is not None and num_classes is not None and len(names) != num_classes:
            raise ConfigurationError(
                f"class_names= has {len(names)} names, and there are {num_classes} classes: give each "
                "class one, in the order of their indices"
            )


USUAL_DISPLAY = Display()


@dataclass(frozen=True)
class MonitorSettings(WatchSettings):
    """What the monitor was asked to do, checked when it is built.

    Args:
        features: a key of the step's returned dict, or a callable ``(outputs, batch)``, instead of a module.
        stages: of "train", "val", "test". Validation sees one weight state; training curves run over the window.
        loader_names: names of several validation (or test) loaders, used in the logged names.
        windows: how often, of how much of training, and what they are compared with over time:
            ``Windows(every_n_epochs=5, every_n_batches=8, best="val_loss", anchor="old_index.npz")``.
        reference: "train" or the name of a loader: fidelity and out-of-distribution signals compare with its rows
            of the same epoch (as many as have been seen when validation runs), and ``knn_accuracy`` votes from them.
            "train" is then caught too, and logged only if it is in ``stages``; its rows are those of training mode, so
            a loader of clean training rows compares more alike.
        probe_sets: loaders that no step reads, by name, run in evaluation mode when validation closes (or training,
            where there is no validation); each has curves of its own and can be the ``reference``:
            ``{"clean_train": loader, "ood": ProbeSet(loader, labelled=False)}``.
        resume: go on with the curves of a checkpoint that ``fit`` starts from; False begins new ones.
        display: what loggers and the progress bar show: ``Display(headline="nc1", class_names=[…])``.
    """

    features: FeaturesFrom | None = None
    stages: str | Sequence[str] = ("val",)
    loader_names: Sequence[str] | None = None
    windows: Windows = USUAL_WINDOWS
    reference: str | None = None
    probe_sets: Mapping[str, Any] | None = None
    resume: bool = True
    display: Display = USUAL_DISPLAY

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.stages,) if isinstance(self.stages, str) else tuple(self.stages)
        for stage in given:
            if stage not in STAGES:
                raise ConfigurationError(f"unknown stage {stage!r} in stages=.{near_misses(str(stage), STAGES)}")
        if not given:
            raise ConfigurationError('stages is empty; use stages=("val",), and add "train" or "test"')
        object.__setattr__(self, "stages", given)
        if self.reference is not None:
            object.__setattr__(self, "reference", segment(self.reference))
        loaders = unique_segments(self.loader_names or (), "loaders")
        if "train" in given and "train" in loaders:
            raise ConfigurationError(
                'loader_names= has a loader called "train", and so are the training windows of stages=: their values '
                'would be averaged. Name the loader otherwise, for example "train_clean"'
            )
        self._check_reference(list(self._check_probe_sets(loaders)))
        self._check_compared_over_time()
        self._check_background()
        self._check_headline()
        if self.layer is not None and self.features is not None:
            raise ConfigurationError("give layer= or features=, not both: each says where the features come from")
        steps, one_in = self.windows.every_n_train_steps, self.windows.every_n_batches
        if steps is not None and "train" not in given:
            raise ConfigurationError(f'every_n_train_steps={steps} makes training windows: add "train" to stages=')
        if one_in > 1 and "train" not in (*given, self.reference):
            raise ConfigurationError(
                f"every_n_batches={one_in} leaves out batches of training windows, and there are none: "
                'add "train" to stages=. Validation is always watched whole'
            )

    def _check_background(self) -> None:
        """Beside training nothing can be computed that reads what training changes, or runs code of the user's."""
        own = [name for name in self.asked if name not in SHIPPED]
        for given, what in (
            (self.reference is not None, "reference="), (self.probe_sets, "probe_sets="),
            (self.windows.best, "Windows(best=…)"), (self.windows.anchors, "Windows(anchor=…)"),
            (own, f"signals of your own ({', '.join(own)}), which may use random numbers that training draws"),
        ):  # fmt: skip
            if given and self.windows.close == "background":
                raise ConfigurationError(
                    f'Windows(close="background") can\'t be combined with {what}: leave out one of the two'
                )

    def _check_compared_over_time(self) -> None:
        named = named_signals(self.signals)
        for need, given, line in (
            ("best", self.windows.best, 'best="val_loss"'),
            ("anchor", self.windows.anchors, 'anchor="features.npz"'),
        ):
            needy = sorted(name for name in named if need in CATALOG[name].requires)
            if needy and not given:
                raise ConfigurationError(f"{', '.join(needy)}: say what with, as in windows=Windows({line})")
            group = "anchor" if need == "anchor" else "over_time"
            if given and not any(need in CATALOG[name].requires for name in self.asked):
                raise ConfigurationError(
                    f"Windows({line.partition('=')[0]}=…): no signal compares with it. Ask for some, as in "
                    f'signals=["classifier", "{group}"]'
                )

    def _check_probe_sets(self, loaders: Sequence[str]) -> dict[str, ProbeSet]:
        """As they are run; what they can't be together with is refused."""
        sets = named(self.probe_sets, [*STAGES, *loaders])
        object.__setattr__(self, "probe_sets", sets or None)
        if sets and self.features is not None:
            raise ConfigurationError(
                "features= reads what a step returns, and probe_sets= run no step: name the module with layer="
            )
        if self.neighbors.reference_rows == "all" and self.reference not in sets:
            name = f"clean_{self.reference}" if self.reference in (*STAGES, *loaders) else self.reference
            line = f"probe_sets={{{name!r}: loader}}, reference={name!r}"
            raise ConfigurationError(
                f'Neighbors(reference_rows="all") lets rows of reference={self.reference!r} vote as they come, when '
                f"those they vote on are there: paste {line}"
            )
        one = sets.get(self.reference or "")
        if one is not None and one.every_n_epochs > 1:
            raise ConfigurationError(
                f"reference={self.reference!r} is a probe set that runs every {one.every_n_epochs} epochs, and other "
                "windows need it each time: leave out its every_n_epochs="
            )
        return sets

    def _check_headline(self) -> None:
        headline = self.display.headline
        asked = self.asked or tuple(CATALOG)
        if headline is not None and headline not in asked:
            raise ConfigurationError(
                f"headline={headline!r} is not among the signals.{near_misses(headline, asked)} It is the "
                "curve that the progress bar shows"
            )

    def _check_reference(self, sets: Sequence[str]) -> None:
        if self.reference is None:
            needy = [name for name in self.asked if "reference" in CATALOG[name].requires]
            if needy and (set(needy) & named_signals(self.signals) or needy == list(self.asked)):
                raise ConfigurationError(
                    f"{', '.join(needy)} compare a window with another one: give "
                    'FeatureGeometryMonitor(reference="train"), or the name of a loader'
                )
            return
        names = [segment(name) for name in self.loader_names or ()]
        if self.reference not in ("train", *names, *sets) and (
            names or not re.fullmatch(r"(val|test)(_\d+)?", self.reference)
        ):
            known = ["train", *sets, *(names or ("val", "val_1"))]
            raise ConfigurationError(
                f'reference={self.reference!r} is neither "train" nor a loader.{near_misses(self.reference, known)}'
            )
        if self.reference == "train" and "train" in names:
            raise ConfigurationError(
                'reference="train" means the training windows, and a loader is called "train" too: name that one '
                'otherwise in loader_names=, for example "train_clean"'
            )
        if self.reference == "train" and tuple(self.stages) == ("train",):
            raise ConfigurationError(
                'reference="train" compares other windows with training, and stages= has only "train": add "val"'
            )
        if self.reference == "train" and self.windows.every_n_train_steps is not None:
            raise ConfigurationError(
                'reference="train" needs training windows of whole epochs: leave out Windows(every_n_train_steps=…)'
            )
