"""
A model as the graph that ranks with it: histories with a [MASK] each in, the scores of every item out.

No shape in it depends on values and every branch is taken when it is traced, so that `torch.export` and ONNX can hold it for
any number of histories of any length. The last block runs at one position of each history alone.

*Source:* prediction as in Sun et al. (CIKM 2019), section 3.6; [`Bert4RecForMaskedLM`] with its own weights and blocks.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from .encoders import position_inputs
from .event_window import event_positions, previous_events
from .modeling_bert4rec import Bert4RecForMaskedLM
from .pruned_layer import layer_at_columns

INPUT_NAMES = ("input_ids", "attention_mask")
OUTPUT_NAMES = ("scores", "user_vectors")


class RankingGraph(nn.Module):
    r"""
    The scores that [`ModelScorer`] gives, from one function of two tensors.

    Args:
        model ([`Bert4RecForMaskedLM`]): The model, not copied; its attention must be `"sdpa"`, its mode evaluation.

    Example:
        >>> from hf_bert4rec import Bert4RecConfig
        >>> graph = RankingGraph(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=103)).eval())
        >>> scores, user_vectors = graph(torch.tensor([[5, 9, 1], [7, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
        >>> scores.shape, user_vectors.shape
        (torch.Size([2, 103]), torch.Size([2, 64]))
    """

    def __init__(self, model: Bert4RecForMaskedLM):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Histories with one [MASK] behind each, padded on
                either side.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`): 1 for events and [MASK], 0 for padding.
                Events beyond the newest `max_position_embeddings` count as padding.

        Returns:
            `tuple`: scores of shape `(batch_size, vocab_size)`, and the vectors of shape `(batch_size, hidden_size)` whose
            product with the item embeddings, plus bias, they are.
        """
        encoder, config = self.model.bert4rec, self.model.config
        is_event = _newest(attention_mask.to(torch.bool), config.max_position_embeddings)
        positions = event_positions(is_event, config.position_origin == "newest")
        embedded = encoder.embeddings(input_ids, None, positions)  # (batch, length, hidden)
        rotations = position_inputs(config, positions)
        own = input_ids.eq(cast(int, config.mask_token_id)).long().argmax(1, keepdim=True)  # (batch, 1)
        previous = previous_events(is_event).gather(1, own)
        readings = {"masked": [(config.is_decoder, own)], "causal": [(True, previous)]}
        readings["both"] = readings["causal"] + readings["masked"]
        vectors: Any = [self._read(embedded, is_event, rotations, *reading) for reading in readings[config.reading]]
        vectors = sum(vectors) / len(vectors)  # (batch, hidden)
        return self.model.get_output_embeddings()(vectors), vectors

    def _read(
        self,
        hidden_states: torch.Tensor,
        is_event: torch.Tensor,
        rotations: dict,
        is_causal: bool,
        columns: torch.Tensor,
    ) -> torch.Tensor:
        """The vectors, `(batch, hidden)`, that one reading gives at a column of each history."""
        encoder = self.model.bert4rec
        *layers, last_layer = encoder.encoder.layer
        is_seen = is_event[:, None]  # (batch, 1, length): by which query, which events
        if is_causal:
            places = torch.arange(is_event.shape[1], device=is_event.device)
            # Padding sees itself: a softmax over nothing would be NaN, and NaN times a weight of zero is NaN.
            is_seen = is_seen & (places <= places[:, None]) | (places == places[:, None])  # (batch, length, length)
        for layer in layers:
            hidden_states = layer(hidden_states, is_seen[:, None], **rotations)
        if is_causal:
            is_seen = is_seen.gather(1, columns[..., None].expand(-1, -1, is_event.shape[1]))  # (batch, 1, length)
        last = layer_at_columns(
            last_layer, columns, hidden_states, is_seen[:, None], **rotations
        )  # (batch, 1, hidden)
        return self.model.cls.predictions.transform(encoder.LayerNorm(last[:, 0]))


def _newest(is_event: torch.Tensor, max_length: int) -> torch.Tensor:
    """As [`event_window.kept_events`], but without a look at the length, which a graph does not know."""
    num_newer = is_event.flip(1).cumsum(1).flip(1) - is_event.long()
    return is_event & (num_newer < max_length)
