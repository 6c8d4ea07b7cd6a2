"""
Item and position embedding: what the first block of BERT4Rec reads.

*Source:* Sun et al., "BERT4Rec" (CIKM 2019), section 3.4; names of weights are BERT's. The scale of the item embedding is
that of Kang & McAuley's SASRec, by BART's embedding.
*Differences:* no segment embeddings.
"""

import copy

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding

from .configuration_bert4rec import Bert4RecConfig
from .product_sizes import autocast_dtype
from .sharded_items import is_sharded


class Bert4RecEmbeddings(nn.Module):
    """Item embedding + learned position embedding (section 3.4 of the paper; no segments), unless blocks rotate by position."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        sizes = (config.vocab_size, config.hidden_size, config.pad_token_id)
        # The item embeddings of an ensemble are divided by the number of members, so that what they score is a mean.
        scale = float(config.num_members)
        if config.scale_embedding:
            scale *= (config.hidden_size / config.num_members) ** 0.5
        self.word_embeddings = (
            nn.Embedding(*sizes) if scale == 1 else BartScaledWordEmbedding(*sizes, embed_scale=scale)
        )
        self.position_embeddings = None
        if config.backbone == "bert":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm: nn.Module = nn.Identity()
        if config.embedding_layer_norm:
            self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        position_ids: torch.Tensor,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)  # (batch, length) -> (batch, length, hidden)
        if self.position_embeddings is not None:
            inputs_embeds = inputs_embeds + self.position_embeddings(position_ids)
        states = self.LayerNorm(inputs_embeds)
        if states.device.type == "cpu" and (dtype := autocast_dtype()) is not None:
            # The blocks' sums too: casts between them and the products would take a fifteenth of a step.
            states = states.to(dtype)
        return self.dropout(states)


class _HeadAndLookUp(torch.autograd.Function):
    """One weight for two uses: the gradient of the rows that were looked up is added to the head's where that lies."""

    @staticmethod
    def forward(ctx, weight):
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_head, of_rows):
        if of_rows is None:
            return of_head
        if of_rows.layout != torch.sparse_coo:  # of a hook or a class that read the weight itself
            return of_head + of_rows
        # Where nothing is labelled the head's is one 0, expanded.
        return of_head.contiguous().index_add_(0, of_rows._indices()[0], of_rows._values())


def embedding_beside_head(embedding: nn.Module, head: nn.Linear) -> tuple[nn.Module, torch.Tensor]:
    """
    The item embedding and the head's weight for a training step on a CPU whose loss gives that weight a gradient of all rows.
    Where the two share it, no second block as large as the catalogue is written for what the embedding has read.
    """
    is_shared = isinstance(embedding, nn.Embedding) and head.weight is embedding.weight and not is_sharded(head.weight)
    # In half precision rows would lose digits in the sum.
    is_exact = head.weight.dtype in (torch.float32, torch.float64)
    if not is_shared or not is_exact or embedding.scale_grad_by_freq or embedding.max_norm is not None:
        return embedding, head.weight
    weight, looked_up = _HeadAndLookUp.apply(head.weight)
    embedding = copy.copy(embedding)
    embedding.sparse, embedding._parameters = True, {}
    embedding.weight = looked_up  # type: ignore[assignment]  # no parameter any more
    return embedding, weight
