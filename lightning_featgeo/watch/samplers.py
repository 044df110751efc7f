"""What a loader does with its samples: which part of them a rank gets, which come twice, and in what order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_featgeo.distributed.ranks import Ranks

_PADS_AT_THE_END = ("torch", "torchdata", "lightning", "pytorch_lightning", "lightning_fabric")


def keeps_order(loader: Any) -> bool:
    """Whether a loader is known to give the same samples in the same order every time.

    A list of batches does; and a loader that reads its data set from front to back, in batches or in what items the
    data set has. An iterable data set, a sampler of one's own and another library's loader may do as they like.
    """
    whole_items = getattr(loader, "batch_sampler", None) is None and _is_front_to_back(loader, loader)
    return isinstance(loader, (list, tuple)) or whole_items or in_order(loader)


def in_order(loader: Any) -> bool:
    """Whether a loader is known to give its data set from front to back, so that a sample's number is its position."""
    batches = getattr(loader, "batch_sampler", None)
    if not _is_stock(batches):
        return False
    return _is_front_to_back(loader, batches)


def _is_front_to_back(loader: Any, holder: Any) -> bool:
    """Whether the sampler that a loader, or its batch sampler, holds gives the loader's data set in order."""
    dataset, sampler = getattr(loader, "dataset", None), getattr(holder, "sampler", None)
    if isinstance(dataset, IterableDataset):
        return False
    if type(sampler) is SequentialSampler:
        return True
    if not isinstance(sampler, DistributedSampler) or type(sampler).__module__.split(".")[0] not in _PADS_AT_THE_END:
        return False
    return not getattr(sampler, "shuffle", True) and sampler.dataset is dataset  # else it wraps a sampler


@dataclass
class Shard:
    """One rank's part of a loader, while it is read.

    ``own``: samples that are this rank's first, behind which come repeats that even out the ranks; None: unknown.
    ``length``: of the whole data set, where it has one. ``repeats``: how many samples come twice on all ranks together;
    None: nobody knows. ``batch_size``, ``total``: samples a batch, and in all. ``seen``: samples so far; None: some
    were missed.
    """

    ranks: Ranks
    own: int | None = None
    length: int | None = None
    repeats: int | None = 0
    batch_size: int = 0
    total: int = 0
    seen: int | None = 0

    @classmethod
    def of(cls, loader: Any, ranks: Ranks) -> Shard:
        """What can be proven about a loader.

        Torch's and Lightning's ``DistributedSampler``, read in order, gives rank r of W the positions r, r + W, …;
        those at or behind the length are repeats from the start.
        """
        if not ranks.several:
            return cls(ranks)
        batches = getattr(loader, "batch_sampler", None)
        stock = _is_stock(batches)
        sampler = getattr(batches if stock else loader, "sampler", None)
        length = _length(getattr(loader, "dataset", None))
        known = isinstance(sampler, DistributedSampler) and type(sampler).__module__.split(".")[0] in _PADS_AT_THE_END
        if not known or not isinstance(sampler, DistributedSampler):
            return cls(ranks, None, length, None)
        length = _length(sampler.dataset)
        in_order = stock and length is not None
        fits = sampler.num_replicas == ranks.size and sampler.rank == ranks.rank
        if not (in_order and fits):
            return cls(ranks, None, length, None)
        assert length is not None
        if sampler.drop_last:
            return cls(ranks, None, length, 0)
        own = max(0, -(-(length - ranks.rank) // ranks.size))
        return cls(ranks, own, length, sampler.total_size - length, loader.batch_size, sampler.num_samples)

    @property
    def droppable(self) -> bool:
        """Whether it is known which samples are repeats."""
        return self.own is not None and self.seen is not None

    def fresh(self, samples: int) -> int | None:
        """How many of the next batch's samples are no repeats; None: all, or that can't be told.

        Samples of a batch that are not as many as the sampler has given (crops, packed sequences) can't be told apart.
        """
        if self.own is None or self.seen is None or samples != min(self.batch_size, self.total - self.seen):
            return None
        return max(0, self.own - self.seen)

    def advance(self, samples: int) -> int:
        """So many samples were read; returns how many of them were repeats from the start."""
        fresh = self.fresh(samples)
        if self.own is not None and self.seen is not None and fresh is None:
            self.own = None
        self.seen = None if self.seen is None else self.seen + samples
        return 0 if fresh is None else max(0, samples - fresh)


def front_to_back(loader: Any, ranks: Ranks) -> Any:
    """A loader of this rank's part of the samples, in the data set's order and without dropping any, also of one that
    shuffles; None: that can't be told of this one (an iterable, a sampler that chooses or weighs samples).

    A loader that is divided already is given back as it is.
    """
    dataset: Any = getattr(loader, "dataset", None)
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        return loader
    if type(loader) is not DataLoader or isinstance(dataset, IterableDataset) or _length(dataset) is None:
        return None
    shuffles = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(dataset)
    if (
        loader.batch_size is None
        or not _is_stock(loader.batch_sampler)
        or not (shuffles or type(sampler) is SequentialSampler)
    ):
        return None
    mine: Any = SequentialSampler(dataset)
    if ranks.several:
        mine = DistributedSampler(dataset, ranks.size, ranks.rank, shuffle=False)
    return DataLoader(
        dataset, loader.batch_size, sampler=mine, num_workers=loader.num_workers, collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory, timeout=loader.timeout, worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context, prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )  # fmt: skip


def _is_stock(batches: Any) -> bool:
    """Whether batches are the sampler's samples one after the other: torch's BatchSampler, or torchdata's."""
    kind = type(batches)
    return kind is BatchSampler or (kind.__name__ == "BatchSampler" and kind.__module__.startswith("torchdata."))


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def stateful(loader: Any) -> bool:
    """Whether a loader can go on in the middle of an epoch (torchdata's ``StatefulDataLoader``)."""
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))
