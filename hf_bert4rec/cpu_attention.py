"""
Attention by plain products on a CPU, where torch's own is slow: in bfloat16, and with dropout of the weights.

torch's fused attention is slower in bfloat16 than in float32 on a CPU (its backward pass takes more than twice as long). At the
lengths of histories, a few hundred events, four plain products and a softmax take half of float32's time; registered with
Transformers as `attn_implementation="cpu_bf16"`, for padded rows. With dropout torch has no fused attention at all on a CPU: a
training step in float32 takes a fifth less by the products of this module. `packed_rows` call it in float32 and for that alone.

*Source:* Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), section 3.2.1.
*Differences:* none in the mathematics; in bfloat16 scores and weights are so too, the softmax's sums in float32.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .dropout import draw_kept, scale_of_kept

logger = logging.getLogger(__name__)

CPU_BF16 = "cpu_bf16"


def has_bf16_products() -> bool:
    r"""
    Whether this machine multiplies in bfloat16 at a useful rate: an accelerator, or a processor whose instructions oneDNN
    has kernels for. Elsewhere torch falls back to loops: a training step takes nine times as long as in float32.

    Example:
        >>> options = {"bf16": has_bf16_products()}  # of `train`
    """
    return torch.accelerator.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_attention(model: PreTrainedModel, arguments: TrainingArguments):
    r"""
    Give a model that is trained in bfloat16 on a CPU the attention of this module; any other keeps its own.

    Args:
        model (`PreTrainedModel`): About to be trained; changed in place.
        arguments (`TrainingArguments`): Of the training.
    """
    if not arguments.bf16 or arguments.device.type != "cpu":
        return
    if not has_bf16_products():
        logger.warning("This processor has no bfloat16 instructions: --bf16 is many times slower here; leave it out.")
    model.set_attn_implementation(CPU_BF16)


def attention_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    sizes: Sequence[tuple[int, int, int]],
    biases: Sequence[torch.Tensor | None] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    r"""
    Attention of rows to themselves, the rows of one length at a time, by products whose scores exist as a whole.

    Args:
        query, key, value (`torch.Tensor` of shape `(tokens, heads, size)`): Projections of rows that stand one behind the other.
        sizes (list of `tuple`): For rows of one length that stand together: how many they are, queries of each, keys of each.
        biases (list of `torch.Tensor`, *optional*): For each of the sizes what is added to the scores, broadcast to `(rows,
            heads, queries, keys)`, or `None`.
        scaling (`float`, *optional*, defaults to `size ** -0.5`): Of the scores.
        dropout (`float`, *optional*, defaults to 0): Chance of a weight to be dropped.

    Returns:
        `torch.Tensor` of the shape of `query`.

    Example:
        >>> one_row = torch.eye(3)[:, None]
        >>> attention_by_products(one_row, 99 * one_row, one_row, sizes=[(1, 3, 3)]).argmax(2).tolist()
        [[0], [1], [2]]
    """
    biases = [None] * len(sizes) if biases is None else biases
    scaling = query.shape[2] ** -0.5 if scaling is None else scaling
    return _Attention.apply(query, key, value, sizes, biases, scaling, dropout)


def rows_by_size(
    sizes: Sequence[tuple[int, int, int]], by_query: Sequence[torch.Tensor], by_key: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, ...]]:
    r"""
    Cut states of rows that stand one behind the other into those of each size.

    Args:
        sizes (list of `tuple`): As [`attention_by_products`] takes them.
        by_query, by_key (lists of `torch.Tensor` of shape `(tokens, heads, size)`): States of each query and of each key.

    Returns:
        Iterator, for each of the sizes, of the states of its rows in the order given, each `(rows, length, heads, size)`.

    Example:
        >>> sizes = [(1, 1, 3), (2, 1, 2)]
        >>> [[tuple(each.shape) for each in rows] for rows in rows_by_size(sizes, [torch.ones(3, 1, 4)], [torch.ones(7, 1, 4)])]
        [[(1, 1, 1, 4), (1, 3, 1, 4)], [(2, 1, 1, 4), (2, 2, 1, 4)]]
    """
    num_rows, num_queries, num_keys = zip(*sizes, strict=True)
    found = []
    for states, lengths in [(each, num_queries) for each in by_query] + [(each, num_keys) for each in by_key]:
        shapes = list(zip(num_rows, lengths, strict=True))
        # One step of the graph; the gradient of each slice would be as large as all of them.
        pieces = states.split([rows * length for rows, length in shapes])
        found.append([piece.unflatten(0, shape) for piece, shape in zip(pieces, shapes, strict=True)])
    return zip(*found, strict=True)


def causal_bias(length: int, like: torch.Tensor) -> torch.Tensor:
    """What hides newer events when it is added to scores, `(length, length)`."""
    return like.new_full((length, length), torch.finfo(like.dtype).min).triu_(1)


class _Attention(torch.autograd.Function):
    """One step of the graph for all rows: at the lengths of histories more steps take as long as a fifth of the products."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # for the pass back, which shall cast its products as this one does
    def forward(ctx, query, key, value, sizes, biases, scaling, dropout):
        ctx.sizes, ctx.scaling, ctx.scale = sizes, scaling, scale_of_kept(dropout)
        output = query.new_empty(query.shape)
        saved: list[torch.Tensor | None] = []
        # Scaled here, where there are few numbers, and not among the weights.
        pieces = rows_by_size(sizes, (query * scaling, output), (key, value * ctx.scale))
        for bias, (queries, outputs, keys, values) in zip(biases, pieces, strict=True):
            by_row = queries.shape[0], queries.shape[2]  # rows, heads
            queries, keys, values = map(_by_head, (queries, keys, values))
            scores = torch.bmm(queries, keys.transpose(1, 2))  # (rows x heads, queries, keys)
            if bias is not None:
                scores.unflatten(0, by_row).add_(bias)
            weights = torch.softmax(scores, -1, out=scores)
            kept = draw_kept(weights, dropout) if dropout else None
            _set_by_head(outputs, torch.bmm(weights if kept is None else weights * kept, values))
            saved += queries, keys, values, weights, kept
        ctx.save_for_backward(*saved)
        return output

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):  # type: ignore[override]
        saved = iter(ctx.saved_tensors)
        num_keys = sum(rows * keys for rows, _, keys in ctx.sizes)
        query_gradient = torch.empty_like(gradient)
        key_gradient, value_gradient = (gradient.new_empty(num_keys, *gradient.shape[1:]) for _ in range(2))
        for gradients, *found in rows_by_size(ctx.sizes, (gradient, query_gradient), (key_gradient, value_gradient)):
            queries, keys, values, weights, kept = itertools.islice(saved, 5)
            gradients = _by_head(gradients)
            by_weights = torch.bmm(gradients, values.transpose(1, 2))
            if kept is not None:
                by_weights *= kept
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            dropped = weights if kept is None else weights * kept
            _set_by_head(found[0], torch.bmm(by_scores, keys))
            _set_by_head(found[1], torch.bmm(by_scores.transpose(1, 2), queries))
            _set_by_head(found[2], torch.bmm(dropped.transpose(1, 2), gradients))
        return query_gradient.mul_(ctx.scaling), key_gradient, value_gradient.mul_(ctx.scale), None, None, None, None


def _by_head(piece: torch.Tensor) -> torch.Tensor:
    return piece.transpose(1, 2).flatten(0, 1)  # (rows x heads, length, size)


def _set_by_head(piece: torch.Tensor, found: torch.Tensor):
    piece.copy_(found.unflatten(0, (piece.shape[0], piece.shape[2])).transpose(1, 2))


def cpu_bf16_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    r"""
    Attention as Transformers calls it; anything but bfloat16 on a CPU goes to `scaled_dot_product_attention`.

    Args:
        module (`torch.nn.Module`): The attention block.
        query, key, value (`torch.Tensor` of shape `(batch_size, num_heads, length, head_size)`): Projections.
        attention_mask (`torch.BoolTensor` of shape `(batch_size, 1, queries or 1, keys)`, *optional*): Who may be seen.

    Returns:
        `tuple`: output of shape `(batch_size, queries, num_heads, head_size)`, and `None` for the weights.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    bias = None
    if attention_mask is not None:
        # Finite, so that a row of nothing but padding is an average and not a NaN.
        bias = query.new_zeros(attention_mask.shape).masked_fill_(~attention_mask, torch.finfo(query.dtype).min)
    elif kwargs.get("is_causal") or (kwargs.get("is_causal") is None and getattr(module, "is_causal", False)):
        bias = causal_bias(query.shape[2], query)
    num_rows, _, num_queries, _ = query.shape
    output = attention_by_products(
        *(states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)),  # (tokens, heads, size)
        sizes=[(num_rows, num_queries, key.shape[2])],
        biases=[bias],
        scaling=kwargs.get("scaling"),
        dropout=kwargs.get("dropout", 0.0),
    )
    return output.unflatten(0, (num_rows, num_queries)), None


AttentionInterface.register(CPU_BF16, cpu_bf16_attention)
AttentionMaskInterface.register(CPU_BF16, sdpa_mask)
