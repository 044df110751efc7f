"""Along which axes a sample's places lie: tokens before the batch or flattened into it, and codes at each place."""

from __future__ import annotations

from dataclasses import replace

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.role import Role
from lightning_featgeo.types import Tensor


def arranged(one: Call | Tensor, pool: str | None, size: int | None, role: Role) -> Call:
    """A call with the batch's axis first.

    Args:
        one: the call, or its features.
        pool: as the user has said it; with "tokens", those that a block has flattened, (b·t, d), are (b, t, d) again.
        size: samples in the batch, where that is needed.
        role: of the layer; one may put out time first.
    """
    call = one if isinstance(one, Call) else Call(one)
    n = len(call.features) if call.features.ndim else 0
    if role.time_first and call.features.ndim == 3 and pool is None:
        return replace(call, features=call.features.transpose(0, 1))
    if pool == "tokens" and size and call.features.ndim == 2 and n > size and n % size == 0:
        return replace(call, features=call.features.unflatten(0, (size, -1)))
    return call


def each_place(call: Tensor, alone: bool | None) -> str:
    """Codes are chosen at each place: an average of them is none. One-hot ones tell along which axis they lie."""
    inner = " ".join("thwuv"[: call.ndim - 2]) if call.ndim <= 7 else ""
    first, last = f"b k {inner} -> (b {inner}) k", f"b {inner} k -> (b {inner}) k"
    if call.numel() and bool(((call == 0) | (call == 1)).all()):
        for axis, pattern in ((1, first), (-1, last)):
            if bool((call.sum(dim=axis) == 1).all()):
                return pattern
    if call.ndim == 3 and alone:
        return "tokens"
    raise ConfigurationError(
        f"signals of codes read the choice at each place, and features are {tuple(call.shape)}: say which axis holds "
        f"the codes, with pool={last!r} or pool={first!r}"
        + ("" if alone else ". Each place is a row then, for the other signals, too")
    )
