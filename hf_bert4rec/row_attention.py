"""
Attention on a CPU of rows that stand one behind the other, each to itself, without padding: the rows of one length at a time.

The lengths together are one step of the graph: one for each would take as long as a fifth of the products. Without
dropout the way of each length is torch's own. With dropout torch has no fused attention on a CPU, and plain products, whose
scores exist as a whole, take a fifth off a training step; in bfloat16 torch's is slow, its pass back more than twice as slow as
in float32.

*Source:* Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), section 3.2.1.
*Differences:* none in the mathematics; in bfloat16 scores and weights are so too, the softmax's sums in float32.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.autograd.function import once_differentiable

from .dropout import draw_kept, scale_of_kept

# Rows of one length that stand together: how many they are, queries of each, keys of each.
Size = tuple[int, int, int]


def fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, sizes: Sequence[Size], is_causal: bool = False
) -> torch.Tensor:
    r"""
    Attention of rows to themselves by torch's own for a CPU, in float32 or more.

    Args:
        query, key, value (`torch.Tensor` of shape `(tokens, heads, size)`): Projections of rows that stand one behind the other;
            tokens behind the rows are no row's.
        sizes (list of `tuple`): For rows of one length that stand together: how many they are, queries of each, keys of each.
        is_causal (`bool`, *optional*, defaults to `False`): Whether a query sees the keys up to its own place alone.

    Returns:
        `torch.Tensor` of the shape of `query`; 0 behind the rows.

    Raises:
        ValueError: If rows of a size have no query or no key.

    Example:
        >>> one_row = torch.eye(3)[:, None]
        >>> fused_attention(one_row, 99 * one_row, one_row, sizes=[(1, 3, 3)]).argmax(2).tolist()
        [[0], [1], [2]]
    """
    if any(0 in size for size in sizes):  # torch's would end the process
        raise ValueError(f"sizes are {list(sizes)}: give at least one row, query and key in each.")
    forward, backward = (partial(way, is_causal=is_causal) for way in (_fused, _fused_backward))
    return _AttentionByRows.apply(query, key, value, sizes, [forward] * len(sizes), backward)


def attention_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    sizes: Sequence[Size],
    biases: Sequence[torch.Tensor | None] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    r"""
    Attention of rows to themselves by products whose scores exist as a whole.

    Args:
        query, key, value, sizes: As [`fused_attention`] takes them.
        biases (list of `torch.Tensor`, *optional*): For each of the sizes what is added to the scores, broadcast to `(rows,
            heads, queries, keys)`, or `None`.
        scaling (`float`, *optional*, defaults to `size ** -0.5`): Of the scores.
        dropout (`float`, *optional*, defaults to 0): Chance of a weight to be dropped.

    Returns:
        `torch.Tensor` of the shape of `query`; 0 behind the rows.

    Example:
        >>> one_row = torch.eye(3)[:, None]
        >>> attention_by_products(one_row, 99 * one_row, one_row, sizes=[(1, 3, 3)]).argmax(2).tolist()
        [[0], [1], [2]]
    """
    biases = [None] * len(sizes) if biases is None else biases
    scaling = query.shape[2] ** -0.5 if scaling is None else scaling
    # Scaled here, where there are few numbers, and not among the weights.
    scaled = query * scaling, key, value * scale_of_kept(dropout) if dropout else value
    ways = [partial(_products, bias=bias, dropout=dropout) for bias in biases]
    return _AttentionByRows.apply(*scaled, sizes, ways, _products_backward)


def causal_bias(length: int, like: torch.Tensor) -> torch.Tensor:
    """What hides newer events when it is added to scores, `(length, length)`."""
    return like.new_full((length, length), torch.finfo(like.dtype).min).triu_(1)


class _AttentionByRows(torch.autograd.Function):
    """
    Calls for the rows of each size `way(queries, keys, values)`, which gives their output and what `way_back(gradients, *saved)`
    needs to give the three gradients; all are `(rows, heads, length, size)`.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # for the pass back, which shall cast its products as this one does
    def forward(ctx, query, key, value, sizes, ways, way_back):
        ctx.sizes, ctx.num_keys, ctx.way_back = sizes, len(key), way_back
        output, saved = query.new_empty(query.shape), []
        pieces = _rows_by_size(sizes, (query, output), (key, value))
        for way, (queries, into, keys, values) in zip(ways, pieces, strict=True):
            found, of_rows = way(queries, keys, values)
            into.copy_(found)
            saved.append(of_rows)
        _clear_behind_rows(sizes, (output,), ())
        ctx.num_saved = len(saved[0]) if saved else 0
        ctx.save_for_backward(*itertools.chain(*saved))
        return output

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):  # type: ignore[override]
        saved = iter(ctx.saved_tensors)
        of_query = gradient.new_empty(gradient.shape)
        of_keys = [gradient.new_empty(ctx.num_keys, *gradient.shape[1:]) for _ in range(2)]
        for gradients, *into in _rows_by_size(ctx.sizes, (gradient, of_query), of_keys):
            found = ctx.way_back(gradients, *itertools.islice(saved, ctx.num_saved))
            for part, of_rows in zip(into, found, strict=True):
                part.copy_(of_rows)
        _clear_behind_rows(ctx.sizes, (of_query,), of_keys)
        return of_query, *of_keys, None, None, None


def _rows_by_size(
    sizes: Sequence[Size], by_query: Sequence[torch.Tensor], by_key: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """For each of the sizes the states of its rows, in the order given, each `(rows, heads, length, size)`."""
    query_start = key_start = 0
    for num_rows, num_queries, num_keys in sizes:
        queries = slice(query_start, query_start := query_start + num_rows * num_queries)
        keys = slice(key_start, key_start := key_start + num_rows * num_keys)
        pieces = [each[queries].unflatten(0, (num_rows, num_queries)) for each in by_query]
        pieces += [each[keys].unflatten(0, (num_rows, num_keys)) for each in by_key]
        yield tuple(piece.transpose(1, 2) for piece in pieces)


def _clear_behind_rows(sizes: Sequence[Size], by_query: Sequence[torch.Tensor], by_key: Sequence[torch.Tensor]):
    for states in by_query:
        states[sum(num_rows * num_queries for num_rows, num_queries, _ in sizes) :] = 0
    for states in by_key:
        states[sum(num_rows * num_keys for num_rows, _, num_keys in sizes) :] = 0


def _fused(queries, keys, values, *, is_causal: bool):
    queries, keys, values = map(_with_plain_rows, (queries, keys, values))
    found, normalisers = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries, keys, values, is_causal=is_causal
    )
    return found, (queries, keys, values, found, normalisers)


def _fused_backward(gradients, *saved, is_causal: bool):
    gradients = _with_plain_rows(gradients)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(gradients, *saved, 0.0, is_causal)


def _with_plain_rows(states: torch.Tensor) -> torch.Tensor:
    """As torch's own reads them without a look: the numbers of a vector side by side."""
    return states if states.stride(-1) == 1 else states.contiguous()


def _products(queries, keys, values, *, bias: torch.Tensor | None, dropout: float):
    by_row = queries.shape[:2]  # rows, heads
    queries, keys, values = (states.flatten(0, 1) for states in (queries, keys, values))
    scores = torch.bmm(queries, keys.transpose(1, 2))  # (rows x heads, queries, keys)
    if bias is not None:
        scores.unflatten(0, by_row).add_(bias)
    weights = torch.softmax(scores, -1, out=scores)
    kept = draw_kept(weights, dropout) if dropout else None
    found = torch.bmm(weights if kept is None else weights * kept, values)
    return found.unflatten(0, by_row), (queries, keys, values, weights, kept)


def _products_backward(gradients, *saved):
    queries, keys, values, weights, kept = saved
    by_row = gradients.shape[:2]
    gradients = gradients.flatten(0, 1)
    by_weights = torch.bmm(gradients, values.transpose(1, 2))
    if kept is not None:
        by_weights *= kept
    by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
    dropped = weights if kept is None else weights * kept
    found = by_scores @ keys, by_scores.transpose(1, 2) @ queries, dropped.transpose(1, 2) @ gradients
    return tuple(each.unflatten(0, by_row) for each in found)
