"""Dropout from random bits: the shares and the scale are right, and torch's generator decides."""

import pytest
import torch
from torch import nn

from hf_bert4rec.dropout import BitDropout, draw_dropout_from_bits, draw_kept, scale_of_kept


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_the_share_is_dropped_and_the_rest_scaled_up(share):
    dropped = BitDropout(share)(torch.ones(1000, 500))
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.003)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / (1 - share), rel=2e-4)]
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


def test_neighbours_are_dropped_independently():
    is_kept = BitDropout(0.5)(torch.ones(400_000)) != 0
    for distance in (1, 2, 3, 4, 8):  # four draws share a random number
        both = (is_kept[distance:] & is_kept[:-distance]).float().mean().item()
        assert both == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gradient_passes_where_the_value_passed(dtype):
    inputs = torch.randn(7, 9, dtype=dtype, requires_grad=True)
    outputs = BitDropout(0.3)(inputs)
    outputs.backward(torch.ones_like(outputs))
    assert outputs.dtype == dtype
    torch.testing.assert_close(outputs, inputs * inputs.grad)
    assert 0 < (inputs.grad == 0).sum() < 63


def test_the_seed_decides_and_nothing_is_dropped_outside_training():
    inputs, dropout = torch.ones(999), BitDropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(inputs), dropout(inputs)
    torch.manual_seed(3)
    assert torch.equal(dropout(inputs), first)
    assert not torch.equal(first, second)
    assert torch.equal(dropout.eval()(inputs), inputs)


def test_a_share_next_to_one_keeps_hardly_anything():
    kept = draw_kept(torch.empty(100_000), 0.9999999)
    assert kept.mean().item() < 1e-3
    assert scale_of_kept(0.9999999) == 65536


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (1e-7, 1.0), (1.0, 0.0)])
def test_shares_at_the_ends_drop_nothing_or_everything(share, expected):
    torch.testing.assert_close(BitDropout(share)(torch.ones(1000)), torch.full((1000,), expected))


def test_every_dropout_of_a_module_is_replaced():
    module = nn.Sequential(nn.Dropout(0.1), nn.ModuleDict({"inner": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.4))}))
    draw_dropout_from_bits(module)
    found = [child for child in module.modules() if isinstance(child, nn.Dropout)]
    assert [(type(child), child.p) for child in found] == [(BitDropout, 0.1), (BitDropout, 0.4)]
