"""
The causal sibling of BERT4Rec: every event predicts the next one from itself and older events.

*Source:* Kang & McAuley, "Self-Attentive Sequential Recommendation" (SASRec, ICDM 2018). Sun et al. (CIKM 2019), section
3.7, call it the special case of one head and a causal mask.

*Differences:* literal SASRec is a configuration: `norm_position="pre"`, `hidden_act="relu"`, `num_attention_heads=1`,
`head_transform=False`, `embedding_layer_norm=False`, and a feed-forward layer as wide as the model.
"""

import copy
from typing import cast

import torch
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_bert4rec import Bert4RecConfig
from .event_window import next_labels, previous_events, read_events
from .modeling_bert4rec import Bert4RecForMaskedLM


class Bert4RecForCausalLM(Bert4RecForMaskedLM):
    r"""
    SASRec: the same weights as [`Bert4RecForMaskedLM`], with causal attention whatever `config.is_decoder` says.

    A [MASK] at the end of a history stands for the item to come, as for its sibling, so that both are ranked by the same
    batches; no event sees it. The configuration's `reading` becomes `"causal"`, with which `AutoModelForMaskedLM` ranks a
    saved model in the same way; the one given stays as it is.

    Args:
        config ([`Bert4RecConfig`]): The architecture.

    Example:
        >>> import torch
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForCausalLM
        >>> model = Bert4RecForCausalLM(Bert4RecConfig(vocab_size=103)).eval()
        >>> model(torch.tensor([[5, 9, 7]])).logits.shape
        torch.Size([1, 3, 103])
    """

    def __init__(self, config: Bert4RecConfig):
        config = copy.deepcopy(config)  # a masked model of the same configuration reads on as before
        config.reading = "causal"
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutput:
        r"""
        Arguments are those of [`Bert4RecForMaskedLM.forward`].

        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                As in every causal model of Transformers the tokens themselves, -100 where nothing is to be predicted: the
                event before a label predicts it. The first label of a row has no event before it and is ignored.
                `shift_labels` instead are the labels of the next events already.

        Returns:
            [`CausalLMOutput`]: `loss` where labels are given; `logits` of shape `(batch_size, sequence_length,
            vocab_size)` or as `logits_to_keep` says: at an event the scores of the next item, at a [MASK] of that [MASK].
            While training on labels `logits` is `None`.
        """
        kwargs.pop("causal_rows", None)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs.update(position_ids=position_ids, inputs_embeds=inputs_embeds)
        is_event = read_events(self.config, **inputs)
        targets = kwargs.pop("shift_labels", None)
        if targets is None and labels is not None:
            targets = next_labels(labels, is_event)
        if targets is not None and self.training:
            outputs, loss = self._training_loss(inputs, targets, None, num_items_in_batch, kwargs)
            return CausalLMOutput(loss=loss, hidden_states=outputs.hidden_states, attentions=outputs.attentions)
        wanted = logits_to_keep if isinstance(logits_to_keep, torch.Tensor) and logits_to_keep.ndim == 2 else None
        asked = [(wanted, self._predicting_columns(is_event, input_ids))]
        if targets is not None:
            asked.append((targets.ne(-100), _own_columns(is_event)))
        outputs, hidden_states = self._encode_causally(asked, **inputs, **kwargs)
        loss = None
        if targets is not None:
            vectors = self.cls.predictions.transform(hidden_states[1])
            loss = self.cls.loss(vectors, targets[targets.ne(-100)], num_items_in_batch)
        vectors = self.cls.predictions.transform(hidden_states[0])  # (wanted or (batch, length), hidden)
        if wanted is None:
            vectors = slice_logits_to_keep(vectors, logits_to_keep)
        logits = self.cls.predictions.decoder(vectors)
        return CausalLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def labelled_vectors(self, inputs, labels, causal_rows, **kwargs):
        """As of [`Bert4RecForMaskedLM`]; `labels` are those of the next items."""
        positions = labels.ne(-100)
        outputs, hidden_states = self._encode(positions, prunes=False, **inputs, **kwargs, is_causal=True)
        return outputs, self.cls.predictions.transform(hidden_states), labels[positions]

    def _predicting_columns(self, is_event: torch.Tensor, input_ids: torch.Tensor | None) -> torch.Tensor:
        """The column whose output predicts each position: the one before a [MASK], else its own."""
        own = _own_columns(is_event)
        if input_ids is None:
            return own
        return torch.where(input_ids.eq(cast(int, self.config.mask_token_id)), previous_events(is_event), own)

    def _item_vectors(self, positions: torch.Tensor | None, **inputs):
        is_event = read_events(self.config, **inputs)
        columns = self._predicting_columns(is_event, inputs.get("input_ids"))
        outputs, (hidden_states,) = self._encode_causally([(positions, columns)], **inputs)
        return outputs, self.cls.predictions.transform(hidden_states)


def _own_columns(is_event: torch.Tensor) -> torch.Tensor:
    return torch.arange(is_event.shape[1], device=is_event.device).expand(is_event.shape)


__all__ = ["Bert4RecForCausalLM"]
