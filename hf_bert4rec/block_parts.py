"""
The parts of a Transformer block under the same names, whichever kind of block it is.

*Source:* `transformers.models.bert`, `transformers.models.roberta_prelayernorm` and `transformers.models.modernbert`, whose
parts are called as they are.

*Differences:* where nothing but a product stands behind ModernBERT's one projection, its queries are computed where they are
wanted alone.
"""

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertCrossAttention, BertLayer
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertEncoderLayer,
    eager_attention_forward,
    rotate_half,
)
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormLayer

BLOCKS = (BertLayer, RobertaPreLayerNormLayer, ModernBertEncoderLayer)


class BertParts:
    """Those of BERT's blocks, with the norm behind (`BertLayer`) or before (`RobertaPreLayerNormLayer`)."""

    def __init__(self, layer: BertLayer | RobertaPreLayerNormLayer):
        self.layer, self.self_attention = layer, layer.attention.self
        self.projections = (self.self_attention.query, self.self_attention.key, self.self_attention.value)

    def attention(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        """What the feed-forward layer reads, at all positions."""
        return self.layer.attention(hidden_states, attention_mask, **kwargs)[0]

    def norm(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What the projections read."""
        is_pre_norm = isinstance(self.layer, RobertaPreLayerNormLayer)
        return self.layer.attention.LayerNorm(hidden_states) if is_pre_norm else hidden_states

    def attention_at(self, columns: torch.Tensor, states: torch.Tensor, attention_mask, **kwargs) -> torch.Tensor:
        """Self-attention of the columns `(batch, slots)` over the whole row, before its output layer."""
        # BERT's cross-attention is its self-attention with queries of their own: the same projections, called as such.
        attended, _ = BertCrossAttention.forward(
            self.self_attention,
            at_columns(states, columns),
            encoder_hidden_states=states,
            attention_mask=attention_mask,
            **kwargs,
        )
        return attended  # (batch, slots, hidden)

    def scores_of_one(self, columns: torch.Tensor, states: torch.Tensor, **kwargs) -> torch.Tensor:
        """
        What one query of each row gives all positions, without keys: (W q) x instead of q (W x); the key's bias adds the
        same to every score.
        """
        heads, size = self.self_attention.num_attention_heads, self.self_attention.attention_head_size
        key = self.self_attention.key.weight.unflatten(0, (heads, size))  # (heads, size, hidden)
        query = self.self_attention.query(at_columns(states, columns)[:, 0])
        query = query.unflatten(1, (heads, size)).transpose(0, 1)  # (heads, batch, size)
        query = (query @ key).transpose(0, 1) * size**-0.5  # (batch, heads, hidden)
        return query @ states.transpose(1, 2)  # (batch, heads, length)

    def value(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight of the values, `(heads, size, hidden)`, and bias."""
        value, heads = self.self_attention.value, self.self_attention.num_attention_heads
        return value.weight.unflatten(0, (heads, -1)), value.bias

    def output(self, attended: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """What the feed-forward layer reads, from what was attended to and what the block reads."""
        return self.layer.attention.output(attended, hidden_states)

    def feed_forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.layer.feed_forward_chunk(states)


class ModernBertParts:
    """Those of ModernBERT's blocks, without biases; methods as [`BertParts`]."""

    def __init__(self, layer: ModernBertEncoderLayer):
        self.layer, self.self_attention = layer, layer.attn
        self.projections = (layer.attn.Wqkv,)

    def attention(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        states = self.norm(hidden_states)
        return hidden_states + self.self_attention(states, attention_mask=attention_mask, **kwargs)[0]

    def norm(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layer.attn_norm(hidden_states)

    def attention_at(
        self, columns: torch.Tensor, states: torch.Tensor, attention_mask, *, position_embeddings, **kwargs
    ) -> torch.Tensor:
        attention = self.self_attention
        if are_plain_products(self.projections):
            inputs = (at_columns(states, columns), states, states)
            query, key, value = map(nn.functional.linear, inputs, attention.Wqkv.weight.chunk(3))
        else:
            query, key, value = attention.Wqkv(states).chunk(3, -1)
            query = at_columns(query, columns)
        attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, eager_attention_forward
        )
        attended, _ = attend(
            attention,
            _rotated(self._by_head(query), position_embeddings, columns),
            _rotated(self._by_head(key), position_embeddings),
            self._by_head(value),
            attention_mask,
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.head_dim**-0.5,
            **kwargs,
        )
        return attended.flatten(2)  # (batch, slots, hidden)

    def scores_of_one(
        self, columns: torch.Tensor, states: torch.Tensor, *, position_embeddings, **kwargs
    ) -> torch.Tensor:
        """What one query of each row gives all positions; keys are needed, as each is rotated by an angle of its own."""
        query_weight, key_weight, _ = self.self_attention.Wqkv.weight.chunk(3)
        query = self._by_head(nn.functional.linear(at_columns(states, columns), query_weight))
        query = _rotated(query, position_embeddings, columns) * self.self_attention.head_dim**-0.5
        key = _rotated(self._by_head(nn.functional.linear(states, key_weight)), position_embeddings)
        return (query @ key.transpose(2, 3))[:, :, 0]  # (batch, heads, length)

    def value(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.self_attention.Wqkv.weight.chunk(3)[2].unflatten(0, (-1, self.self_attention.head_dim)), None

    def output(self, attended: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.self_attention.out_drop(self.self_attention.Wo(attended))

    def feed_forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + self.layer.mlp(self.layer.mlp_norm(states))

    def _by_head(self, projected: torch.Tensor) -> torch.Tensor:
        by_head = projected.unflatten(2, (-1, self.self_attention.head_dim))
        return by_head.transpose(1, 2)  # (batch, heads, length, size)


def parts_of(layer: nn.Module) -> BertParts | ModernBertParts:
    """The parts of one of `BLOCKS`."""
    return ModernBertParts(layer) if isinstance(layer, ModernBertEncoderLayer) else BertParts(layer)


def are_plain_products(projections: tuple[nn.Module, ...]) -> bool:
    """Whether nothing but a product stands behind the names of the projections, as adapters and quantisation put there."""
    is_plain = all(type(p) is nn.Linear and not p._forward_hooks and not p._forward_pre_hooks for p in projections)
    # Parts of a weight are none that a graph's quantisation knows.
    return is_plain and not torch.compiler.is_exporting()


def at_columns(states: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """States `(batch, length, hidden)` at the columns `(batch, slots)` of each row, `(batch, slots, hidden)`."""
    return states.gather(1, columns[..., None].expand(-1, -1, states.shape[2]))


def _rotated(states: torch.Tensor, position_embeddings, columns: torch.Tensor | None = None) -> torch.Tensor:
    """ModernBERT's rotation of queries or keys by head, by the angles of all positions or of those at the columns."""
    if columns is not None:
        position_embeddings = (at_columns(a.expand(columns.shape[0], -1, -1), columns) for a in position_embeddings)
    cosines, sines = (angles[:, None] for angles in position_embeddings)  # (batch or 1, 1, length, size)
    return (states.float() * cosines + rotate_half(states.float()) * sines).to(states.dtype)
