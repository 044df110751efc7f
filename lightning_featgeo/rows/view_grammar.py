"""The grammar of ``views=``: how the views of a sample are laid out in what a module was called with.

=================  =====================================================================================================
``"auto"``         each call of the batch's size is a view; a call of v times that size stacks v views
``"v b"``          a call stacks views, view after view; the batch tells how many
``"b v"``          the same, sample by sample
``2``, ``"2 b"``   a call (or the batch itself) stacks 2 views, view after view
``"b 2"``          the same, sample by sample
a callable         gives the view of each row, from the batch
``None``           there are no views: every call brings new samples
=================  =====================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_featgeo.errors import ConfigurationError

Views = str | int | Callable[[Any], Any] | None
_PATTERN = re.compile(r"(?P<first>v|\d+) b|b (?P<last>v|\d+)")


@dataclass(frozen=True)
class ViewLayout:
    """What ``views=`` says.

    Args:
        given: as it was given, for messages.
        count: views stacked in a call, where that is said.
        stacked: whether it is said that a call stacks views.
        by_sample: whether the views of a sample lie next to each other.
        of_batch: the callable that tells each row's view from the batch.
        is_auto: whether the sizes of the calls decide.
        is_none: whether every call brings new samples.
    """

    given: Views
    count: int | None = None
    stacked: bool = False
    by_sample: bool = False
    of_batch: Callable[[Any], Any] | None = None
    is_auto: bool = False
    is_none: bool = False


def parse_views(views: Any) -> ViewLayout:
    """What ``views=`` says, in words of one meaning each.

    Raises:
        ConfigurationError: if it is written in none of the ways there are; the message lists them.
    """
    if views is None or views == "auto":
        return ViewLayout(views, is_auto=views == "auto", is_none=views is None)
    if callable(views):
        return ViewLayout(views, of_batch=views)
    if isinstance(views, int) and not isinstance(views, bool):
        found = ViewLayout(views, count=views, stacked=True)
    else:
        match = _PATTERN.fullmatch(views) if isinstance(views, str) else None
        if match is None:
            raise ConfigurationError(
                f'views={views!r}: use "auto", a number, "v b" or "2 b" (view after view), "b v" or "b 2" (sample by '
                "sample), a callable on the batch, or None (every call brings new samples)"
            )
        number = match["first"] or match["last"]
        found = ViewLayout(views, None if number == "v" else int(number), True, match["first"] is None)
    if found.count is not None and found.count < 1:
        raise ConfigurationError(f"views={views!r}: a call holds at least one view")
    return found
