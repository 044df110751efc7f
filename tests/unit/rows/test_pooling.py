import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.pooling import check_pool, infer, pool_rows


@pytest.mark.parametrize(
    ("shape", "width", "pool"),
    [
        ((8,), None, "rows"),
        ((8, 5), 5, "rows"),
        ((8, 7, 5), 5, "mean"),
        ((8, 5, 7), 5, "b c t -> b c"),
        ((8, 5, 4, 4), None, "b c h w -> b c"),
        ((8, 5, 4, 4), 5, "b c h w -> b c"),
        ((8, 4, 4, 5), 5, "b h w c -> b c"),
        ((8, 5, 2, 4, 4), None, "b c t h w -> b c"),
        ((8, 2, 4, 4, 5), 5, "b t h w c -> b c"),
    ],
)
def test_layouts_are_inferred_from_shape_and_head(shape, width, pool: str) -> None:
    assert infer(shape, width) == pool


def test_token_labels_ask_for_tokens_and_odd_shapes_for_a_pattern() -> None:
    assert infer((8, 7, 5), 5, per_token_labels=True) == "tokens"
    with pytest.raises(ConfigurationError, match="give an einops pattern"):
        infer((1, 2, 3, 4, 5, 6), None)


def test_maps_are_averaged_over_space_by_pattern() -> None:
    x = torch.randn(3, 5, 4, 4)
    pooled = pool_rows(x, "b c h w -> b c")
    torch.testing.assert_close(pooled.rows, x.mean((2, 3)))
    assert pooled.sample.tolist() == [0, 1, 2]


def test_a_pattern_that_makes_more_rows_knows_their_sample() -> None:
    x = torch.randn(3, 5, 2, 2)
    pooled = pool_rows(x, "b c h w -> (h w b) c")
    assert pooled.sample.tolist() == [0, 1, 2] * 4
    torch.testing.assert_close(pooled.rows[4], x[1, :, 0, 1])


MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


def test_padding_never_counts() -> None:
    x = torch.randn(3, 4, 5)
    poisoned = torch.where(MASK[..., None] == 0, torch.nan, x)
    mean = pool_rows(poisoned, "mean", MASK)
    torch.testing.assert_close(mean.rows[0], x[0, :2].mean(0))
    assert mean.keep is not None
    assert mean.keep.tolist() == [True, True, False]
    last = pool_rows(poisoned, "last", MASK)
    torch.testing.assert_close(last.rows[:2], torch.stack([x[0, 1], x[1, 3]]))
    tokens = pool_rows(poisoned, "tokens", MASK)
    assert tokens.keep is not None
    assert tokens.rows[tokens.keep].isfinite().all()
    assert tokens.sample.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert tokens.position.tolist() == [0, 1, 2, 3] * 3


def test_left_padding_and_no_mask() -> None:
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(pool_rows(x, "last", torch.tensor([[0, 1, 1], [0, 0, 1]])).rows, x[:, 2])
    torch.testing.assert_close(pool_rows(x, "last").rows, x[:, 2])
    torch.testing.assert_close(pool_rows(x, "cls").rows, x[:, 0])
    torch.testing.assert_close(pool_rows(x, "mean").rows, x.mean(1))
    flat = torch.randn(4, 3)
    assert torch.equal(pool_rows(flat, "mean").rows, flat)
    assert pool_rows(torch.randn(4), "rows").rows.shape == (4, 1)
    assert pool_rows(torch.randint(0, 9, (4, 2)), "rows").rows.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: check_pool("avg"), "use one of mean, cls, last, tokens"),
        (lambda: pool_rows(torch.randn(2, 3, 4, 4), "mean"), r"got shape \(2, 3, 4, 4\)"),
        (lambda: pool_rows(torch.randn(2, 3, 4), "rows"), "are no rows"),
        (lambda: pool_rows(torch.randn(2, 3, 4), "b c h w -> b c"), r"does not fit features of shape \(2, 3, 4\)"),
        (lambda: pool_rows(torch.randn(2, 3, 4), "b t d -> b t d"), "must have two axes"),
        (
            lambda: pool_rows(torch.randn(2, 3, 4), "mean", torch.ones(2, 5)),
            r"mask is \(2, 5\), the tokens are \(2, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_shape(call, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        call()


def test_the_batch_axis_of_a_pattern_is_b_and_padding_never_counts_in_patterns() -> None:
    x = torch.randn(5, 3, 2)
    pooled = pool_rows(x, "t b d -> (t b) d")
    assert pooled.sample.tolist() == [0, 1, 2] * 5
    torch.testing.assert_close(pool_rows(x, "t b d -> b d").rows, x.mean(0))
    y = torch.randn(3, 4, 5)
    poisoned = torch.where(MASK[..., None] == 0, torch.nan, y)
    torch.testing.assert_close(pool_rows(poisoned, "b t d -> b d", MASK).rows[0], y[0, :2].mean(0))
    tokens = pool_rows(poisoned, "b t d -> (b t) d", MASK)
    assert tokens.keep is not None
    assert tokens.keep.tolist() == (MASK != 0).reshape(-1).tolist()


def test_sinks_at_the_start_are_left_out_by_whatever_is_real() -> None:
    x = torch.randn(3, 4, 5)
    assert pool_rows(x, "tokens", skip=1).keep.tolist() == [False, True, True, True] * 3
    left_padded = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
    kept = pool_rows(x, "tokens", left_padded, skip=1).keep.reshape(3, 4)
    assert kept.tolist() == [[False, False, True, True], [False, True, True, True], [False] * 4]
    mean = pool_rows(x, "mean", left_padded, skip=1)
    torch.testing.assert_close(mean.rows[0], x[0, 2:].mean(0))
    assert mean.keep.tolist() == [True, True, False]  # one token, and that is the sink
    torch.testing.assert_close(pool_rows(x, "last", left_padded, skip=1).rows[1], x[1, 3])


class _NoFloat64(TorchDispatchMode):
    """As Apple's GPUs: a float64 result is an error."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        assert not any(isinstance(r, torch.Tensor) and r.dtype == torch.float64 for r in tree_leaves(result)), operator
        return result


@pytest.mark.parametrize(
    ("pool", "shape", "owner"),
    [
        ("b t d -> (b t) d", (5, 3, 2), lambda b, t: b),
        ("b t d -> (t b) d", (5, 3, 2), lambda b, t: b),
        ("t b d -> (b t) d", (3, 5, 2), lambda b, t: b),
        ("b d t -> (b t) d", (5, 2, 3), lambda b, t: b),
    ],
)
def test_rows_know_their_sample_on_a_device_without_float64(pool: str, shape, owner) -> None:
    with _NoFloat64():
        pooled = pool_rows(torch.randn(shape), pool)
    inner = [(b, t) for b in range(5) for t in range(3)]
    order = inner if "-> (b t)" in pool else sorted(inner, key=lambda at: (at[1], at[0]))
    assert pooled.sample.tolist() == [owner(b, t) for b, t in order]
    assert pooled.sample.dtype == torch.int64


@pytest.mark.slow
def test_samples_beyond_what_float32_counts_are_told_apart() -> None:
    n = 2**24 + 3
    pooled = pool_rows(torch.zeros(1, 1).expand(n, 2)[:, :, None], "b t d -> (b t) d")
    assert pooled.sample[-5:].tolist() == [n - 3, n - 2, n - 2, n - 1, n - 1]
