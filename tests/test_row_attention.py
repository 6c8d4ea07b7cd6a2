"""Attention of rows that stand one behind the other against torch's own of each row alone: outputs, gradients, dropout."""

import pytest
import torch

from hf_bert4rec.row_attention import attention_by_products, causal_bias, fused_attention

# Rows, queries of each, keys of each.
SIZES = [(1, 3, 3), (2, 1, 3), (1, 2, 2)]


def states_of_rows():
    num_queries, num_keys = (sum(size[0] * size[place] for size in SIZES) for place in (1, 2))
    return [
        torch.randn(tokens, 2, 4, dtype=torch.float64, requires_grad=True)
        for tokens in (num_queries, num_keys, num_keys)
    ]


def one_by_one(query, key, value, biases, scaling=None):
    expected, queries, keys = [], 0, 0
    for (num_rows, num_queries, num_keys), bias in zip(SIZES, biases, strict=True):
        for _ in range(num_rows):
            one = query[queries : queries + num_queries], *(each[keys : keys + num_keys] for each in (key, value))
            by_head = (each.transpose(0, 1) for each in one)
            attended = torch.nn.functional.scaled_dot_product_attention(*by_head, attn_mask=bias, scale=scaling)
            expected.append(attended.transpose(0, 1))
            queries, keys = queries + num_queries, keys + num_keys
    return torch.cat(expected)


@pytest.mark.parametrize("scaling", [None, 0.9])
def test_rows_of_many_lengths_attend_to_themselves_alone(scaling):
    states = states_of_rows()
    hidden = torch.full((1, 3), float("-inf"), dtype=torch.float64)
    hidden[0, 1] = 0  # the one query of these rows sees the second key alone
    biases = [None, hidden, causal_bias(2, states[0])]
    found = attention_by_products(*states, sizes=SIZES, biases=biases, scaling=scaling)
    torch.testing.assert_close(found, one_by_one(*states, biases, scaling))


def test_the_fused_way_finds_what_each_row_does_alone():
    states = states_of_rows()
    torch.testing.assert_close(fused_attention(*states, sizes=SIZES), one_by_one(*states, [None] * 3))


def test_the_fused_way_hides_newer_keys():
    key, value = states_of_rows()[1:]
    sizes = [(num_rows, num_keys, num_keys) for num_rows, _, num_keys in SIZES]
    found = fused_attention(key, key, value, sizes=sizes, is_causal=True)
    starts, lengths = [0, 3, 6, 9], [3, 3, 3, 2]
    for start, length in zip(starts, lengths, strict=True):
        own = [each[start : start + length].transpose(0, 1) for each in (key, key, value)]
        expected = torch.nn.functional.scaled_dot_product_attention(*own, is_causal=True)
        torch.testing.assert_close(found[start : start + length], expected.transpose(0, 1))


def test_the_fused_way_takes_states_of_any_layout():
    states = states_of_rows()
    turned = [each.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for each in states]
    found = fused_attention(*turned, sizes=SIZES)
    torch.testing.assert_close(found, fused_attention(*states, sizes=SIZES))
    weights = torch.randn(found.shape[0], found.shape[2], found.shape[1], dtype=found.dtype).transpose(1, 2)
    found.backward(weights)
    fused_attention(*states, sizes=SIZES).backward(weights.contiguous())
    for each, exact in zip(turned, states, strict=True):
        torch.testing.assert_close(each.grad, exact.grad)


@pytest.mark.parametrize("size", [(1, 0, 3), (1, 3, 0), (0, 3, 3)])
def test_the_fused_way_refuses_what_would_end_the_process(size):
    with pytest.raises(ValueError, match="give at least one row, query and key in each"):
        fused_attention(*states_of_rows(), sizes=[size])


@pytest.mark.parametrize("attend", [fused_attention, attention_by_products])
def test_tokens_behind_the_rows_give_nothing_and_get_no_gradient(attend):
    states = states_of_rows()
    longer = [torch.cat([each, torch.full_like(each[:2], 9)]).detach().requires_grad_() for each in states]
    found = attend(*longer, sizes=SIZES)
    torch.testing.assert_close(found[:-2], attend(*states, sizes=SIZES))
    assert not found[-2:].any()
    (found * found).sum().backward()
    (attend(*states, sizes=SIZES) ** 2).sum().backward()
    for each, exact in zip(longer, states, strict=True):
        torch.testing.assert_close(each.grad[:-2], exact.grad)
        assert not each.grad[-2:].any()


@pytest.mark.parametrize("dropout", [0.0, 0.4, None])
def test_gradients_are_those_of_small_changes(dropout):
    def attend(*states):
        if dropout is None:
            return fused_attention(*states, sizes=SIZES)
        torch.manual_seed(5)  # the same weights are dropped each time
        return attention_by_products(*states, sizes=SIZES, dropout=dropout)

    assert torch.autograd.gradcheck(attend, states_of_rows())
