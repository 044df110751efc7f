"""Record: one closed window of one layer; and what lines of a history file must hold to be taken for records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar

from lightning_featgeo.errors import Gap, GapKind, Note, NoteKind
from lightning_featgeo.history.checked import finite, items, mapping, name_of, number, plain, table, whole
from lightning_featgeo.history.sketches import unpacked
from lightning_featgeo.types import Tensor

K = TypeVar("K", bound=StrEnum)


@dataclass(frozen=True)
class Record:
    """One closed window of one layer.

    ``window``: number within the run, from 0. ``stage``: as in the logged names. ``layer``: None for the first.
    ``epoch``: fractional. ``step``: optimiser steps so far. ``gaps``: why signals have no value, each a sentence with
    its ``kind``. ``seconds``: the monitor's own host time; ``share``: of the window's. ``counts``: rows seen, dropped,
    duplicated, in the bank, in the reference. ``notes``: what a reader must know, each with its ``kind``.
    ``reference``: the window that was compared with. ``facts``: what the numbers are of (layer, dimension, k, pooling,
    views), so that curves of different things are never taken for the same; and how many directions the
    head's outputs can need (``needed_directions``). ``spectrum``: (rank, eigenvalue) pairs, thinned.
    ``layer_cka``: with the first of several layers, CKA of each with those before it, layer by layer; None without
    spread. ``sketch``: of the rows' distribution; "": none.
    """

    window: int
    stage: str
    layer: str | None
    epoch: float
    step: int
    values: dict[str, float]
    standard_errors: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, Gap] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    share: float = 0.0
    notes: list[Note] = field(default_factory=list)
    reference: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    spectrum: list[list[float]] = field(default_factory=list)
    layer_cka: list[list[float | None]] = field(default_factory=list)
    sketch: str = ""

    @cached_property
    def prefix(self) -> str:
        """What the logged names of this record start with."""
        return f"featgeo/{self.stage}/" + (f"{self.layer}/" if self.layer else "")

    @cached_property
    def sketched(self) -> Tensor | None:
        """The sketch as numbers, which ``metrics.functional.sketch.mmd`` compares with another window's; None: none."""
        return unpacked(self.sketch) if self.sketch else None

    @cached_property
    def text(self) -> str:
        """:meth:`as_dict` as JSON, made once: for the file, and for every checkpoint."""
        return json.dumps(self.as_dict(), allow_nan=False, default=in_plain)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists; :func:`checked_record` reads them back."""
        return {
            **{part.name: getattr(self, part.name) for part in fields(self)},
            "gaps": {name: plain_gap(gap) for name, gap in self.gaps.items()},
            "notes": [{"kind": note.kind.value, "text": str(note)} for note in self.notes],
        }


def in_plain(value: Any) -> Any:
    """NumPy's numbers as Python's, anything else in words: what a user has set must not cost the file."""
    return value.item() if hasattr(value, "item") else str(value)


def checked_record(given: dict[str, Any]) -> Record:
    """A record of a file that may come from anywhere.

    Raises:
        Exception: of those that ``History.load`` takes for a line that can't be read.
    """
    return Record(
        window=whole(given["window"]),
        stage=name_of(given["stage"]),
        layer=None if given["layer"] is None else name_of(given["layer"]),
        epoch=finite(given["epoch"]),
        step=whole(given["step"]),
        values=table(given["values"], number),
        standard_errors=table(given.get("standard_errors", {}), number),
        gaps=table(given.get("gaps", {}), read_gap),
        ceilings=table(given.get("ceilings", {}), number),
        counts=table(given.get("counts", {}), whole),
        seconds=finite(given.get("seconds", 0.0)),
        share=finite(given.get("share", 0.0)),
        notes=[_note(note) for note in items(given.get("notes", []))],
        reference=None if given.get("reference") is None else name_of(given["reference"]),
        facts=table(given.get("facts", {}), lambda value: value if isinstance(value, (int, float)) else _fact(value)),
        spectrum=[[finite(rank), finite(value)] for rank, value in items(given.get("spectrum", []))],
        layer_cka=[
            [None if value is None else finite(value) for value in items(row)]
            for row in items(given.get("layer_cka", []))
        ],
        sketch=_sketch(given.get("sketch", "")),
    )


def _sketch(given: Any) -> str:
    text = name_of(given)
    if text:
        unpacked(text)
    return text


def checked_run(given: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its run; raises as :func:`checked_record` does."""
    found = dict(mapping(given))
    if "format" in found:
        found["format"] = whole(found["format"])
    if "class_names" in found:
        found["class_names"] = [name_of(name) for name in items(found["class_names"])]
    if "definitions" in found:
        found["definitions"] = table(found["definitions"], whole)
    return found


def checked_event(given: dict[str, Any]) -> dict[str, Any]:
    """Something that happened; raises as :func:`checked_record` does."""
    found = dict(mapping(given))
    for name, check in (("epoch", finite), ("step", whole), ("monitor", str), ("reason", str)):
        if found.get(name) is not None:
            found[name] = check(found[name])
    plain(found)
    if "alarm" in found:
        found["alarm"] = dict(mapping(found["alarm"]))
    return found


def plain_gap(gap: Gap) -> dict[str, str]:
    """A gap as plain strings; :func:`read_gap` reads it back."""
    return {"kind": gap.kind.value, "reason": str(gap)}


def read_gap(given: Any, kind: GapKind = GapKind.OTHER) -> Gap:
    """A gap of a file. A history of format 2 has the reason alone; one of a later version may have another kind.

    Args:
        given: as :func:`plain_gap` gave it, or the reason.
        kind: where only the reason was written.

    Raises:
        Exception: of those that ``History.load`` takes for a line that can't be read.
    """
    if not isinstance(given, dict):
        return Gap(kind, name_of(given))
    return Gap(_kind(GapKind, given["kind"]), name_of(given["reason"]))


def _note(given: Any) -> Note:
    if not isinstance(given, dict):
        return Note(NoteKind.OTHER, name_of(given))
    return Note(_kind(NoteKind, given["kind"]), name_of(given["text"]))


def _kind(kinds: type[K], given: Any) -> K:
    return kinds(given) if given in [kind.value for kind in kinds] else kinds["OTHER"]


def _fact(given: Any) -> str | None:
    return None if given is None else name_of(given)
