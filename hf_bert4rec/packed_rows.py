"""
Rows of a padded batch read without padding: their events stand one behind the other, each row attends to itself.

Norms, projections, dropout and feed-forward layers do not know rows and work on the events of many as on one long row.
Attention takes the rows of one length at a time, which need no mask. On a CPU a training step takes a twentieth less than by
rows in parts of like length (`row_parts`) where histories are long, a tenth less where they are short.

A few tokens that are no row's stand behind the others, up to one of few numbers (`product_sizes`): what a step has freed fits
the next, which halves the memory and takes 4 to 8 % off the time where histories are long, and products in bfloat16 need few
programs. Attention alone, whose lengths are many, is in float32, in which torch's own is the faster one.

*Source:* none; the blocks are those of `block_parts`.

*Differences:* none in what is computed but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .block_parts import ATTENTIONS, parts_of
from .cpu_attention import CPU_BF16
from .encoders import position_inputs
from .event_window import event_positions, kept_events
from .product_sizes import autocast_dtype, next_size
from .pruned_layer import can_be_taken_apart
from .row_attention import attention_by_products, causal_bias, fused_attention

# Tokens that a CPU reads at once: 8 MiB in the feed-forward layer of a model of width 64, which stay in the cache.
TOKENS_AT_ONCE = 1 << 13


def can_be_packed(model: Any, positions: torch.Tensor, *, attention_mask: torch.Tensor, **inputs) -> bool:
    r"""
    Whether the rows of a batch that [`~row_parts.can_be_read_in_parts`] can be packed: of weights in float32 or more, where
    nothing acts on the modules that packed rows go around, as hooks, wrappers and compilers do.

    Args:
        model ([`Bert4RecModel`]): The encoder.
        positions (`torch.BoolTensor` of shape `(batch_size, length)`): Where a state is wanted; only events can be.
        attention_mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for events, 0 for padding.
        **inputs: What else the model is given; what [`packed_states`] does not know must be `None`.
    """
    unknown = inputs.keys() - {"input_ids", "is_causal", "prunes"}
    is_known_type = model.dtype in (torch.float32, torch.float64) and autocast_dtype() in (None, torch.bfloat16)
    is_known_attention = model.config._attn_implementation in ("sdpa", CPU_BF16)
    if not is_known_type or not is_known_attention or any(inputs[name] is not None for name in unknown):
        return False
    layers = list(model.encoder.layer)
    if not all(can_be_taken_apart(layer) and not layer.gradient_checkpointing for layer in layers):
        return False
    parts = [parts_of(layer) for layer in layers]
    passed_by = [model, model.encoder, *layers, *(module for each in parts for module in each.attention_modules())]
    if not all(map(_is_called_plainly, passed_by)) or any(type(p.self_attention) not in ATTENTIONS for p in parts):
        return False
    is_read = kept_events(attention_mask.to(torch.bool), model.config.max_position_embeddings)
    return bool(positions.any()) and not bool((positions & ~is_read).any())


def _is_called_plainly(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    is_wrapped = hasattr(module, "_hf_hook") or "forward" in vars(module) or module._compiled_call_impl is not None
    return not any(hooks) and not is_wrapped


def packed_states(
    model: Any,
    embed: Callable,
    positions: torch.Tensor,
    *,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    is_causal: bool | None = None,
    prunes: bool = True,
    **kwargs: None,
) -> torch.Tensor:
    r"""
    Hidden states at some positions.

    Args:
        model ([`Bert4RecModel`]): The encoder.
        embed (`Callable`): Embeds tokens of shape `(number of tokens,)`; called once, as each call's gradient can be as large
            as the catalogue.
        positions (`torch.BoolTensor` of shape `(batch_size, length)`): Where a state is wanted. Rows without any are not read.
        input_ids, attention_mask (`torch.Tensor` of shape `(batch_size, length)`): A padded batch.
        is_causal (`bool`, *optional*, defaults to `config.is_decoder`): Whether an event sees itself and older ones only.
        prunes (`bool`, *optional*, defaults to `True`): Whether the last block is computed at the positions alone, unless it
            is causal.

    Returns:
        `torch.Tensor` of shape `(number of positions, hidden_size)`, in row order.
    """
    is_causal = model.config.is_decoder if is_causal is None else is_causal
    prunes = prunes and not is_causal  # nearly every event predicts the next one
    is_event = kept_events(attention_mask.to(torch.bool), model.config.max_position_embeddings)
    position_ids = event_positions(is_event, model.config.position_origin == "newest").flatten()
    is_wanted, tokens = positions.flatten(), input_ids.flatten()
    parts = list(packed_parts(is_event & positions.any(1, keepdim=True)))
    places = [_up_to_size(part, int(part[0])) for part, _ in parts]  # no item is embedded that is not read
    embeds = embed(tokens[torch.cat(places)]).split([len(part) for part in places])
    states = []
    for (part, lengths), part_places, embedded in zip(parts, places, embeds, strict=True):
        rows = _PackedRows(lengths, is_wanted[part], is_causal)
        part_ids = position_ids[part_places][None]  # (1, tokens)
        inputs = position_inputs(model.config, part_ids)
        hidden = model.embeddings(None, embedded[None], part_ids)  # (1, tokens, hidden)
        *layers, last = model.encoder.layer
        for layer in layers if prunes else model.encoder.layer:
            hidden = rows.block(layer, hidden, **inputs)
        hidden = rows.block_at_wanted(last, hidden, **inputs) if prunes else hidden.index_select(1, rows.wanted)
        states.append(model.LayerNorm(hidden.squeeze(0))[: len(rows.wanted)])
    order = torch.cat([part[is_wanted[part]] for part, _ in parts])
    return torch.cat(states)[order.argsort()]


def packed_parts(is_event: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    r"""
    Args:
        is_event (`torch.BoolTensor` of shape `(batch_size, length)`): False for padding.

    Returns:
        Iterator of `(places, lengths)`: as many whole rows as a CPU reads at once, longest first; the places of their events
        in the flattened batch, row by row, and the number of events of each row. Rows without events are left out.

    Example:
        >>> [(places, lengths)] = packed_parts(torch.tensor([[True, False], [False, False], [True, True]]))
        >>> places.tolist(), lengths.tolist()
        ([4, 5, 0], [2, 1])
    """
    lengths, order = is_event.sum(1).sort(descending=True, stable=True)
    lengths = lengths[lengths > 0]
    places = torch.arange(is_event.numel()).view_as(is_event)
    while len(lengths):
        sums = lengths.cumsum(0)
        num_parts = -(-int(sums[-1]) // TOKENS_AT_ONCE)  # of like size, so that their sizes are few
        num_rows = int((sums < int(sums[-1]) / num_parts).sum()) + 1
        num_rows = max(1, min(num_rows, int((sums <= TOKENS_AT_ONCE).sum())))
        rows = order[:num_rows]
        yield places[rows][is_event[rows]], lengths[:num_rows]
        order, lengths = order[num_rows:], lengths[num_rows:]


def _up_to_size(index: torch.Tensor, last: int = 0) -> torch.Tensor:
    """Places up to one of few numbers, those behind the given ones all the last."""
    return nn.functional.pad(index, (0, next_size(len(index)) - len(index)), value=last)


class _PackedRows:
    """
    Rows whose tokens stand one behind the other, rows of one length together; others may follow that are no row's.

    Args:
        lengths (`torch.LongTensor` of shape `(num_rows,)`): Tokens of each row.
        is_wanted (`torch.BoolTensor` of shape `(num_tokens,)`): Where the last block is wanted: somewhere in each row.
        is_causal (`bool`): Whether a token sees itself and older ones only.
    """

    def __init__(self, lengths: torch.Tensor, is_wanted: torch.Tensor, is_causal: bool):
        self.is_causal, self.wanted = is_causal, is_wanted.nonzero()[:, 0]
        self._lengths = lengths
        found, num_rows = lengths.unique_consecutive(return_counts=True)
        self.lengths, self.num_rows = found.tolist(), num_rows.tolist()

    def block(self, layer: nn.Module, states: torch.Tensor, **inputs) -> torch.Tensor:
        """What a block gives at all tokens, `(1, tokens, hidden)`."""
        parts = parts_of(layer)
        attended = self._attention(parts, parts.by_head(None, parts.norm(states), **inputs), self.lengths)
        return parts.feed_forward(parts.output(attended, states))

    def block_at_wanted(self, layer: nn.Module, states: torch.Tensor, **inputs) -> torch.Tensor:
        """What a block gives at the wanted tokens, `(1, wanted or more, hidden)`."""
        slots, chosen, num_slots = self._slots()
        slots, chosen, wanted = (_up_to_size(index) for index in (slots, chosen, self.wanted))
        parts = parts_of(layer)
        attended = self._attention(parts, parts.by_head(slots[None], parts.norm(states), **inputs), num_slots)
        return parts.feed_forward(parts.output(attended.index_select(1, chosen), states.index_select(1, wanted)))

    def _slots(self) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Tokens that ask, equally many in all rows of one length; the slots that are wanted; how many a row has, by length."""
        row = torch.arange(len(self._lengths)).repeat_interleave(self._lengths)[self.wanted]  # of each wanted token
        counts = row.bincount(minlength=len(self._lengths))
        most = [int(found.max()) for found in counts.split(self.num_rows)]  # by length
        per_row = torch.tensor(most).repeat_interleave(torch.tensor(self.num_rows))
        place_in_row = torch.arange(len(self.wanted)) - (counts.cumsum(0) - counts)[row]
        chosen = (per_row.cumsum(0) - per_row)[row] + place_in_row
        # Slots that a row has too many ask for the first token; what they find is dropped.
        slots = counts.new_zeros(int(per_row.sum()))
        slots[chosen] = self.wanted
        return slots, chosen, most

    def _attention(self, parts, by_head: tuple[torch.Tensor, ...], num_queries: list[int]) -> torch.Tensor:
        """Attention of each row to itself, `(1, queries, hidden)`; queries, keys and values are `(1, heads, tokens, size)`."""
        query, key, value = (states.squeeze(0).transpose(0, 1) for states in by_head)  # (tokens, heads, size)
        sizes, dropout = list(zip(self.num_rows, num_queries, self.lengths, strict=True)), parts.dropout()
        exact = torch.promote_types(query.dtype, torch.float32)
        inputs = query.to(exact), key.to(exact), value.to(exact)
        with torch.autocast("cpu", enabled=False):
            if dropout:
                biases = [causal_bias(length, inputs[0]) if self.is_causal else None for length in self.lengths]
                attended = attention_by_products(*inputs, sizes=sizes, biases=biases, dropout=dropout)
            else:
                attended = fused_attention(*inputs, sizes=sizes, is_causal=self.is_causal)
        return attended.to(query.dtype).flatten(1)[None]
