"""
Rows of a padded batch read in parts of like length, so that a CPU spends little time on padding whatever rows come together.

This is the road of whatever `can_be_packed` refuses; others go without padding at all (`packed_rows`).

Batches of like length need no parts, but teach worse: their steps are of users of one kind, and an event of a short history
weighs more than one of a long history. Validation NDCG@10 on MovieLens-1M at the end of `examples/04_reproduce.py ml-1m` was
.180 by them and is .193 by rows in random order; after ten epochs at hidden size 64 .114 and .124.

*Differences:* none in what is computed but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from .configuration_bert4rec import Bert4RecConfig
from .packed_rows import TOKENS_AT_ONCE
from .product_sizes import next_size
from .pruned_layer import wants_all_positions

# Tokens of padding in a part that cost less than another part would: a part calls each kernel once more.
MAX_PADDING = 512


def can_be_read_in_parts(
    config: Bert4RecConfig, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, **kwargs
) -> bool:
    """Whether these inputs of a model are rows of tokens on a CPU, and nothing is asked for that must come for all at once."""
    is_padded_batch = attention_mask is not None and attention_mask.ndim == 2 and position_ids is None
    return (
        is_padded_batch
        and input_ids is not None
        and inputs_embeds is None
        and input_ids.device.type == "cpu"
        and not wants_all_positions(config, kwargs)
        and not torch.compiler.is_compiling()
    )


def parts_of_like_length(is_event: torch.Tensor) -> Iterator[tuple[torch.Tensor, slice]]:
    r"""
    Args:
        is_event (`torch.BoolTensor` of shape `(batch_size, length)`): False for padding.

    Returns:
        Iterator of `(rows, columns)`: parts, longest rows first, which together are all rows that hold an event, and for
        each part columns outside which its rows are padding. The sizes are few: a part has one, two, four, ... rows (the
        last may repeat its last row up to that number) and as many columns as `next_size` says.

    Example:
        >>> mask = torch.ones(3, 400, dtype=torch.bool)
        >>> mask[1, 2:] = False
        >>> [(rows.tolist(), columns.stop) for rows, columns in parts_of_like_length(mask)]
        [([0, 2], 400), ([1], 2)]
    """
    lengths, order = is_event.sum(1).sort(descending=True, stable=True)
    lengths = lengths[lengths > 0]
    while len(lengths):
        num_rows = _num_rows(lengths)
        rows = order[: min(num_rows, len(lengths))]
        first_event, last_event = is_event[rows].any(0).nonzero()[[0, -1], 0].tolist()
        width = min(next_size(last_event + 1 - first_event), is_event.shape[1])
        start = min(first_event, is_event.shape[1] - width)
        yield nn.functional.pad(rows, (0, num_rows - len(rows)), value=int(rows[-1])), slice(start, start + width)
        order, lengths = order[num_rows:], lengths[num_rows:]


def _num_rows(lengths: torch.Tensor) -> int:
    """Rows of the next part, a power of two: as many as cost little padding and fit what a CPU reads at once."""
    num_rows, longest = 1, int(lengths[0])
    while num_rows < len(lengths):
        tokens = 2 * num_rows * longest
        if tokens > TOKENS_AT_ONCE or tokens - int(lengths[: 2 * num_rows].sum()) > MAX_PADDING:
            break
        num_rows *= 2
    return num_rows


def states_in_parts(
    encode: Callable,
    embed: Callable,
    positions: torch.Tensor,
    *,
    input_ids,
    attention_mask,
    inputs_embeds=None,
    **inputs,
) -> torch.Tensor:
    r"""
    Hidden states at some positions, the rows read part by part.

    Args:
        encode (`Callable`): `encode(positions, inputs_embeds=..., attention_mask=..., **inputs)` gives the encoder's output
            and its hidden states at the positions, `(number of positions, hidden_size)` in row order.
        embed (`Callable`): Embeds tokens of shape `(number of tokens,)`; called once, as each call's gradient can be as
            large as the catalogue.
        positions (`torch.BoolTensor` of shape `(batch_size, length)`): Where a state is wanted. Rows without any are not read.
        input_ids, attention_mask (`torch.Tensor` of shape `(batch_size, length)`): A padded batch.
        inputs_embeds (`None`): Must not be given.

    Returns:
        `torch.Tensor` of shape `(number of positions, hidden_size)`, in row order.
    """
    places = torch.arange(positions.numel()).view_as(positions)
    is_read = attention_mask.to(torch.bool) & positions.any(1, keepdim=True) | positions
    parts = list(parts_of_like_length(is_read)) or [(torch.tensor([0]), slice(0, 1))]  # the loss has a gradient always
    tokens = [input_ids[part] for part in parts]
    embeds = embed(torch.cat([part.flatten() for part in tokens])).split([part.numel() for part in tokens])
    states, order = [], []
    for (rows, columns), embedded, part_tokens in zip(parts, embeds, tokens, strict=True):
        wanted = positions[rows, columns]
        wanted[1:][rows[1:] == rows[:-1]] = False  # repeated rows
        part = {
            "inputs_embeds": embedded.view(*part_tokens.shape, -1),
            "attention_mask": attention_mask[rows, columns],
        }
        states.append(encode(wanted, **part, **inputs)[1])
        order.append(places[rows, columns][wanted])
    return torch.cat(states)[torch.cat(order).argsort()]
