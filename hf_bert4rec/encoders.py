"""
The stacks of Transformer blocks that `backbone` and `norm_position` choose, all called alike.

*Source:* `transformers.models.bert` (`norm_position="post"`), `transformers.models.roberta_prelayernorm` (`"pre"`) and
`transformers.models.modernbert`: rotary positions, gated feed-forward layers, no biases (Warner et al., "Smarter, Better,
Faster, Longer", 2024).

*Differences:* of ModernBERT's blocks every one sees the whole history; dropout follows the attention's output as in BERT; the
first block has a norm unless the embeddings have one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bert.modeling_bert import BertEncoder
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormEncoder

from .configuration_bert4rec import Bert4RecConfig

# Base of the speeds of rotation; that of ModernBERT's blocks that see everything.
ROTARY_BASE = 160_000.0
OUR_NAMES = {
    "attention_dropout": "attention_probs_dropout_prob",
    "mlp_dropout": "hidden_dropout_prob",
    "hidden_activation": "hidden_act",
    "norm_eps": "layer_norm_eps",
}


class ModernBertBlocks(nn.Module):
    """ModernBERT's blocks in the place of BERT's."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.layer = nn.ModuleList(_ModernBertBlock(config, place) for place in range(config.num_hidden_layers))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutput:
        for layer in self.layer:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class _ModernBertBlock(ModernBertEncoderLayer):
    def __init__(self, config: Bert4RecConfig, place: int):
        super().__init__(_ModernBertNames(config), place)
        self.attn.out_drop = nn.Dropout(config.hidden_dropout_prob)
        if place == 0 and not config.embedding_layer_norm:
            self.attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=False)


class _ModernBertNames:
    """A configuration of ours under the names of ModernBERT's; what changes there, as the kind of attention, changes here."""

    attention_bias = mlp_bias = norm_bias = deterministic_flash_attn = False

    def __init__(self, config: Bert4RecConfig):
        self.ours = config
        self.layer_types = ["full_attention"] * config.num_hidden_layers

    def __getattr__(self, name: str) -> Any:
        if name == "ours":  # a copy in the making
            raise AttributeError(name)
        return getattr(self.ours, OUR_NAMES.get(name, name))


def build_encoder(config: Bert4RecConfig) -> Any:
    """The blocks of a configuration, in `.layer`; call it with states, attention mask and [`position_inputs`]."""
    if config.backbone == "modernbert":
        return ModernBertBlocks(config)
    return RobertaPreLayerNormEncoder(config) if config.norm_position == "pre" else BertEncoder(config)


def position_inputs(config: Bert4RecConfig, position_ids: torch.Tensor) -> dict[str, Any]:
    r"""
    What the blocks take besides states and mask: nothing where positions are embedded, else the angles to rotate by.

    Args:
        config ([`Bert4RecConfig`]): Whose blocks.
        position_ids (`torch.LongTensor` of shape `(batch_size or 1, sequence_length)`): Place of each event in its history.

    Returns:
        `dict`: `position_embeddings`, cosines and sines of shape `(batch_size or 1, sequence_length, head_size)`, or nothing.

    Example:
        >>> config = Bert4RecConfig(backbone="modernbert", norm_position="pre")
        >>> [angles.shape for angles in position_inputs(config, torch.arange(5)[None])["position_embeddings"]]
        [torch.Size([1, 5, 32]), torch.Size([1, 5, 32])]
    """
    if config.backbone != "modernbert":
        return {}
    size = config.hidden_size // config.num_attention_heads
    places = torch.arange(0, size, 2, dtype=torch.float, device=position_ids.device)
    angles = position_ids[..., None] * ROTARY_BASE ** (-places / size)  # (batch, length, size / 2)
    angles = torch.cat([angles, angles], -1)
    return {"position_embeddings": (angles.cos(), angles.sin())}


def key_biases(encoder: Any) -> list[nn.Parameter]:
    """The biases of the keys, which no score depends on; ModernBERT's blocks have none."""
    return [] if isinstance(encoder, ModernBertBlocks) else [layer.attention.self.key.bias for layer in encoder.layer]


def start_values_as_identity(encoder: Any):
    """Let initialisation start values and their output as the identity: sets the rows that become one, of each weight."""
    for layer in encoder.layer:
        if isinstance(encoder, ModernBertBlocks):
            size = layer.attn.Wo.in_features
            layer.attn.Wqkv.identity_rows, layer.attn.Wo.identity_rows = slice(2 * size, 3 * size), slice(0, size)
        else:
            for projection in (layer.attention.self.value, layer.attention.output.dense):
                projection.identity_rows = slice(0, projection.out_features)
