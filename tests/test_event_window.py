"""Kept events, positions and previous events against loops over rows."""

import pytest
import torch

from hf_bert4rec.event_window import (
    event_mask,
    event_positions,
    is_padded_on_the_right,
    kept_events,
    previous_events,
)

MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("max_length", [1, 2, 3, 5, 9])
def test_the_newest_events_are_kept(max_length):
    kept = kept_events(MASK, max_length)
    for row, found in zip(MASK.tolist(), kept.tolist(), strict=True):
        events = [place for place, is_event in enumerate(row) if is_event]
        assert [place for place, is_kept in enumerate(found) if is_kept] == events[-max_length:]


@pytest.mark.parametrize("from_newest", [True, False])
def test_positions_count_events_only(from_newest):
    positions = event_positions(MASK, from_newest)
    for row, found in zip(MASK.tolist(), positions.tolist(), strict=True):
        events = [place for place, is_event in enumerate(row) if is_event]
        expected = range(len(events) - 1, -1, -1) if from_newest else range(len(events))
        assert [found[place] for place in events] == list(expected)


def test_the_previous_event_is_in_the_column_before_where_there_is_one():
    found = previous_events(MASK.bool()).tolist()
    for row, columns in zip(MASK.tolist(), found, strict=True):
        assert columns == [place - 1 if place and row[place - 1] else place for place in range(5)]


def test_padding_on_the_right_is_told_from_any_other():
    assert [is_padded_on_the_right(MASK[row : row + 1]) for row in range(5)] == [True, False, True, False, True]


def test_events_are_read_from_the_mask_else_from_the_tokens():
    tokens = MASK * 7
    assert torch.equal(event_mask(0, input_ids=tokens), MASK.bool())
    assert torch.equal(event_mask(0, input_ids=tokens + 1, attention_mask=MASK), MASK.bool())
    assert event_mask(None, input_ids=tokens).all()
    assert event_mask(0, input_ids=tokens, attention_mask=torch.ones(5, 1, 5, 5)).all()
    assert event_mask(0, inputs_embeds=torch.zeros(5, 5, 3)).shape == (5, 5)
