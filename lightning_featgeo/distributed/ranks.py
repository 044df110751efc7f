"""The processes of a run, and the few collectives that a window takes: one fixed sequence, the same on every rank.

What a rank does on its own between two collectives may fail (out of memory, a bad row). So it runs inside
:meth:`Ranks.attempt`: the ranks tell each other whether it worked before any of them goes on, and a failure of one is
an error on all. An error inside a collective itself (a process died) can't be recovered: :class:`BrokenGroup`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lightning_featgeo.errors import Gap, GapKind, explain
from lightning_featgeo.types import Tensor

T = TypeVar("T")


class BrokenGroup(RuntimeError):
    """A collective failed: a process has died or left. The run can't go on, with or without us."""


class RankFailure(RuntimeError):
    """A rank failed in our code, and every rank knows: the window is a gap on all of them. ``gap`` says why."""

    def __init__(self, reason: str, kind: GapKind = GapKind.FAILED) -> None:
        super().__init__(reason)
        self.gap = Gap(kind, reason)

    @classmethod
    def of(cls, gaps: Mapping[int, Gap] | Gap | None) -> RankFailure:
        """From each failed rank's own gap, or from that of this process alone."""
        if not isinstance(gaps, Mapping):
            return cls(str(gaps), gaps.kind if gaps is not None else GapKind.FAILED)
        kinds = {gap.kind for gap in gaps.values()} - {GapKind.REPORTED}  # reported on its own rank only
        told = "; ".join(f"rank {rank}: {gap}" for rank, gap in gaps.items())
        return cls(told, kinds.pop() if len(kinds) == 1 else GapKind.FAILED)


class Ranks:
    """This process and the others that hold other rows of the same window.

    Args:
        group: the process group of those that see different data; None: all processes. Without an initialised
            ``torch.distributed`` this process is alone, and every method is a no-op.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        together = dist.is_available() and dist.is_initialized()
        self.rank: int = dist.get_rank(group) if together else 0
        self.size: int = dist.get_world_size(group) if together else 1
        self.several: bool = self.size > 1  # whether there are others

    @classmethod
    def alone(cls) -> Ranks:
        """This process, whatever others there are."""
        ranks = cls.__new__(cls)
        ranks.group, ranks.rank, ranks.size, ranks.several = None, 0, 1, False
        return ranks

    # --- agreement -------------------------------------------------------------------------------------------

    def attempt(self, local: Callable[[], T]) -> T:
        """Run something of this rank's own; if it fails on any rank, raise on all.

        Raises:
            RankFailure: with the reasons of those that failed. Alone, the error itself is raised.
        """
        if not self.several:
            return local()
        reason: str | None = None
        made: Any = None
        try:
            made = local()
        except Exception as error:
            reason = explain(error)
        self.agree(reason)
        result: T = made
        return result

    def agree(self, failure: str | None) -> None:
        """Raise on all ranks if any has a failure to report.

        Raises:
            RankFailure: with the reasons.
        """
        flag = self.sum(torch.tensor([failure is not None], dtype=torch.int64))
        if int(flag) == 0:
            return
        if not self.several:
            raise RankFailure(str(failure))
        told = [f"rank {rank}: {reason}" for rank, reason in enumerate(self.gather(failure)) if reason is not None]
        raise RankFailure("; ".join(told))

    # --- collectives -----------------------------------------------------------------------------------------

    def gather(self, thing: T) -> list[T]:
        """A small picklable thing of every rank, by rank."""
        if not self.several:
            return [thing]
        found: list[Any] = [None] * self.size
        self._call(dist.all_gather_object, found, thing)
        return found

    def share(self, thing: T) -> T:
        """Rank 0's small picklable thing, on every rank."""
        if not self.several:
            return thing
        box: list[Any] = [thing]
        self._call(dist.broadcast_object_list, box, src=self._first)
        result: T = box[0]
        return result

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place where the backend takes the tensor as it is; returns it."""
        return self._reduce(tensor, "SUM")

    def minimum(self, tensor: Tensor) -> Tensor:
        """Minimum over ranks, as :meth:`sum`."""
        return self._reduce(tensor, "MIN")

    def maximum(self, tensor: Tensor) -> Tensor:
        """Maximum over ranks, as :meth:`sum`."""
        return self._reduce(tensor, "MAX")

    def _reduce(self, tensor: Tensor, how: str) -> Tensor:
        if not self.several or tensor.numel() == 0:
            return tensor
        sent = self._sendable(tensor)
        self._call(dist.all_reduce, sent, op=getattr(dist.ReduceOp, how))
        return tensor if sent is tensor else tensor.copy_(sent)

    def stack(self, tensor: Tensor) -> Tensor:
        """(size, …) every rank's tensor of the same shape."""
        if not self.several:
            return tensor[None]
        sent = self._sendable(tensor)
        received = sent.new_empty(self.size, *sent.shape)
        self._call(dist.all_gather, list(received.unbind(0)), sent)
        return received.to(tensor.device)

    def swap(self, parts: Tensor) -> Tensor:
        """(size, …) where ``parts[r]`` goes to rank r, and what comes back at ``[r]`` is from rank r."""
        if not self.several:
            return parts
        sent = self._sendable(parts)
        received = torch.empty_like(sent)
        self._call(dist.all_to_all_single, received, sent)
        return received.to(parts.device)

    def _sendable(self, tensor: Tensor) -> Tensor:
        """Contiguous, and on a device that the backend takes: NCCL knows only its own."""
        if tensor.device.type == "cpu" and dist.get_backend(self.group) == "nccl":
            tensor = tensor.cuda()
        return tensor.contiguous()

    def _call(self, collective: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            collective(*args, group=self.group, **kwargs)
        except Exception as error:
            raise BrokenGroup(
                f"{collective.__name__} failed ({error}): a process of the group has died or left: see its log. The "
                "run can't go on without it; start again from the last checkpoint"
            ) from error

    # --- shares ----------------------------------------------------------------------------------------------

    def slice_of(self, n: int, rank: int | None = None) -> slice:
        """This (or another) rank's share of n things: consecutive, and of ⌈n/size⌉ but for the last ones."""
        width = -(-n // self.size)
        start = min(n, width * (self.rank if rank is None else rank))
        return slice(start, min(n, start + width))

    def in_shares(self, n: int, local: Callable[[slice], tuple[Tensor, ...]], tables: tuple[Tensor, ...]) -> None:
        """Let each rank compute its share of n rows of some tables, and collect all of them on rank 0.

        Args:
            n: rows.
            local: what computes the tables' rows in a slice.
            tables: n rows each, filled in place on rank 0; on others only their own rows are.
        """
        mine = self.slice_of(n)
        for table, rows in zip(tables, self.attempt(lambda: local(mine)), strict=True):
            table[mine] = rows
            if self.several:
                self._collect(table, -(-n // self.size))

    def _collect(self, table: Tensor, width: int) -> None:
        """Every rank's own rows of a table, into rank 0's."""
        kind = torch.uint8 if table.dtype == torch.bool else table.dtype
        sent = self._sendable(table[self.slice_of(len(table))].to(kind))
        padded = sent.new_zeros(width, *table.shape[1:])
        padded[: len(sent)] = sent
        received = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == 0 else None
        self._call(dist.gather, padded, received, dst=self._first)
        for rank, rows in enumerate(received or []):
            share = self.slice_of(len(table), rank)
            table[share] = rows[: share.stop - share.start].to(table.dtype)

    def everywhere(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor on every rank, in place."""
        if self.several and tensor.numel():
            kind = torch.uint8 if tensor.dtype == torch.bool else tensor.dtype
            sent = self._sendable(tensor.to(kind))
            self._call(dist.broadcast, sent, src=self._first)
            tensor.copy_(sent.to(tensor.dtype))
        return tensor

    @property
    def _first(self) -> int:
        return dist.get_global_rank(self.group, 0) if self.group is not None else 0
