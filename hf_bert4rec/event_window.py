"""
Which events of a padded history a model reads, and the position of each: both come from the attention mask, so that
padding, on either side, never moves an event.
"""

from typing import cast

import torch


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
