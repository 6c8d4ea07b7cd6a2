"""
The head over the catalogue: hidden vector in, one score per item out, with the input item embedding as its weights.

*Source:* Sun et al., "BERT4Rec" (CIKM 2019), section 3.5; names of weights are BERT's, `cls.predictions`.

*Differences:* `head_layer_norm` and `head_transform` of the configuration take its norm, or everything but the product with
the item embeddings, away.
"""

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from .configuration_bert4rec import Bert4RecConfig
from .losses import catalogue_cross_entropy


class Bert4RecPredictionHead(nn.Module):
    """LayerNorm(GELU(h W + b)) E^T + b over the catalogue; E is the input item embedding."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.transform: nn.Module = nn.Identity()
        if config.head_transform:
            self.transform = BertPredictionHeadTransform(config)
            if not config.head_layer_norm:
                self.transform.LayerNorm = nn.Identity()
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        # The decoder's own bias, by the name that it has in BERT's checkpoints.
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.tie_word_embeddings else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden_states))  # (..., hidden) -> (..., vocab)


class Bert4RecItemHead(nn.Module):
    """Holds the head under the name it has in BERT's checkpoints, `cls.predictions`."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.predictions = Bert4RecPredictionHead(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.predictions(hidden_states)

    def loss(self, vectors: torch.Tensor, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        r"""
        Args:
            vectors (`torch.Tensor` of shape `(num_labels, hidden_size)`): What the head's transform gave.
            labels (`torch.LongTensor` of shape `(num_labels,)`): Token of each item to predict; -100 is ignored.
            num_items_in_batch (`int`, *optional*): See [`losses.catalogue_cross_entropy`].

        Returns:
            `torch.Tensor` of shape `()`.
        """
        decoder = self.predictions.decoder
        return catalogue_cross_entropy(vectors, decoder.weight, decoder.bias, labels, num_items_in_batch)
