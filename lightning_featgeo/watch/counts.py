"""What all ranks together have seen of a window, and what is to be said of samples that may have come twice."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_featgeo.errors import Note, NoteKind
from lightning_featgeo.watch.plan import Report


def counted(reports: Sequence[Report]) -> dict[str, int]:
    """Batches of all ranks; and samples that came twice: ``padded`` were left out, of ``repeated`` nobody knows."""
    counts = {"batches": sum(told.batches for told in reports), "padded": sum(told.repeats for told in reports)}
    if not all(told.drops_repeats for told in reports) and len(reports) > 1:
        bounds, lengths = {told.bound for told in reports}, {told.length for told in reports}
        samples, bound, length = sum(told.samples for told in reports), reports[0].bound, reports[0].length
        if bounds == {bound} and bound is not None:
            counts["repeated"] = bound
        elif lengths == {None}:
            counts["repeated"] = samples
        elif lengths == {length} and length is not None:  # else each rank has a data set of its own
            counts["repeated"] = max(0, samples - length)
    return {name: count for name, count in counts.items() if count or name == "batches"}


def repeats_note(repeated: int | None) -> list[Note]:
    """What to say of samples that may have come twice."""
    if not repeated:
        return []
    return [
        Note(
            NoteKind.REPEATS,
            f"up to {repeated} samples may have been counted twice: this loader's sampler is not one that is known to "
            "repeat samples only at its end (torch's DistributedSampler, read in order)",
        )
    ]
