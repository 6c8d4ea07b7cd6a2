"""The weights of past events: against rollout written with matrices, for every reading; the model itself is left alone."""

import numpy as np
import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForCausalLM, Bert4RecForMaskedLM
from hf_bert4rec.attention_rollout import AttentionRollout

HISTORY = np.array([5, 9, 5, 11])


def model_of(reading="masked", kind=Bert4RecForMaskedLM, **options):
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "intermediate_size": 32, "initializer_range": 0.5, "max_position_embeddings": 8}
    return kind(Bert4RecConfig(vocab_size=15, reading=reading, **(tiny | options))).eval()


def matrix_rollout(model, tokens, is_causal):
    """Rows of the product of (A + 1) / 2 over all layers, the attention matrices being the eager model's own."""
    model.set_attn_implementation("eager")
    attentions = model.bert4rec(torch.tensor([tokens]), is_causal=is_causal, output_attentions=True).attentions
    total = torch.eye(len(tokens))
    for attention in attentions:
        total = (attention[0].mean(0) + torch.eye(len(tokens))) / 2 @ total
    return total.detach().numpy()


def expected(model, reading):
    tokens = [*HISTORY.tolist(), 1]
    rows = []
    if reading in ("masked", "both"):
        rows.append(matrix_rollout(model, tokens, is_causal=model.config.is_decoder)[-1, :-1])
    if reading in ("causal", "both"):
        rows.append(matrix_rollout(model, tokens, is_causal=True)[-2, :-1])
    return np.mean([row / row.sum() for row in rows], axis=0)


@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
@pytest.mark.parametrize(
    "options", [{}, {"norm_position": "pre"}, {"position_origin": "newest"}, {"is_decoder": True}]
)
def test_the_weights_are_the_rollout_at_the_position_that_is_ranked(reading, options):
    found = AttentionRollout(model_of(reading, **options))(HISTORY)
    np.testing.assert_allclose(found, expected(model_of(reading, **options), reading), atol=1e-6)
    assert found.sum() == pytest.approx(1)


def test_the_causal_sibling_is_read_like_the_same_weights_with_the_causal_reading():
    found = AttentionRollout(model_of("causal", Bert4RecForCausalLM))(HISTORY)
    np.testing.assert_allclose(found, AttentionRollout(model_of("causal"))(HISTORY), atol=1e-7)


@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
def test_events_that_the_model_does_not_read_weigh_nothing(reading):
    weigh = AttentionRollout(model_of(reading))
    history = np.arange(3, 15)
    found = weigh(history)
    assert (found[:5] == 0).all() and (found[5:] > 0).all()  # eight positions, one of them [MASK]
    np.testing.assert_allclose(found[5:], weigh(history[5:]), atol=1e-7)


@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
def test_one_event_has_all_the_weight_and_none_has_none(reading):
    weigh = AttentionRollout(model_of(reading))
    assert weigh(np.array([7])).tolist() == pytest.approx([1])
    assert weigh(np.empty(0, np.int64)).shape == (0,)


def test_the_model_keeps_its_attention_and_its_weights_are_shared():
    model = model_of()
    weigh = AttentionRollout(model)
    assert (model.config._attn_implementation, weigh.twin.config._attn_implementation) == ("sdpa", "eager")
    assert {p.data_ptr() for p in model.parameters()} == {p.data_ptr() for p in weigh.twin.parameters()}
    before = weigh(HISTORY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert np.abs(weigh(HISTORY) - before).max() > 1e-3
