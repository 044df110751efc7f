"""Which windows of a very long run stay in memory, in checkpoints and in a report: the file has all of them.

Of a curve with more than ``MOST`` windows (fewer where there are many curves: all together are bounded), the last
quarter of that many stay, and as many that are spread evenly over those before; and the first, and the latest of those
with an alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_featgeo.history.record import Record

MOST, LEAST = 4096, 64  # windows of a curve
ALL = 16384  # of all curves, if they are few enough for that

Curve = tuple[str, str | None]  # stage and layer


def most_of(curves: int) -> int:
    """Windows of a curve that may be kept, where there are so many curves."""
    return max(LEAST, min(MOST, ALL // max(curves, 1)))


def thinned(records: Sequence[Record], events: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The records that stay, in their order; of those in which something happened at least the latest ones.

    All curves are thinned at once, those that have half of what they may have too: it is long until the next time.
    """
    epochs = {event.get("epoch") for event in events}
    curves: dict[Curve, list[Record]] = {}
    for record in records:
        curves.setdefault((record.stage, record.layer), []).append(record)
    most = most_of(len(curves))
    dropped: set[int] = set()
    for own in curves.values():
        if len(own) > most // 2:
            older = own[: -(most // 4)]
            stay = {id(record) for record in _spread(older, most // 4)}
            stay |= {id(record) for record in [one for one in older if one.epoch in epochs][-(most // 8) :]}
            dropped |= {id(record) for record in older if id(record) not in stay}
    return [record for record in records if id(record) not in dropped]


def _spread(own: Sequence[Record], most: int) -> list[Record]:
    """At most so many of a curve's records, about as far apart as each other in the run's windows."""
    first, last = own[0].window, max(record.window for record in own)  # in a damaged file they may go back
    distance = max(1, last - first + 1) / most
    kept: dict[int, Record] = {}
    for record in own:  # the first one in each of so many equal parts
        kept.setdefault(int((record.window - first) / distance), record)
    return list(kept.values())
