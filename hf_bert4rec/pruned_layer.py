"""
One Transformer block taken apart: computed at chosen positions only (their queries and feed-forward, keys and values
everywhere), or everywhere with a feed-forward layer that stays in the cache.

In training only labelled positions are projected on the catalogue and in ranking only one, so what the last block gives
elsewhere is never read: leaving it out saves about a third of a training step.

*Source:* the parts of Transformers' blocks, see `block_parts`.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .block_parts import BLOCKS, BertParts, ModernBertParts, are_plain_products, at_columns, parts_of
from .product_sizes import next_size

# Tokens whose feed-forward states, four times as wide as the others, stay in the cache next to a core: 1 MiB at width 64.
FEED_FORWARD_TOKENS = 1 << 10


def can_be_taken_apart(layer: nn.Module) -> bool:
    """Whether nothing acts on the block as a whole, as FSDP, device maps and hooks of users do."""
    return isinstance(layer, BLOCKS) and not layer._forward_pre_hooks and not hasattr(layer, "_hf_hook")


def wants_all_positions(config: PreTrainedConfig, kwargs: dict[str, Any]) -> bool:
    """Whether a call asks for attentions or hidden states, which are those of all positions."""
    return any(
        kwargs.get(name, getattr(config, name, False)) for name in ("output_attentions", "output_hidden_states")
    )


def layer_everywhere(
    layer: nn.Module,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> torch.Tensor:
    r"""
    What the block gives at all positions, as calling it does; on a CPU without gradients its feed-forward layer takes some
    tokens at a time, which makes ranking in float32 a tenth faster.

    Args:
        layer (`torch.nn.Module`): The block, one of `BLOCKS`.
        hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): Its input.
        attention_mask (`torch.Tensor` of shape `(batch_size, 1, sequence_length or 1, sequence_length)`, *optional*):
            As the block takes it.
        **kwargs: What else the block takes, as `position_embeddings` of all positions.

    Returns:
        `torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`.
    """
    is_plain = can_be_taken_apart(layer) and not layer._forward_hooks and not torch.compiler.is_compiling()
    if torch.is_grad_enabled() or hidden_states.device.type != "cpu" or not is_plain:
        return layer(hidden_states, attention_mask, **kwargs)
    parts = parts_of(layer)
    attended = parts.attention(hidden_states, attention_mask, **kwargs).flatten(0, 1)  # (tokens, hidden)
    pieces = [parts.feed_forward(piece) for piece in attended.split(FEED_FORWARD_TOKENS)]
    return torch.cat(pieces).view_as(hidden_states)


def layer_at_positions(
    layer: nn.Module,
    positions: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> torch.Tensor:
    r"""
    What the block gives at some positions.

    Args:
        layer (`torch.nn.Module`): The block, one of `BLOCKS`.
        positions (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): Where its output is wanted.
        hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): Its input.
        attention_mask (`torch.Tensor` of shape `(batch_size, 1, sequence_length or 1, sequence_length)`, *optional*):
            As the block takes it; one row where all rows are equal.
        **kwargs: What else the block takes, as `position_embeddings` of all positions.

    Returns:
        `torch.Tensor` of shape `(number of positions, hidden_size)`, in row order.
    """
    rows, columns = positions.nonzero(as_tuple=True)
    slots = positions.cumsum(1)[rows, columns] - 1  # each position's place among those of its row
    num_slots = next_size(int(slots.max()) + 1) if slots.numel() else 1
    # Rows with fewer positions repeat their first event; what it gives is dropped below.
    index = columns.new_zeros(hidden_states.shape[0], num_slots)  # (batch, slots)
    index[rows, slots] = columns
    if attention_mask is not None and attention_mask.shape[2] > 1:
        row_index = index[:, None, :, None].expand(-1, attention_mask.shape[1], -1, attention_mask.shape[3])
        attention_mask = attention_mask.expand(hidden_states.shape[0], -1, -1, -1).gather(2, row_index)
    parts = parts_of(layer)
    attended = _attention_at(parts, index, hidden_states, attention_mask, **kwargs)
    # So does the list of positions up to one of few sizes.
    repeats = (0, next_size(len(rows)) - len(rows))
    padded_rows, columns, slots = (nn.functional.pad(places, repeats) for places in (rows, columns, slots))
    attended = parts.output(attended[padded_rows, slots], hidden_states[padded_rows, columns])
    return parts.feed_forward(attended)[: len(rows)]  # (positions, hidden)


def layer_at_columns(
    layer: nn.Module,
    columns: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> torch.Tensor:
    r"""
    What the block gives at equally many columns of every row: no shape depends on values, as an exported graph needs it.

    Args:
        layer (`torch.nn.Module`): The block, one of `BLOCKS`.
        columns (`torch.LongTensor` of shape `(batch_size, num_columns)`): Where its output is wanted.
        hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): Its input.
        attention_mask (`torch.Tensor` of shape `(batch_size, 1, num_columns or 1, sequence_length)`, *optional*):
            What each of the columns sees.
        **kwargs: What else the block takes, as `position_embeddings` of all positions.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_columns, hidden_size)`.
    """
    parts = parts_of(layer)
    attended = _attention_at(parts, columns, hidden_states, attention_mask, **kwargs)
    return parts.feed_forward(parts.output(attended, at_columns(hidden_states, columns)))


def _attention_at(
    parts: BertParts | ModernBertParts, columns: torch.Tensor, hidden_states: torch.Tensor, attention_mask, **kwargs
) -> torch.Tensor:
    """Self-attention of the columns `(batch, slots)` over the whole row, before its output layer."""
    states = parts.norm(hidden_states)
    # In training one product of all positions is faster.
    if columns.shape[1] == 1 and not parts.self_attention.training and are_plain_products(parts.projections):
        return _attention_of_one(parts, columns, states, attention_mask, **kwargs)
    return _attention_of_some(parts, columns, states, attention_mask, **kwargs)


def _attention_of_some(parts, columns: torch.Tensor, states: torch.Tensor, mask, **kwargs) -> torch.Tensor:
    """Attention by the function that the configuration names, `(batch, slots, hidden)`."""
    query, key, value = parts.by_head(columns, states, **kwargs)
    kwargs.pop("position_embeddings", None)  # queries and keys are rotated
    attention = parts.self_attention
    attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, parts.eager_attention)
    scaling = query.shape[-1] ** -0.5
    attended, _ = attend(attention, query, key, value, mask, dropout=parts.dropout(), scaling=scaling, **kwargs)
    return attended.flatten(2)


def _attention_of_one(parts, columns: torch.Tensor, states: torch.Tensor, mask, **kwargs) -> torch.Tensor:
    """
    Attention of one query per row without values, and, where it can, without keys: W (sum of w x) instead of the sum of
    w (W x). A seventh less to compute in ranking.
    """
    scores = parts.scores_of_one(columns, states, **kwargs)  # (batch, heads, length)
    if mask is not None:
        mask = mask[:, 0]  # (batch, 1, length)
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    attended = (scores.softmax(-1) @ states).transpose(0, 1)  # (heads, batch, hidden)
    weight, bias = parts.value()
    attended = (attended @ weight.transpose(1, 2)).transpose(0, 1).flatten(1)[:, None]
    return attended if bias is None else attended + bias
