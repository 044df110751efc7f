"""Pooling: vectors, maps and tokens become rows that know their sample.

A name ("mean", "cls", "last", "tokens"; padding never counts where there is a mask) or an einops pattern whose axes
that vanish are averaged: "b c h w -> b c", "b t d -> (b t) d". Without either, the layout is inferred and stated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from einops import EinopsError, reduce

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.places import each_place
from lightning_featgeo.rows.role import Role
from lightning_featgeo.types import Tensor

NAMES = ("mean", "cls", "last", "tokens")


@dataclass(frozen=True)
class Tokens:
    """Which tokens of a sequence count as rows: ``FeatureGeometryMonitor(pool="tokens", tokens=Tokens(skip=1))``.

    Args:
        per_sequence: most tokens of each sequence, ≥ 1: the same ones in every epoch and on any number of processes.
            None: all.
        skip: number of leading tokens to ignore, ≥ 0 (attention sinks such as BOS); also for pool="mean" and "last".

    Raises:
        ConfigurationError: if a number is too small.
    """

    per_sequence: int | None = None
    skip: int = 0

    def __post_init__(self) -> None:
        if (self.per_sequence is not None and self.per_sequence < 1) or self.skip < 0:
            raise ConfigurationError(
                f"Tokens needs per_sequence ≥ 1 and skip ≥ 0, got {self.per_sequence} and {self.skip}"
            )

    def check(self, pool: str | None) -> None:
        """Refuse what a pooling can't do.

        Raises:
            ConfigurationError: with the pooling that can.
        """
        if self.per_sequence is not None and pool != "tokens" and "(b " not in (pool or "").partition("->")[2]:
            raise ConfigurationError(
                f'Tokens(per_sequence={self.per_sequence}) draws from tokens that are rows: add pool="tokens" or a '
                "pattern such as 'b c h w -> (b h w) c', or leave it out"
            )
        if self.skip and pool is not None and pool not in ("tokens", "mean", "last"):
            raise ConfigurationError(
                f'Tokens(skip={self.skip}) ignores leading tokens: use it with pool="tokens", "mean" or "last", not '
                f"{pool!r}"
            )


ALL_TOKENS = Tokens()


@dataclass(frozen=True)
class Pooled:
    """Rows (n, d) of one call.

    ``sample``: which of its b inputs each comes from. ``keep``: False for padding. ``label_axes``: where a pattern
    makes several rows of an input, the lengths of the axes that labels of the rows have, b first, in the rows' order.
    ``grouped``: rows of one input lie next to each other.
    """

    rows: Tensor
    sample: Tensor
    position: Tensor
    keep: Tensor | None
    inputs: int
    label_axes: tuple[int, ...] | None = None
    grouped: bool = False


def check_pool(pool: str | None) -> None:
    """Refuse a ``pool`` that is neither a name nor looks like a pattern.

    Raises:
        ConfigurationError: with the names there are.
    """
    if pool is not None and pool not in NAMES and "->" not in pool:
        raise ConfigurationError(
            f"unknown pool {pool!r}; use one of {', '.join(NAMES)}, or an einops pattern such as 'b c h w -> b c'"
        )


def usual_pool(
    call: Tensor, labels: Tensor | None, size: int | None, width: int | None, role: Role, notes: dict[str, None]
) -> str:
    """How a call's features become rows where nobody has said it; ``notes`` take what was assumed.

    Args:
        call: the features.
        labels: of the batch.
        size: samples in the batch, if that is known.
        width: what the head takes in, if it is known.
        role: what the layer is in its model.
        notes: of the assembler.

    Raises:
        ConfigurationError: if the shape can't be told from another one.
    """
    refuse_time_first(call, size, role)
    if role.chooses is not False and call.ndim > 2:
        return each_place(call, role.chooses)
    of_tokens = labels is not None and labels.ndim == 2 and call.ndim == 3 and labels.shape[1] == call.shape[1]
    found = infer(tuple(call.shape), width, of_tokens)
    if call.ndim == 3 and labels is not None and labels.ndim == 1 and found == "mean" and width is not None:
        if role.reads_last:
            return "last"
        notes[
            "the head reads every token and a sequence has one label: its tokens are averaged. If the class is read "
            "from one of them, say pool='last' or pool='cls'"
        ] = None
    return found


def infer(shape: tuple[int, ...], width: int | None, per_token_labels: bool = False) -> str:
    """The pooling for features of this shape; ``width``: what the head takes in, if known.

    Raises:
        ConfigurationError: for layouts nobody can guess.
    """
    last = width is not None and shape[-1] == width
    if len(shape) <= 2:
        return "rows"
    if len(shape) == 3:
        if width is not None and not last and shape[1] == width:
            return "b c t -> b c"
        return "tokens" if per_token_labels else "mean"
    if len(shape) == 4:
        return "b h w c -> b c" if last and shape[1] != width else "b c h w -> b c"
    if len(shape) == 5:
        return "b t h w c -> b c" if last and shape[1] != width else "b c t h w -> b c"
    raise ConfigurationError(
        f"features of shape {shape} fit no known layout; give an einops pattern, for example pool='b c x y z w -> b c'"
    )


def pool_rows(x: Tensor, pool: str, mask: Tensor | None = None, skip: int = 0) -> Pooled:
    """Apply a pooling to the features of one forward call.

    Args:
        x: (b, …).
        pool: "rows", a name, or an einops pattern.
        mask: (b, t), non-zero where a token is real; for tokens (b, t, d) only.
        skip: number of leading tokens to ignore (e.g. BOS attention sinks); for "tokens", "mean" and "last". A
            sequence that has no more than these is left out.

    Raises:
        ConfigurationError: if the pattern or the mask doesn't fit; the message repeats both and the shape.
    """
    if not x.is_floating_point():
        x = x.float()
    b = x.shape[0] if x.ndim else 1
    index = torch.arange(b, device=x.device)
    zeros = torch.zeros_like(index)
    if pool == "rows":
        if x.ndim > 2:
            raise ConfigurationError(f"features of shape {tuple(x.shape)} are no rows; give pool='mean' or a pattern")
        return Pooled(x if x.ndim == 2 else x.reshape(b, 1), index, zeros, None, b)
    if "->" in pool:
        return _by_pattern(x, pool, mask if mask is not None and mask.shape == x.shape[:2] else None)
    if x.ndim == 2:  # a vector a sample is its own mean, first and last token
        return Pooled(x, index, zeros, None, b)
    if x.ndim != 3:
        raise ConfigurationError(
            f"pool={pool!r} takes tokens (batch, tokens, dimensions), got shape {tuple(x.shape)}; "
            "give an einops pattern, for example pool='b c h w -> b c'"
        )
    real = None
    if mask is not None:
        if mask.shape != x.shape[:2]:
            raise ConfigurationError(
                f"the mask is {tuple(mask.shape)}, the tokens are {tuple(x.shape[:2])}; name another with mask=…, "
                "or mask=None to count every token"
            )
        real = mask.to(x.device) != 0
    if skip:
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if real is None else real
        real = real & (real.cumsum(dim=1) > skip)
    if pool == "tokens":
        t = x.shape[1]
        keep = None if real is None else real.reshape(-1)
        places = torch.arange(t, device=x.device).repeat(b)
        return Pooled(x.reshape(b * t, -1), index.repeat_interleave(t), places, keep, b)
    keep = None if real is None else real.any(dim=1)
    if pool == "cls":
        rows = x[:, 0]
    elif pool == "last":
        at = torch.full((b,), x.shape[1] - 1, device=x.device)
        if real is not None:
            at = torch.where(real, torch.arange(x.shape[1], device=x.device), 0).amax(dim=1)
        rows = x[index, at]
    elif real is None:
        rows = x.mean(dim=1)
    else:
        rows = torch.where(real[..., None], x, 0).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return Pooled(rows, index, zeros, keep, b)


def _by_pattern(x: Tensor, pattern: str, mask: Tensor | None) -> Pooled:
    """Rows by an einops pattern; the batch is the axis named b, or the first. Masked tokens enter no average."""
    try:
        if mask is None:
            rows, keep = reduce(x, pattern, "mean"), None
        else:
            real = (mask.to(x.device) != 0)[..., None].expand(x.shape)
            count = reduce(real.to(x.dtype), pattern, "sum")
            rows, keep = reduce(torch.where(real, x, 0), pattern, "sum") / count.clamp(min=1), (count > 0).any(dim=-1)
    except (EinopsError, RuntimeError) as error:
        raise ConfigurationError(
            f"pool={pattern!r} does not fit features of shape {tuple(x.shape)}: {str(error).strip().splitlines()[-1]}"
        ) from None
    if rows.ndim != 2:
        raise ConfigurationError(
            f"pool={pattern!r} makes shape {tuple(rows.shape)} of {tuple(x.shape)}; the right side must have two "
            "axes, rows and dimensions"
        )
    axes = re.findall(r"\w+|\.\.\.", pattern.split("->")[0])
    batch_axis = axes.index("b") if "b" in axes and len(axes) == x.ndim else 0
    b, n = x.shape[batch_axis], rows.shape[0]
    index = torch.arange(b, device=x.device)
    if n == b:
        return Pooled(rows, index, torch.zeros_like(index), keep, b)
    # Send the samples' own numbers down the same path: where each row came from, whatever the pattern. In integers,
    # which are exact and which every device has.
    shape = [1] * x.ndim
    shape[batch_axis] = b
    came_from = reduce(index.to(torch.int32).reshape(shape).expand(x.shape), pattern, "min")[:, 0].to(torch.int64)
    grouped, label_axes = _several_rows(pattern, axes, tuple(x.shape))
    position = torch.arange(n, device=x.device)
    return Pooled(rows, came_from, position % (n // b) if grouped else position, keep, b, label_axes, grouped)


def _several_rows(pattern: str, axes: list[str], shape: tuple[int, ...]) -> tuple[bool, tuple[int, ...] | None]:
    """Of a pattern "b … -> (b …) d": whether rows of one input lie together, and the lengths of their axes."""
    group = re.match(r"\s*\(([\w ]+)\)", pattern.split("->")[1])
    names = group[1].split() if group else []
    if not names or names[0] != "b" or len(axes) != len(shape) or not set(names) <= set(axes):
        return False, None
    return True, tuple(shape[axes.index(name)] for name in names)


def spread(labels: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Labels (b, …) of each row, where rows are b and further axes of these lengths; the nearest of another size.

    Args:
        labels: (b, h, w) or (b, t).
        axes: (b, h', w') or (b, t').
    """
    for dim, length in enumerate(axes[1:], 1):
        if labels.shape[dim] != length:
            at = torch.arange(length, device=labels.device) * labels.shape[dim] // length  # as a stride reads them
            labels = labels.index_select(dim, at)
    return labels.reshape(-1)


def refuse_time_first(x: Tensor, size: int | None, role: Role) -> None:
    """(t, b, d) as an LSTM makes it would be pooled over the batch and its labels mixed, in silence.

    Args:
        x: features of one call.
        size: samples in the batch, if that is known.
        role: of the layer.

    Raises:
        ConfigurationError: if the batch seems to be the second axis, with lines to paste.
    """
    views = bool(size) and x.ndim == 3 and x.shape[0] % max(1, size or 1) == 0
    square = role.may_be_time_first and not role.time_first and size == x.shape[0]
    if x.ndim == 3 and size is not None and size == x.shape[1] and (not views or square):
        raise ConfigurationError(
            f"features are {tuple(x.shape)} and the batch has {size} samples: axis 1 seems to be the batch. "
            "Paste: FeatureGeometryMonitor(pool='t b d -> b d')"
            + (", or pool='b t d -> b d' if axis 0 is" if square else "")
        )
