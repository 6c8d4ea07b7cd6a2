"""
Heads for users and events: a class, several labels or numbers for a whole history, or a label for each of its events.

*Source:* the classification heads of `transformers.models.bert`, with Transformers' `problem_type`, `num_labels` and
`id2label`; the mean over positions, in place of a [CLS] token, is ModernBERT's `classifier_pooling="mean"`.

*Differences:* there is no [CLS] and no pooler. The loss is divided by what `Trainer` counts for every problem type, where
Transformers' own does so for single labels alone. A model whose `reading` is `"causal"` (SASRec) keeps the causal
attention that it was trained with.
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_bert4rec import Bert4RecConfig
from .event_window import event_mask, kept_events
from .modeling_bert4rec import Bert4RecModel, Bert4RecPreTrainedModel


class Bert4RecForSequenceClassification(Bert4RecPreTrainedModel):
    r"""
    A linear layer on the mean of a history's events: single label, multi label or regression, as `config.problem_type` says.

    `from_pretrained` of a folder of [`Bert4RecForMaskedLM`] takes over the encoder and draws the layer anew.

    Args:
        config ([`Bert4RecConfig`]): The architecture, `num_labels` and `problem_type`.

    Example:
        >>> import torch
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForSequenceClassification
        >>> model = Bert4RecForSequenceClassification(Bert4RecConfig(vocab_size=103, num_labels=3)).eval()
        >>> model(torch.tensor([[5, 9, 7], [8, 0, 0]])).logits.shape
        torch.Size([2, 3])
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert4rec = Bert4RecModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        r"""
        `input_ids`, `attention_mask`, `position_ids` and `inputs_embeds` are those of [`Bert4RecModel.forward`].

        Args:
            labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
                Classes as integers of shape `(batch_size,)` (`"single_label_classification"`), 0 or 1 for each label
                (`"multi_label_classification"`), or numbers (`"regression"`). Where `config.problem_type` is `None` it is
                set from the first labels, as in all of Transformers: one label is a regression, integers are classes.
            num_items_in_batch (`int`, *optional*):
                What the summed loss is divided by: the elements of the labels of all accumulated batches and processes, as
                `Trainer` counts them. By default those of this batch.

        Returns:
            [`SequenceClassifierOutput`]: `loss` where labels are given; `logits` of shape `(batch_size, num_labels)`. Of a
            history without an event they are the bias of the layer.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs.update(position_ids=position_ids, inputs_embeds=inputs_embeds)
        outputs, is_event = _encode(self, inputs, kwargs)
        vectors = outputs.last_hidden_state.masked_fill(~is_event[..., None], 0)
        num_events = is_event.sum(1, keepdim=True).clamp(min=1)  # (batch, 1)
        means = vectors.sum(1) / num_events  # (batch, length, hidden) -> (batch, hidden)
        logits = self.classifier(self.dropout(means))  # (batch, labels)
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch) -> torch.Tensor:
        """`loss_function`, whose means over labels or numbers of this batch become sums over what `Trainer` counts."""
        logits, problem_type = logits.float(), self.config.problem_type
        if problem_type is None and self.num_labels > 1 and not labels.is_floating_point():
            problem_type = "single_label_classification"
        options = {"pooled_logits": logits, "config": self.config}
        if problem_type == "single_label_classification":
            return self.loss_function(labels=labels, num_items_in_batch=num_items_in_batch, **options)
        loss = self.loss_function(labels=labels.to(logits.dtype), **options)
        return loss if num_items_in_batch is None else loss * (labels.numel() / num_items_in_batch)


class Bert4RecForTokenClassification(Bert4RecPreTrainedModel):
    r"""
    A linear layer on each event of a history: what kind of event it is, seen with all others (or the older ones alone,
    where attention is causal).

    `from_pretrained` of a folder of [`Bert4RecForMaskedLM`] takes over the encoder and draws the layer anew.

    Args:
        config ([`Bert4RecConfig`]): The architecture and `num_labels`.

    Example:
        >>> import torch
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForTokenClassification
        >>> model = Bert4RecForTokenClassification(Bert4RecConfig(vocab_size=103, num_labels=3)).eval()
        >>> model(torch.tensor([[5, 9, 7], [8, 0, 0]])).logits.shape
        torch.Size([2, 3, 3])
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert4rec = Bert4RecModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        r"""
        `input_ids`, `attention_mask`, `position_ids` and `inputs_embeds` are those of [`Bert4RecModel.forward`].

        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Class of each event, -100 where there is none. Padding, and events older than the newest
                `max_position_embeddings`, are left out whatever their label.
            num_items_in_batch (`int`, *optional*):
                What the summed loss is divided by: the labels of all accumulated batches and processes, as `Trainer`
                counts them. By default the labels of this batch.

        Returns:
            [`TokenClassifierOutput`]: `loss` where labels are given; `logits` of shape `(batch_size, sequence_length,
            num_labels)`, which mean nothing where the model reads no event.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs.update(position_ids=position_ids, inputs_embeds=inputs_embeds)
        outputs, is_event = _encode(self, inputs, kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))  # (batch, length, labels)
        loss = None
        if labels is not None:
            labels = labels.masked_fill(~is_event.to(labels.device), -100)
            loss = self.loss_function(logits, labels, self.config, num_items_in_batch=num_items_in_batch)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


def _encode(model: Bert4RecPreTrainedModel, inputs: dict, kwargs: dict) -> tuple[BaseModelOutput, torch.Tensor]:
    """What the encoder gives, and which events it read: a mask of shape (batch, length)."""
    config, mask = model.config, inputs["attention_mask"]
    if mask is not None and mask.ndim != 2:
        mask = None  # it tells who sees whom; the padding token tells the events
    is_event = event_mask(config.pad_token_id, inputs["input_ids"], inputs["inputs_embeds"], mask)
    if not is_event.shape[1]:  # nothing but empty histories: attention has no shape for them
        return BaseModelOutput(model.classifier.weight.new_zeros(*is_event.shape, config.hidden_size)), is_event
    if config.reading == "causal":
        kwargs.setdefault("is_causal", True)
    return model.bert4rec(**inputs, **kwargs), kept_events(is_event, config.max_position_embeddings)


__all__ = ["Bert4RecForSequenceClassification", "Bert4RecForTokenClassification"]
