"""
One Transformer block taken apart: computed at chosen positions only (their queries and feed-forward, keys and values
everywhere), or everywhere with a feed-forward layer that stays in the cache.

In training only labelled positions are projected on the catalogue and in ranking only one, so what the last block gives
elsewhere is never read: leaving it out saves about a third of a training step.

*Source:* the parts of `transformers.models.bert` and `transformers.models.roberta_prelayernorm`, called as they are.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.bert.modeling_bert import BertCrossAttention, BertLayer
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormLayer

from .product_sizes import next_size

# Tokens whose feed-forward states, four times as wide as the others, stay in the cache next to a core: 1 MiB at width 64.
FEED_FORWARD_TOKENS = 1 << 10


def can_be_taken_apart(layer: nn.Module) -> bool:
    """Whether nothing acts on the block as a whole, as FSDP, device maps and hooks of users do."""
    is_plain = isinstance(layer, (BertLayer, RobertaPreLayerNormLayer))
    return is_plain and not layer._forward_pre_hooks and not hasattr(layer, "_hf_hook")


def wants_all_positions(config: PreTrainedConfig, kwargs: dict[str, Any]) -> bool:
    """Whether a call asks for attentions or hidden states, which are those of all positions."""
    return any(
        kwargs.get(name, getattr(config, name, False)) for name in ("output_attentions", "output_hidden_states")
    )


def layer_everywhere(
    layer: BertLayer | RobertaPreLayerNormLayer,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> torch.Tensor:
    r"""
    What the block gives at all positions, as calling it does; on a CPU without gradients its feed-forward layer takes some
    tokens at a time, which makes ranking in float32 a tenth faster.

    Args:
        layer (`BertLayer` or `RobertaPreLayerNormLayer`): The block.
        hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): Its input.
        attention_mask (`torch.Tensor` of shape `(batch_size, 1, sequence_length or 1, sequence_length)`, *optional*):
            As the block takes it.

    Returns:
        `torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`.
    """
    is_plain = can_be_taken_apart(layer) and not layer._forward_hooks and not torch.compiler.is_compiling()
    if torch.is_grad_enabled() or hidden_states.device.type != "cpu" or not is_plain:
        return layer(hidden_states, attention_mask, **kwargs)
    attended = layer.attention(hidden_states, attention_mask, **kwargs)[0].flatten(0, 1)  # (tokens, hidden)
    pieces = [layer.feed_forward_chunk(piece) for piece in attended.split(FEED_FORWARD_TOKENS)]
    return torch.cat(pieces).view_as(hidden_states)


def layer_at_positions(
    layer: BertLayer | RobertaPreLayerNormLayer,
    positions: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> torch.Tensor:
    r"""
    What the block gives at some positions.

    Args:
        layer (`BertLayer` or `RobertaPreLayerNormLayer`): The block.
        positions (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): Where its output is wanted.
        hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): Its input.
        attention_mask (`torch.Tensor` of shape `(batch_size, 1, sequence_length or 1, sequence_length)`, *optional*):
            As the block takes it; one row where all rows are equal.

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
    attended = _attention_at(layer, index, hidden_states, attention_mask, **kwargs)
    # So does the list of positions up to one of few sizes.
    repeats = (0, next_size(len(rows)) - len(rows))
    padded_rows, columns, slots = (nn.functional.pad(places, repeats) for places in (rows, columns, slots))
    attended = layer.attention.output(attended[padded_rows, slots], hidden_states[padded_rows, columns])
    return layer.feed_forward_chunk(attended)[: len(rows)]  # (positions, hidden)


def layer_at_columns(
    layer: BertLayer | RobertaPreLayerNormLayer,
    columns: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> torch.Tensor:
    r"""
    What the block gives at equally many columns of every row: no shape depends on values, as an exported graph needs it.

    Args:
        layer (`BertLayer` or `RobertaPreLayerNormLayer`): The block.
        columns (`torch.LongTensor` of shape `(batch_size, num_columns)`): Where its output is wanted.
        hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): Its input.
        attention_mask (`torch.Tensor` of shape `(batch_size, 1, num_columns or 1, sequence_length)`, *optional*):
            What each of the columns sees.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_columns, hidden_size)`.
    """
    attended = _attention_at(layer, columns, hidden_states, attention_mask, **kwargs)
    return layer.feed_forward_chunk(layer.attention.output(attended, _at_columns(hidden_states, columns)))


def _attention_at(layer, columns: torch.Tensor, hidden_states: torch.Tensor, attention_mask, **kwargs) -> torch.Tensor:
    """Self-attention of the columns `(batch, slots)` over the whole row, before its output layer."""
    is_pre_norm = isinstance(layer, RobertaPreLayerNormLayer)
    inputs = layer.attention.LayerNorm(hidden_states) if is_pre_norm else hidden_states
    if columns.shape[1] == 1 and _can_move_projections(layer.attention.self):
        return _attention_of_one(layer.attention.self, _at_columns(inputs, columns), inputs, attention_mask)
    # BERT's cross-attention is its self-attention with queries of their own: the same projections, called as such.
    attended, _ = BertCrossAttention.forward(
        layer.attention.self,
        _at_columns(inputs, columns),
        encoder_hidden_states=inputs,
        attention_mask=attention_mask,
        **kwargs,
    )
    return attended  # (batch, slots, hidden)


def _can_move_projections(attention: nn.Module) -> bool:
    """Whether nothing but a product stands behind the names of the projections, as adapters and quantisation put there."""
    projections = (attention.query, attention.key, attention.value)
    is_plain = all(type(p) is nn.Linear and not p._forward_hooks and not p._forward_pre_hooks for p in projections)
    # In training one product of all positions is faster; weights by head are none that a graph's quantisation knows.
    return is_plain and not attention.training and not torch.compiler.is_exporting()


def _attention_of_one(attention, query_states: torch.Tensor, states: torch.Tensor, mask) -> torch.Tensor:
    """
    Attention of one query per row without keys and values: (W q) x instead of q (W x), and W (sum of w x) instead of the
    sum of w (W x); the key's bias adds the same to every score. A seventh less to compute in ranking.
    """
    heads, size = attention.num_attention_heads, attention.attention_head_size
    # (heads, size, hidden) each
    key, value = (p.weight.unflatten(0, (heads, size)) for p in (attention.key, attention.value))
    query = attention.query(query_states[:, 0]).unflatten(1, (heads, size)).transpose(0, 1)  # (heads, batch, size)
    query = (query @ key).transpose(0, 1) * size**-0.5  # (batch, heads, hidden)
    scores = query @ states.transpose(1, 2)  # (batch, heads, length)
    if mask is not None:
        mask = mask[:, 0]  # (batch, 1, length)
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    attended = (scores.softmax(-1) @ states).transpose(0, 1)  # (heads, batch, hidden)
    return (attended @ value.transpose(1, 2)).transpose(0, 1).flatten(1)[:, None] + attention.value.bias


def _at_columns(states: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return states.gather(1, columns[..., None].expand(-1, -1, states.shape[2]))  # (batch, slots, hidden)
