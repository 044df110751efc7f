"""Sample ids: the user's names of the rows that a bank may keep, in bounded memory."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning, explain
from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.rows.batches import Selector, select, summarize
from lightning_featgeo.types import Tensor

SPARE = 4  # so many times a bank's rows are remembered before those that it has not kept are forgotten
LONGEST = 200  # characters of an id that are shown
LARGEST = 2**62 - 1  # number of a sample


class SampleIds:
    """Ids by sample number, for the samples of one window.

    Args:
        key: key, index or callable into the batch; gives one id a sample, strings or integers.
        known: ids that are known already.
    """

    def __init__(self, key: Selector, known: Mapping[int, str] | None = None) -> None:
        self.key = key
        self._known: dict[int, str] = dict(known or {})
        self._waiting: list[tuple[int | Tensor, Any]] = []
        self.failed = False

    def clear(self) -> None:
        """A new window."""
        self._known.clear()
        self._waiting.clear()
        self.failed = False

    def numbers(self, batch: Any) -> Tensor:
        """(samples,) a number for each id, the same one in every window, process and run; from 0 on.

        Raises:
            ConfigurationError: if the batch has no ids.
        """
        given = select(batch, self.key, "id_key")
        if isinstance(given, Tensor) and given.ndim == 1 and not given.is_floating_point():
            return _mixed(given.long())
        ids = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(ids, Sequence) or isinstance(ids, str):
            raise ConfigurationError(f"id_key={self.key!r} gives {summarize(given)}; each sample needs one id")
        return numbers_of(ids)

    def add(
        self, batch: Any, first: int, samples: int, ranks: Ranks, metrics: Sequence[GeometryMetric],
        numbers: Tensor | None = None,
    ) -> None:  # fmt: skip
        """The ids of a batch. What is only shown never costs a curve: ids that don't fit are a warning.

        Args:
            batch: what the step got.
            first: samples of this rank before this batch.
            samples: of this batch.
            ranks: rank r of W numbers its samples r, r + W, ….
            metrics: whose banks keep some of them.
            numbers: of the samples, where they are not numbered by their place.
        """
        if self.failed:
            return
        try:
            self._add(batch, first if numbers is None else numbers, samples, ranks, metrics)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._known.clear()
        self._waiting.clear()
        self.failed = True
        warnings.warn(
            f"featgeo: {explain(error)}. Samples of this window have no ids; its curves are not affected",
            FeatureGeometryWarning,
            stacklevel=3,
        )

    def _add(
        self, batch: Any, first: int | Tensor, samples: int, ranks: Ranks, metrics: Sequence[GeometryMetric]
    ) -> None:
        given = select(batch, self.key, "id_key")
        many = isinstance(given, Sequence) and not isinstance(given, str)
        if not (many or getattr(given, "ndim", 0) == 1) or len(given) != samples:
            raise ConfigurationError(
                f"id_key={self.key!r} gives {summarize(given)}; each of the batch's {samples} samples needs one id"
            )
        self._waiting.append((first, given))
        waiting = sum(len(ids) for _, ids in self._waiting)
        if len(self._known) + waiting > SPARE * max((metric.bank_size or 0 for metric in metrics), default=0):
            self._settle(ranks)
            banks = [metric.bank for metric in metrics if metric.bank is not None]
            kept = {int(sample) for bank in banks for sample in bank.samples.tolist()}
            self._known = {sample: name for sample, name in self._known.items() if sample in kept}

    def _settle(self, ranks: Ranks) -> None:
        """Read what has arrived: not batch by batch, as ids may be on a device that would have to be waited for."""
        for first, given in self._waiting:
            ids = given.tolist() if hasattr(given, "tolist") else given
            if isinstance(first, Tensor):
                numbers = first.tolist()
            else:
                numbers = [(first + place) * ranks.size + ranks.rank for place in range(len(ids))]
            for number, name in zip(numbers, ids, strict=True):
                if name is not None:
                    self._known[number] = str(name)[:LONGEST]
        self._waiting.clear()

    def snapshot(self, ranks: Ranks) -> SampleIds:
        """These of all ranks as they are now, in memory of their own. A collective."""
        try:
            self._settle(ranks)
        except Exception as error:  # before the collective below: other ranks wait there
            self._fail(error)
        found: dict[int, str] = {}
        for theirs in ranks.gather(dict(self._known)):
            found |= theirs
        return SampleIds(self.key, found)

    @property
    def known(self) -> Mapping[int, str]:
        """Ids by sample number, as far as they were read."""
        return self._known

    def of(self, samples: Tensor | None, ranks: Ranks) -> dict[int, str]:
        """Ids of the samples that rank 0 asks for, from whichever rank has seen them. A collective."""
        try:
            self._settle(ranks)
        except Exception as error:  # before the collective below: other ranks wait there
            self._fail(error)
        wanted = ranks.share(None if samples is None else samples.tolist()) or []
        mine = {sample: self._known[sample] for sample in wanted if sample in self._known}
        found: dict[int, str] = {}
        for theirs in ranks.gather(mine):
            found |= theirs
        return found


def numbers_of(ids: Sequence[Any]) -> Tensor:
    """(n,) a number for each id, text or a whole number, from 0 on."""
    return _mixed(torch.tensor([_number(one) for one in ids], dtype=torch.int64))


def _mixed(numbers: Tensor) -> Tensor:
    """From 0 on, with every bit of a number in the low ones, which choose the rows that are kept (Stafford's mix)."""

    def folded(x: Tensor, by: int) -> Tensor:
        return x ^ ((x >> by) & (2 ** (64 - by) - 1))  # the sign is a bit like others

    x = folded(numbers, 30) * -0x40A7B892E31B1A47
    return folded(folded(x, 27) * -0x6B2FB644ECCEEE15, 31) & LARGEST


def _number(one: Any) -> int:
    if isinstance(one, int):
        return one & LARGEST
    return int.from_bytes(hashlib.blake2b(str(one).encode(), digest_size=8).digest(), "little") & LARGEST
