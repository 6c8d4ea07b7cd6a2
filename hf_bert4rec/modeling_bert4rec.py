"""
BERT4Rec on Transformers' own BERT encoder: item and position embeddings, Transformer blocks, a head over the catalogue.

*Source:* Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer"
(CIKM 2019), sections 3.2-3.5; blocks as in `encoders`. Names of weights are BERT's, with `bert4rec.` for `bert.`.

*Differences:* no segment embeddings; positions are counted from the attention mask; only positions that carry a label, or
are asked for by `logits_to_keep`, are projected on the catalogue, and the last block works on them alone.
"""

from typing import Any, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.modernbert.modeling_modernbert import ModernBertAttention
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormSelfAttention
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_bert4rec import Bert4RecConfig
from .cpu_attention import CPU_BF16
from .dropout import draw_dropout_from_bits
from .encoders import build_encoder, key_biases, position_inputs, start_values_as_identity
from .event_window import event_positions, is_padded_on_the_right, kept_mask, next_labels, previous_events, read_events
from .item_embeddings import Bert4RecEmbeddings, embedding_beside_head
from .item_head import Bert4RecItemHead
from .member_norm import normalise_by_member
from .packed_rows import can_be_packed, packed_states
from .product_sizes import with_few_sizes
from .pruned_layer import can_be_taken_apart, layer_at_positions, layer_everywhere, wants_all_positions
from .row_parts import can_be_read_in_parts, states_in_parts


class Bert4RecPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving, as for every model of Transformers."""

    config: Bert4RecConfig
    config_class = Bert4RecConfig
    base_model_prefix = "bert4rec"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Bert4RecEmbeddings", "BertLayer", "RobertaPreLayerNormLayer", "_ModernBertBlock"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": GradientCheckpointingLayer,  # the blocks of either stack, and nothing else
        "attentions": [BertSelfAttention, RobertaPreLayerNormSelfAttention, ModernBertAttention],
    }

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear) and self.config.linear_initializer == "xavier":
            init.xavier_normal_(module.weight)
        if hasattr(module, "identity_rows") and not getattr(module.weight, "_is_hf_initialized", False):
            init.eye_(module.weight[module.identity_rows])
        if hasattr(module, "starting_bias") and module.bias is not None:
            init.constant_(module.bias, module.starting_bias)


class Bert4RecModel(Bert4RecPreTrainedModel):
    r"""
    The encoder of a [`Bert4RecConfig`]: histories of item tokens in, one vector per position out.

    Example:
        >>> import torch
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecModel
        >>> model = Bert4RecModel(Bert4RecConfig(vocab_size=103))
        >>> model(torch.tensor([[5, 9, 1]])).last_hidden_state.shape
        torch.Size([1, 3, 64])
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = Bert4RecEmbeddings(config)
        self.encoder = build_encoder(config)
        # A pre-norm stack ends in a sum of residuals, which nothing has normalised yet.
        has_norm = config.norm_position == "pre" and config.final_layer_norm
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if has_norm else nn.Identity()
        if config.value_initializer == "identity":
            start_values_as_identity(self.encoder)
        draw_dropout_from_bits(self)
        normalise_by_member(self, config.num_members)
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True):
        """As of every module; also freezes the key biases, which `from_pretrained` makes trainable again."""
        # A key's bias shifts all scores of a query alike and the softmax takes it out again. Its gradient is rounding noise,
        # which Adam would blow up to steps of full size that differ from one split of a batch to another.
        for bias in key_biases(self.encoder):
            bias.requires_grad_(False)
        return super().train(mode)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding):
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        positions_to_keep: torch.Tensor | None = None,
        is_causal: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Tokens of each history, oldest event first, padded on either side.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for events, 0 for padding; by default every token but the padding token. A mask of shape
                `(batch_size, 1, sequence_length, sequence_length)` is used as it is. Events older than the newest
                `max_position_embeddings` count as padding.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                By default counted from the attention mask.
            inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Item vectors instead of `input_ids`.
            positions_to_keep (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Where an output is needed. Wherever it can, the last block computes and returns no other.
            is_causal (`bool`, *optional*, defaults to `config.is_decoder`): Whether an event sees itself and older ones only.

        Returns:
            [`BaseModelOutput`] with `last_hidden_state` of shape `(batch_size, sequence_length, hidden_size)`, or, where
            the last block was cut to the positions to keep, `(number of positions to keep, hidden_size)` in row order.

        Raises:
            ValueError: If not exactly one of `input_ids` and `inputs_embeds` is given, or if a 4-D mask comes with more
                events than there are positions, or with flash attention.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds; found both or neither.")
        attention_mask = kept_mask(self.config, input_ids, inputs_embeds, attention_mask)
        if position_ids is None:
            position_ids = self._positions(attention_mask, input_ids if inputs_embeds is None else inputs_embeds)
        hidden_states = self.embeddings(input_ids, inputs_embeds, position_ids)  # (batch, length, hidden)
        kwargs |= position_inputs(self.config, position_ids)
        is_causal = self.config.is_decoder if is_causal is None else is_causal
        kwargs["is_causal"] = is_causal  # a decoder's block that is not told attends causally
        attention_mask = self._attention_mask(hidden_states, attention_mask, is_causal, positions_to_keep is None)
        if positions_to_keep is None or not self._can_skip_positions(attention_mask, kwargs):
            hidden_states = self.encoder(hidden_states, attention_mask, **kwargs).last_hidden_state
        else:
            for layer in self.encoder.layer[:-1]:
                hidden_states = layer_everywhere(layer, hidden_states, attention_mask, **kwargs)
            hidden_states = layer_at_positions(
                self.encoder.layer[-1], positions_to_keep, hidden_states, attention_mask, **kwargs
            )
        return BaseModelOutput(last_hidden_state=self.LayerNorm(hidden_states))

    def _positions(self, attention_mask: torch.Tensor | None, tokens) -> torch.Tensor:
        """Position of each event within its own history, from the end that `position_origin` names."""
        if attention_mask is None or attention_mask.ndim != 2:
            attention_mask = torch.ones((1, tokens.shape[1]), dtype=torch.long, device=tokens.device)  # (1, length)
        return event_positions(attention_mask, self.config.position_origin == "newest")

    def _attention_mask(self, hidden_states, attention_mask, is_causal: bool, needs_all: bool):
        """The mask as the attention function takes it."""
        is_padding_mask = attention_mask is not None and attention_mask.ndim == 2
        is_plain = self.config._attn_implementation in ("sdpa", CPU_BF16) and not torch.compiler.is_compiling()
        if is_causal:
            # Padding behind all events is newer than they are: no event sees it anyway, and a causal kernel is faster.
            if self.training and is_padding_mask and is_plain and needs_all and is_padded_on_the_right(attention_mask):
                return None
            return create_causal_mask(self.config, hidden_states, attention_mask, past_key_values=None)
        if is_padding_mask and is_plain:
            # All rows of a padding mask are equal: one is enough, (batch, 1, 1, length), and none where there is no padding.
            return None if attention_mask.all() else attention_mask[:, None, None].to(torch.bool)
        return create_bidirectional_mask(self.config, hidden_states, attention_mask)

    def _can_skip_positions(self, attention_mask: torch.Tensor | None, kwargs: dict) -> bool:
        """Whether the last block can be cut to some positions without anybody missing the others."""
        # Without a mask a causal kernel would take the chosen queries for the oldest ones; a compiler needs fixed shapes.
        return not (
            wants_all_positions(self.config, kwargs)
            or self.config._attn_implementation not in ("sdpa", "eager", CPU_BF16)
            or (kwargs.get("is_causal") and attention_mask is None)
            or torch.compiler.is_compiling()
            or not can_be_taken_apart(self.encoder.layer[-1])
        )


class Bert4RecForMaskedLM(Bert4RecPreTrainedModel):
    r"""
    BERT4Rec with its head over the catalogue: predicts the items hidden behind [MASK].

    Args:
        config ([`Bert4RecConfig`]): The architecture.

    Example:
        >>> import torch
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
        >>> model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=103)).eval()
        >>> history = torch.tensor([[5, 9, 1]])  # two items, then [MASK]
        >>> model(history, logits_to_keep=history == 1).logits.shape
        torch.Size([1, 103])
    """

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert4rec.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    teacher: Any = None  # a `distillation.Teacher`, heard while training

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.bert4rec = Bert4RecModel(config)
        self.cls = Bert4RecItemHead(config)
        if config.tie_word_embeddings:
            # Checkpoints hold shared weights once. `Trainer` warns of missing keys unless they are named here too.
            self._keys_to_ignore_on_save: set[str] | None = set(self._tied_weights_keys)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        self._keys_to_ignore_on_save = None  # whether the new head is tied is not known yet
        self.cls.predictions.decoder = new_embeddings
        if self.config.tie_word_embeddings:
            self.cls.predictions.bias = new_embeddings.bias

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
        causal_rows: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        r"""
        `input_ids`, `attention_mask`, `position_ids` and `inputs_embeds` are those of [`Bert4RecModel.forward`].

        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token of the item to predict where there is one, -100 elsewhere.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Which positions are projected on the catalogue. A boolean tensor of shape `(batch_size,
                sequence_length)` gives logits of shape `(number of true positions, vocab_size)` in row order; an `int`
                keeps the last positions (0: all); see `transformers.modeling_utils.slice_logits_to_keep`.
            num_items_in_batch (`int`, *optional*):
                What the summed loss is divided by: the labels of all accumulated batches and processes, as `Trainer`
                counts them. By default the labels of this batch.
            causal_rows (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                While training: the rows that predict each labelled item from the events before it. By default none.

        Returns:
            [`MaskedLMOutput`]: `loss` where labels are given; `logits` of shape `(batch_size, sequence_length,
            vocab_size)` or as `logits_to_keep` says, each row the scores of the item that stands at its position, as
            `config.reading` says. While training on labels `logits` is `None`: only labelled positions are projected, a
            few at a time, and their scores are never held together.
        """
        encoder_inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        encoder_inputs.update(position_ids=position_ids, inputs_embeds=inputs_embeds)
        if labels is not None and self.training:
            outputs, loss = self._training_loss(encoder_inputs, labels, causal_rows, num_items_in_batch, kwargs)
            return MaskedLMOutput(loss, None, outputs.hidden_states, outputs.attentions)
        wanted = logits_to_keep if isinstance(logits_to_keep, torch.Tensor) else None
        if wanted is not None and (wanted.dtype != torch.bool or wanted.ndim != 2):
            wanted = None  # indices, not a mask of positions
        positions_to_keep = wanted if wanted is None or labels is None else wanted | labels.ne(-100)
        outputs, vectors = self._item_vectors(positions_to_keep, **encoder_inputs, **kwargs)
        loss = None
        if labels is not None:
            chosen = labels if positions_to_keep is None else labels[positions_to_keep]
            loss = self.cls.loss(vectors.flatten(0, -2), chosen.flatten(), num_items_in_batch)
        vectors = (
            slice_logits_to_keep(vectors, logits_to_keep) if wanted is None else vectors[wanted[positions_to_keep]]
        )
        return MaskedLMOutput(loss, self.cls.predictions.decoder(vectors), outputs.hidden_states, outputs.attentions)

    def _encode(self, positions: torch.Tensor | None, embed: nn.Module | None = None, **inputs):
        """The encoder's output, and its hidden states at some positions (`None`: at all)."""
        if self.training and positions is not None and can_be_read_in_parts(self.config, **inputs):
            embed = self.get_input_embeddings() if embed is None else embed
            if type(self.bert4rec) is Bert4RecModel and can_be_packed(self.bert4rec, positions, **inputs):
                return BaseModelOutput(), packed_states(self.bert4rec, embed, positions, **inputs)
            return BaseModelOutput(), states_in_parts(self._encode_at_once, embed, positions, **inputs)
        return self._encode_at_once(positions, **inputs)

    def _encode_at_once(self, positions: torch.Tensor | None, *, prunes: bool = True, **inputs):
        outputs = self.bert4rec(**inputs, positions_to_keep=positions if prunes else None)
        states = outputs.last_hidden_state
        return outputs, states if positions is None or states.ndim == 2 else states[positions]  # (kept, hidden)

    def _item_vectors(self, positions: torch.Tensor | None, **inputs) -> tuple[BaseModelOutput, torch.Tensor]:
        """The encoder's output, and the vectors whose products with the item embeddings are the scores at the positions."""
        transform, reading = self.cls.predictions.transform, self.config.reading
        if reading == "masked":
            outputs, hidden_states = self._encode(positions, **inputs)
            return outputs, transform(hidden_states)
        columns = previous_events(read_events(self.config, **inputs))
        outputs, (hidden_states,) = self._encode_causally([(positions, columns)], **inputs)
        vectors = transform(hidden_states)
        if reading == "both":
            outputs, hidden_states = self._encode(positions, **inputs)
            # Scores are linear in the vector: its mean gives the mean of both log-probabilities, but for a constant.
            vectors = (vectors + transform(hidden_states)) / 2
        return outputs, vectors

    def _encode_causally(self, asked: list[tuple[torch.Tensor | None, torch.Tensor]], **inputs):
        """The causal encoder's output, and for each pair (slots, columns) the states at the columns of the true slots."""
        inputs["is_causal"] = True
        if any(slots is None for slots, _ in asked):  # everywhere
            outputs, hidden_states = self._encode(None, **inputs)
            every = [hidden_states.gather(1, columns[..., None].expand_as(hidden_states)) for _, columns in asked]
            return outputs, [e if slots is None else e[slots] for e, (slots, _) in zip(every, asked, strict=True)]
        places = [(slots.nonzero(as_tuple=True)[0], columns[slots]) for slots, columns in asked if slots is not None]
        needed = torch.zeros_like(asked[0][1], dtype=torch.bool)
        for rows, columns in places:
            needed[rows, columns] = True
        outputs, hidden_states = self._encode(needed, **inputs)
        index = needed.flatten().cumsum(0).view_as(needed) - 1
        return outputs, [hidden_states[index[rows, columns]] for rows, columns in places]

    def _training_loss(self, inputs, labels, causal_rows, num_items_in_batch, kwargs):
        """The encoder's output, and the loss at the labelled positions and nothing else."""
        embed, weight = None, None
        if self.config.training_loss == "softmax" and can_be_read_in_parts(self.config, **inputs, **kwargs):
            embed, weight = embedding_beside_head(self.get_input_embeddings(), self.get_output_embeddings())
        outputs, vectors, chosen = self.labelled_vectors(inputs, labels, causal_rows, embed=embed, **kwargs)
        teacher = None if self.teacher is None else self.teacher.soft_targets(inputs, labels, causal_rows, len(chosen))
        return outputs, self.cls.loss(vectors, chosen, num_items_in_batch, teacher, weight)

    def labelled_vectors(self, inputs, labels, causal_rows, **kwargs):
        """While training: the encoder's output, the vectors that score the labels, `(num_labels, hidden)`, and the labels."""
        if causal_rows is None:
            # A compiler needs shapes that do not depend on how many items are hidden.
            positions = None if torch.compiler.is_compiling() else labels.ne(-100)
            outputs, hidden_states = self._encode(positions, **inputs, **kwargs)
            chosen = labels.flatten() if positions is None else labels[positions]
        else:
            outputs, hidden_states, chosen = self._both_objectives(inputs, labels, causal_rows, kwargs)
        return outputs, with_few_sizes(self.cls.predictions.transform, hidden_states.flatten(0, -2)), chosen

    def _both_objectives(self, inputs, labels, causal_rows, kwargs):
        """Hidden states and their labels: of the rows that predict what is hidden, then of those that predict what is next."""
        states, chosen = [], []
        for predicts_next in (False, True):
            rows = causal_rows.to(torch.bool) == predicts_next
            if not bool(rows.any()):
                continue
            part: dict[str, Any] = {name: value if value is None else value[rows] for name, value in inputs.items()}
            targets = next_labels(labels[rows], read_events(self.config, **part)) if predicts_next else labels[rows]
            positions = targets.ne(-100)
            part["is_causal"] = predicts_next or self.config.is_decoder
            outputs, found = self._encode(positions, prunes=not predicts_next, **part, **kwargs)
            states.append(found)
            chosen.append(targets[positions])
        return outputs, torch.cat(states), torch.cat(chosen)

    def user_vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        r"""
        The vector each history is ranked with: its product with `get_output_embeddings().weight`, plus the bias, is the
        score of every item.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Histories with one [MASK] each.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.

        Returns:
            `torch.Tensor` of shape `(batch_size, hidden_size)`.

        Raises:
            ValueError: If a history has not exactly one [MASK].
        """
        is_mask = input_ids.eq(cast(int, self.config.mask_token_id))
        counts = is_mask.sum(1).unique().tolist()
        if counts not in ([1], []):
            raise ValueError(f"Each history needs exactly one [MASK]; found {counts} in a row. Append one to each.")
        return self._item_vectors(is_mask, input_ids=input_ids, attention_mask=attention_mask, **kwargs)[1]


__all__ = ["Bert4RecForMaskedLM", "Bert4RecModel", "Bert4RecPreTrainedModel"]
