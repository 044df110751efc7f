"""Rows of an evaluation, where no loss tells: whether they have labels, by what training has shown."""

from __future__ import annotations

from typing import Any

from lightning_featgeo.rows.chosen import Chosen
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.scored_rows import goes_back
from lightning_featgeo.rows.words import MOVED


def lost_labels(told: Any, one: Chosen, reader: LabelReader) -> str:
    """Why rows have no label; "": they may have.

    Args:
        told: the ``Scoring`` of the run.
        one: the call that brought them.
        reader: of the labels.
    """
    moved = told.in_place is False or told.turned
    lost = told.in_place is not True and (told.followed is False or (moved and not one.origin))
    seen = told.turned or told.misled or one.call.rows is not None or one.call.is_linked
    if told.trained is not None and not seen:  # who knows whether rows are put back
        lost = lost or (one.origin is not None and one.origin.span is None and goes_back(one.origin.samples))
    if lost or (told.turns_maps and (one.origin is None or one.origin.changed)):
        return MOVED
    return told.left_out.note if told.left_out.are_placeholders and reader.selector == "auto" else ""
