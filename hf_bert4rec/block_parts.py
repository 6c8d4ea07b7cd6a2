"""
The parts of a Transformer block under the same names, whichever kind of block it is.

*Source:* `transformers.models.bert`, `transformers.models.roberta_prelayernorm` and `transformers.models.modernbert`, whose
projections, outputs, norms and feed-forward layers are called as they are.

*Differences:* queries are computed where they are wanted alone; in ModernBERT's blocks only where nothing but a product stands
behind their one projection.
"""

import torch
from torch import nn
from transformers.models.bert import modeling_bert
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention
from transformers.models.modernbert import modeling_modernbert
from transformers.models.modernbert.modeling_modernbert import ModernBertAttention, ModernBertEncoderLayer, rotate_half
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import (
    RobertaPreLayerNormLayer,
    RobertaPreLayerNormSelfAttention,
)

BLOCKS = (BertLayer, RobertaPreLayerNormLayer, ModernBertEncoderLayer)
ATTENTIONS = (BertSelfAttention, RobertaPreLayerNormSelfAttention, ModernBertAttention)


class BertParts:
    """Those of BERT's blocks, with the norm behind (`BertLayer`) or before (`RobertaPreLayerNormLayer`)."""

    eager_attention = staticmethod(modeling_bert.eager_attention_forward)

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

    def by_head(self, columns: torch.Tensor | None, states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, ...]:
        """Queries at the columns (`None`: everywhere), keys and values, each `(batch, heads, length, size)`."""
        inputs = (states if columns is None else at_columns(states, columns), states, states)
        size = self.self_attention.attention_head_size
        return tuple(_by_head(project(x), size) for project, x in zip(self.projections, inputs, strict=True))

    def attention_modules(self) -> tuple[nn.Module, ...]:
        """What calling the block calls and its parts go around."""
        return self.layer.attention, self.self_attention

    def dropout(self) -> float:
        """The chance of a weight of attention to be dropped."""
        return self.self_attention.dropout.p if self.self_attention.training else 0.0

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

    eager_attention = staticmethod(modeling_modernbert.eager_attention_forward)

    def __init__(self, layer: ModernBertEncoderLayer):
        self.layer, self.self_attention = layer, layer.attn
        self.projections = (layer.attn.Wqkv,)

    def attention(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        states = self.norm(hidden_states)
        return hidden_states + self.self_attention(states, attention_mask=attention_mask, **kwargs)[0]

    def norm(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layer.attn_norm(hidden_states)

    def by_head(
        self, columns: torch.Tensor | None, states: torch.Tensor, *, position_embeddings, **kwargs
    ) -> tuple[torch.Tensor, ...]:
        attention = self.self_attention
        if columns is not None and are_plain_products(self.projections):
            inputs = (at_columns(states, columns), states, states)
            query, key, value = map(nn.functional.linear, inputs, attention.Wqkv.weight.chunk(3))
        else:
            query, key, value = attention.Wqkv(states).chunk(3, -1)
            query = query if columns is None else at_columns(query, columns)
        query, key, value = (_by_head(x, attention.head_dim) for x in (query, key, value))
        return _rotated(query, position_embeddings, columns), _rotated(key, position_embeddings), value

    def attention_modules(self) -> tuple[nn.Module, ...]:
        return (self.self_attention,)

    def dropout(self) -> float:
        return self.self_attention.attention_dropout if self.self_attention.training else 0.0

    def scores_of_one(
        self, columns: torch.Tensor, states: torch.Tensor, *, position_embeddings, **kwargs
    ) -> torch.Tensor:
        """What one query of each row gives all positions; keys are needed, as each is rotated by an angle of its own."""
        query_weight, key_weight, _ = self.self_attention.Wqkv.weight.chunk(3)
        query = _by_head(nn.functional.linear(at_columns(states, columns), query_weight), self.self_attention.head_dim)
        query = _rotated(query, position_embeddings, columns) * self.self_attention.head_dim**-0.5
        key = _by_head(nn.functional.linear(states, key_weight), self.self_attention.head_dim)
        key = _rotated(key, position_embeddings)
        return (query @ key.transpose(2, 3))[:, :, 0]  # (batch, heads, length)

    def value(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.self_attention.Wqkv.weight.chunk(3)[2].unflatten(0, (-1, self.self_attention.head_dim)), None

    def output(self, attended: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.self_attention.out_drop(self.self_attention.Wo(attended))

    def feed_forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + self.layer.mlp(self.layer.mlp_norm(states))


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
    num_rows, length, size = states.shape
    starts = torch.arange(num_rows, device=columns.device)[:, None] * length
    # On a CPU a quarter of the time of `gather`, most of which is that of its gradient.
    return states.reshape(-1, size).index_select(0, (starts + columns).flatten()).view(*columns.shape, size)


def _by_head(projected: torch.Tensor, size: int) -> torch.Tensor:
    return projected.unflatten(2, (-1, size)).transpose(1, 2)  # (batch, heads, length, size)


def _rotated(states: torch.Tensor, position_embeddings, columns: torch.Tensor | None = None) -> torch.Tensor:
    """ModernBERT's rotation of queries or keys by head, by the angles of all positions or of those at the columns."""
    if columns is not None:
        # `at_columns` would copy angles that all rows share for each row.
        index = columns[..., None].expand(-1, -1, states.shape[3])
        position_embeddings = (a.expand(columns.shape[0], -1, -1).gather(1, index) for a in position_embeddings)
    cosines, sines = (angles[:, None] for angles in position_embeddings)  # (batch or 1, 1, length, size)
    return (states.float() * cosines + rotate_half(states.float()) * sines).to(states.dtype)
