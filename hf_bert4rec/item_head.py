"""
The head over the catalogue, and the loss it is trained with.

*Source:* Sun et al. (CIKM 2019), section 3.5: LayerNorm(GELU(h W + b)) E^T + b. The names of weights are BERT's.

*Differences:* `head_layer_norm` and `head_transform` of the configuration take the norm, or everything but the product with
the item embeddings, away; `training_loss` may name a sampled loss, see `sampled_losses`.
"""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from .configuration_bert4rec import Bert4RecConfig
from .losses import catalogue_cross_entropy
from .member_norm import normalise_by_member
from .sampled_losses import sampled_loss, starting_bias
from .soft_targets import SoftTargets


class Bert4RecPredictionHead(nn.Module):
    """LayerNorm(GELU(h W + b)) E^T + b over the catalogue; E is the input item embedding."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.transform: nn.Module = nn.Identity()
        if config.head_transform:
            self.transform = BertPredictionHeadTransform(config)
            if not config.head_layer_norm:
                self.transform.LayerNorm = nn.Identity()
            normalise_by_member(self, config.num_members)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        # The decoder's own bias, by the name that it has in BERT's checkpoints.
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.tie_word_embeddings else None
        owners: list[Any] = [self, self.decoder]  # of the bias, tied or not
        for owner in owners:
            owner.starting_bias = starting_bias(config)  # what initialisation sets

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden_states))  # (..., hidden) -> (..., vocab)


class Bert4RecItemHead(nn.Module):
    """Holds the head under the name it has in BERT's checkpoints, `cls.predictions`."""

    # Which rows a process holds under tensor parallelism, see `sharded_items`; a child's plan becomes part of the model's.
    _tp_plan: ClassVar = {"predictions": "item_rows", "predictions.decoder": "colwise_gather_output"}

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.config = config
        self.predictions = Bert4RecPredictionHead(config)
        # Whether sampled losses give weight and bias gradients of the touched rows alone; see `rowwise_adamw`.
        self.sparse_gradients = (False, False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.predictions(hidden_states)

    def loss(
        self,
        vectors: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        teacher: SoftTargets | None = None,
        weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        r"""
        The loss that `config.training_loss` names.

        Args:
            vectors (`torch.Tensor` of shape `(num_labels, hidden_size)`): What the head's transform gave.
            labels (`torch.LongTensor` of shape `(num_labels,)`): Token of each item to predict; -100 is ignored.
            num_items_in_batch (`int`, *optional*): See [`losses.catalogue_cross_entropy`].
            teacher ([`SoftTargets`], *optional*): For the same labels; of the softmax and the sampled one.
            weight (`torch.Tensor`, *optional*): What the softmax reads in the place of the head's weight, with its values.

        Returns:
            `torch.Tensor` of shape `()`: nats.
        """
        decoder = self.predictions.decoder
        if self.config.training_loss == "softmax":
            weight = decoder.weight if weight is None else weight
            return catalogue_cross_entropy(vectors, weight, decoder.bias, labels, num_items_in_batch, teacher=teacher)
        # Evaluating draws the same negatives each time and leaves the order of training's draws alone.
        generator = None if self.training else torch.Generator(labels.device).manual_seed(0)
        return sampled_loss(
            vectors,
            decoder,
            labels,
            self.config,
            num_items_in_batch=num_items_in_batch,
            sparse_gradients=self.sparse_gradients,
            generator=generator,
            teacher=teacher,
        )
