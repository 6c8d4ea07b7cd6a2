"""
How much each past event counts in what a history is ranked with, as the model's attention tells it: a hint, no explanation.

*Source:* attention rollout, Abnar & Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020), section 3: a layer
passes on half of what it gets as it is and half by its attention, averaged over heads; the layers are multiplied.

*Differences:* read at the position that is ranked; what is left at a [MASK], which is no event, is taken out and the rest
scaled to a sum of 1. Of a model that reads a history twice (`reading="both"`) it is the mean of both.
"""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import torch

from .data_collator import DataCollatorForCloze
from .modeling_bert4rec import Bert4RecForMaskedLM


class AttentionRollout:
    r"""
    Weights of the events of a history.

    Args:
        model ([`Bert4RecForMaskedLM`]):
            Not changed: attention comes from a twin that shares its weights and computes attention in the plain way.

    Example:
        >>> import numpy as np
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
        >>> weigh = AttentionRollout(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=103)))
        >>> weights = weigh(np.array([5, 9, 5]))
        >>> weights.shape, round(weights.sum().item(), 3)
        ((3,), 1.0)
    """

    def __init__(self, model: Bert4RecForMaskedLM):
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.twin = copy.deepcopy(model, shared).eval()
        self.twin.set_attn_implementation("eager")
        config = model.config
        self.collator = DataCollatorForCloze(
            max_length=config.max_position_embeddings,
            pad_token_id=cast(int, config.pad_token_id),
            mask_token_id=cast(int, config.mask_token_id),
        )

    @torch.inference_mode()
    def __call__(self, history: np.ndarray) -> np.ndarray:
        r"""
        Args:
            history (`np.ndarray` of shape `(num_events,)`): Item tokens, oldest first.

        Returns:
            `np.ndarray` of shape `(num_events,)`: weights that sum to 1; 0 for events older than the model reads.
        """
        weights = np.zeros(len(history), dtype=np.float64)
        if not len(history):
            return weights
        batch = self.collator.ranking_batch([history])
        input_ids = batch["input_ids"].to(self.twin.device)  # (1, events read + 1): [MASK] is last
        config = self.twin.config
        own, previous = input_ids.shape[1] - 1, input_ids.shape[1] - 2
        readings = {"masked": [(config.is_decoder, own)], "causal": [(True, previous)]}
        readings["both"] = readings["causal"] + readings["masked"]
        rows = [self._row(input_ids, *reading)[:own] for reading in readings[config.reading]]
        found = torch.stack([row / row.sum() for row in rows]).mean(0)  # (events read,)
        weights[len(history) - own :] = found.cpu().numpy()
        return weights

    def _row(self, input_ids: torch.Tensor, is_causal: bool, column: int) -> torch.Tensor:
        """What of each position reaches one column of the last layer."""
        attentions = self.twin.bert4rec(input_ids, is_causal=is_causal, output_attentions=True).attentions
        row = torch.zeros(input_ids.shape[1], dtype=torch.float64, device=input_ids.device)
        row[column] = 1
        for attention in reversed(attentions):
            row = (row + row @ attention[0].mean(0).double()) / 2  # heads are averaged
        return row
