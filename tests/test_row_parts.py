"""Rows in parts of like length: every row with an event once, little padding, and the states of the batch as a whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, row_parts
from hf_bert4rec.product_sizes import next_size
from hf_bert4rec.row_parts import (
    MAX_PADDING,
    TOKENS_AT_ONCE,
    can_be_read_in_parts,
    parts_of_like_length,
    states_in_parts,
)


@pytest.fixture(autouse=True)
def nothing_is_packed(monkeypatch):
    """In float32 rows are packed wherever they can be."""
    monkeypatch.setattr("hf_bert4rec.modeling_bert4rec.can_be_packed", lambda *_, **__: False)


def mask_of(lengths, longest, side="right"):
    columns = torch.arange(longest)
    lengths = torch.tensor(lengths)[:, None]
    return columns < lengths if side == "right" else columns >= longest - lengths


@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.sampled_from(["left", "right"]))
def test_parts_hold_every_row_with_an_event_once_and_little_padding(lengths, side):
    mask = mask_of(lengths, 310, side)
    found = []
    for rows, columns in parts_of_like_length(mask):
        part = mask[rows, columns]
        num_rows, width = part.shape
        assert num_rows & (num_rows - 1) == 0  # a power of two
        kept = rows.unique()
        assert mask[kept, columns].sum() == mask[kept].sum()  # what is cut off is padding
        longest = max(lengths[row] for row in kept)
        assert width == min(next_size(longest), 310)
        assert num_rows * longest - mask[kept].sum() <= MAX_PADDING
        assert num_rows * longest <= TOKENS_AT_ONCE
        found += kept.tolist()
    assert sorted(found) == [row for row, length in enumerate(lengths) if length]


def test_rows_whose_events_are_at_both_ends_are_read_whole():
    mask = mask_of([4, 3], 40) | mask_of([0, 5], 40, "left")
    [(rows, columns)] = parts_of_like_length(mask)
    assert rows.tolist() == [1, 0]
    assert columns == slice(0, 40)


def test_rows_of_one_length_are_one_part_until_it_is_too_large():
    assert [len(rows) for rows, _ in parts_of_like_length(mask_of([64] * 128, 64))] == [128]
    assert [len(rows) for rows, _ in parts_of_like_length(mask_of([64] * 129, 64))] == [128, 1]


def test_a_row_joins_a_part_while_its_padding_costs_less_than_another_part():
    fits, too_short = 600 - MAX_PADDING, 600 - MAX_PADDING - 1
    assert [rows.tolist() for rows, _ in parts_of_like_length(mask_of([fits, 600], 600))] == [[1, 0]]
    assert [rows.tolist() for rows, _ in parts_of_like_length(mask_of([too_short, 600], 600))] == [[1], [0]]


def test_a_row_is_repeated_where_that_costs_less_than_another_part():
    assert [rows.tolist() for rows, _ in parts_of_like_length(mask_of([9, 7, 8], 9))] == [[0, 2, 1, 1]]
    assert [rows.tolist() for rows, _ in parts_of_like_length(mask_of([600, 600, 600], 600))] == [[0, 1], [2]]


def test_states_come_in_row_order_and_rows_without_a_wanted_position_are_not_read():
    lengths = [3, 700, 20, 650, 5, 4]
    mask = mask_of(lengths, 700)
    tokens = torch.arange(mask.numel()).view_as(mask) * mask
    wanted = torch.zeros_like(mask)
    for row, column in ((0, 2), (1, 0), (1, 699), (3, 7), (4, 4), (5, 3)):
        wanted[row, column] = True
    read, num_embedded = [], []

    def embed(token_ids):
        num_embedded.append(len(token_ids))
        return token_ids[:, None].float()

    def encode(positions, inputs_embeds, attention_mask, is_causal):
        assert is_causal
        assert inputs_embeds.shape[:2] == attention_mask.shape
        read.append(attention_mask.shape)
        return None, inputs_embeds[positions]

    states = states_in_parts(encode, embed, wanted, input_ids=tokens, attention_mask=mask.long(), is_causal=True)
    assert states[:, 0].tolist() == tokens[wanted].tolist()
    assert num_embedded == [2 * 700 + 4 * 5]
    assert read == [(2, 700), (4, 5)]  # not the row of 20 events; one row of the three short ones twice


@pytest.mark.parametrize(("backbone", "norm_position"), [("bert", "post"), ("bert", "pre"), ("modernbert", "pre")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients_are_those_of_the_batch_as_a_whole(backbone, norm_position, side, monkeypatch):
    config = Bert4RecConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        max_position_embeddings=40,
        backbone=backbone,
        norm_position=norm_position,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = Bert4RecForMaskedLM(config).train()
    mask = mask_of([40, 3, 17, 39, 0, 1], 40, side)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 60, mask.shape, generator=generator) * mask
    labels = tokens.masked_fill(~mask | (torch.rand(mask.shape, generator=generator) < 0.6), -100)
    causal_rows = torch.tensor([True, False, False, True, False, True])
    results = []
    for max_padding in (0, 10**9):
        monkeypatch.setattr(row_parts, "MAX_PADDING", max_padding)
        model.zero_grad()
        loss = model(input_ids=tokens, attention_mask=mask.long(), labels=labels, causal_rows=causal_rows).loss
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters() if p.grad is not None]))
    (in_parts, gradients), (as_a_whole, expected) = results
    torch.testing.assert_close(in_parts, as_a_whole, rtol=1e-6, atol=1e-6)
    for found, gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-7)


def test_the_model_reads_a_training_batch_in_parts():
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=60, max_position_embeddings=700)).train()
    mask = mask_of([700, 20, 690, 10], 700)
    shapes = []
    model.bert4rec.embeddings.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[2].shape)))
    tokens = torch.full(mask.shape, 5) * mask
    model(input_ids=tokens, attention_mask=mask.long(), labels=tokens.masked_fill(~mask, -100))
    assert shapes == [(2, 700), (2, 20)]


def test_what_must_come_for_the_whole_batch_is_not_read_in_parts():
    tokens = torch.ones(2, 4, dtype=torch.long)
    config = Bert4RecConfig(vocab_size=60)
    assert can_be_read_in_parts(config, input_ids=tokens, attention_mask=tokens)
    for inputs in (
        {"attention_mask": None},
        {"attention_mask": torch.ones(2, 1, 4, 4)},
        {"position_ids": tokens},
        {"inputs_embeds": torch.ones(2, 4, 64)},
        {"input_ids": tokens.to("meta")},
        {"output_attentions": True},
        {"output_hidden_states": True},
    ):
        assert not can_be_read_in_parts(config, **{"input_ids": tokens, "attention_mask": tokens} | inputs)
    assert not can_be_read_in_parts(
        Bert4RecConfig(vocab_size=60, output_hidden_states=True), input_ids=tokens, attention_mask=tokens
    )


def test_a_batch_without_a_label_gives_a_loss_of_zero():
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=60)).train()
    tokens = torch.from_numpy(np.full((2, 3), 5))
    loss = model(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        labels=torch.full_like(tokens, -100),
        num_items_in_batch=4,
    ).loss
    assert loss.item() == 0.0
