"""
Which events of a padded history a model reads, and the position of each: both come from the attention mask, so that
padding, on either side, never moves an event.
"""

from typing import cast

import torch
from transformers import PreTrainedConfig
from transformers.utils.generic import is_flash_attention_requested


def kept_events(attention_mask: torch.Tensor, max_length: int) -> torch.Tensor:
    r"""
    Args:
        attention_mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for events, 0 for padding.
        max_length (`int`): How many events are read.

    Returns:
        `torch.Tensor` of shape `(batch_size, length)`: the mask of the newest `max_length` events of each row.
    """
    if attention_mask.shape[1] <= max_length:
        return attention_mask
    is_event = attention_mask.to(torch.bool)
    num_newer = is_event.flip(1).cumsum(1).flip(1) - is_event.long()
    return is_event & (num_newer < max_length)


def kept_mask(
    config: PreTrainedConfig,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor | None:
    """
    The attention mask of a model's inputs less the events beyond the newest `max_position_embeddings`; `None`: all are kept.

    Raises:
        ValueError: If a 4-D mask comes with more events than there are positions, or with flash attention.
    """
    length = cast(torch.Tensor, input_ids if inputs_embeds is None else inputs_embeds).shape[1]
    max_length = config.max_position_embeddings
    if attention_mask is None:
        if length <= max_length and (input_ids is None or config.pad_token_id is None):
            return None
        attention_mask = event_mask(config.pad_token_id, input_ids, inputs_embeds)
    if attention_mask.ndim == 2:
        return kept_events(attention_mask, max_length)
    if length > max_length:
        raise ValueError(
            f"{length} events are more than the {max_length} of max_position_embeddings and a 4-D attention mask "
            "does not say which are the newest; shorten the input or give a 2-D mask."
        )
    if is_flash_attention_requested(config):
        raise ValueError(
            "Flash attention takes no 4-D attention mask; give a 2-D mask, or call set_attn_implementation('sdpa')."
        )
    return attention_mask


def event_positions(attention_mask: torch.Tensor, from_newest: bool) -> torch.Tensor:
    r"""
    Args:
        attention_mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for events, 0 for padding.
        from_newest (`bool`): Whether the newest event has position 0; else the oldest.

    Returns:
        `torch.LongTensor` of shape `(batch_size, length)`: position of each event within its own history.

    Example:
        >>> event_positions(torch.tensor([[1, 1, 1, 0]]), from_newest=True)
        tensor([[2, 1, 0, 0]])
    """
    is_event = attention_mask.to(torch.long)
    counts = is_event.flip(1).cumsum(1).flip(1) if from_newest else is_event.cumsum(1)  # (batch, length)
    return (counts - 1).clamp(min=0)


def is_padded_on_the_right(attention_mask: torch.Tensor) -> bool:
    """Whether in every row of a `(batch_size, length)` mask all events come before all padding."""
    return bool((attention_mask[:, :-1] >= attention_mask[:, 1:]).all())


def event_mask(
    pad_token_id: int | None,
    input_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor:
    r"""
    Returns:
        `torch.BoolTensor` of shape `(batch_size, length)`: where a model's inputs hold events. Where nothing tells padding
        from events, everywhere.
    """
    if attention_mask is not None and attention_mask.ndim == 2:
        return attention_mask.to(torch.bool)
    if input_ids is not None and pad_token_id is not None and attention_mask is None:
        return input_ids.ne(pad_token_id)
    tokens = cast(torch.Tensor, input_ids if inputs_embeds is None else inputs_embeds)
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def read_events(config: PreTrainedConfig, **inputs) -> torch.Tensor:
    """Where a model reads an event, of shape `(batch_size, length)`: its inputs' [`event_mask`] within its window."""
    return kept_events(event_mask(config.pad_token_id, **inputs), config.max_position_embeddings)


def next_labels(labels: torch.Tensor, is_event: torch.Tensor) -> torch.Tensor:
    r"""
    Args:
        labels (`torch.LongTensor` of shape `(batch_size, length)`): -100 where there is none.
        is_event (`torch.BoolTensor` of shape `(batch_size, length)`): False for padding.

    Returns:
        `torch.LongTensor` of shape `(batch_size, length)`: at each event the label of the next column; -100 at padding, so
        that the first event of a history is predicted by nothing.

    Example:
        >>> next_labels(torch.tensor([[-100, 5, 7, 9]]), torch.tensor([[False, True, True, True]]))
        tensor([[-100,    7,    9, -100]])
    """
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).masked_fill(~is_event, -100)


def previous_events(is_event: torch.Tensor) -> torch.Tensor:
    r"""
    Args:
        is_event (`torch.BoolTensor` of shape `(batch_size, length)`): False for padding.

    Returns:
        `torch.LongTensor` of shape `(batch_size, length)`: the column before, where an event stands there; else the own.

    Example:
        >>> previous_events(torch.tensor([[False, True, True, True]]))
        tensor([[0, 1, 1, 2]])
    """
    columns = torch.arange(is_event.shape[1], device=is_event.device)  # (length,)
    follows_event = is_event.roll(1, dims=1) & (columns > 0)
    return columns - follows_event.long()
