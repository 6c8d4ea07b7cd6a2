"""A model as a scorer: the model's own scores, in any slices, for any batch, each history read once."""

import math

import numpy as np
import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, scoring
from hf_bert4rec.ranking import top_k_items
from hf_bert4rec.scoring import ItemSimilarity, ModelScorer, RarityScorer

HISTORIES = [np.array([5, 9]), np.array([], dtype=np.int64), np.arange(4, 22), np.array([7])]


def tiny_model(**changes):
    """Random numbers in every parameter, in training mode."""
    sizes = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 10}
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.train()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_position": "pre", "position_origin": "newest"},
        {"is_decoder": True, "head_layer_norm": False},
        {"tie_word_embeddings": False},
        {"mask_token_id": 2, "pad_token_id": 1},
    ],
)
def test_scores_are_the_logits_behind_the_newest_events(changes):
    model = tiny_model(**changes)
    scores = ModelScorer(model)(None, HISTORIES)(0, 23)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    for row, history in enumerate(HISTORIES):
        tokens = torch.tensor([[*history[-9:], model.config.mask_token_id]])
        torch.testing.assert_close(scores[row], model.eval()(tokens).logits[0, -1].detach(), rtol=1e-5, atol=1e-5)


def test_slices_are_parts_of_the_whole():
    scorer = ModelScorer(tiny_model())
    assert scorer.vocab_size == 23
    score_items = scorer([3, 1, 0, 2], HISTORIES)
    whole = score_items(0, 23)
    for start, stop in ((3, 23), (3, 10), (10, 23), (22, 23)):
        assert score_items(start, stop).shape == (4, stop - start)
        torch.testing.assert_close(score_items(start, stop), whole[:, start:stop], rtol=1e-6, atol=1e-6)


def test_the_other_histories_of_a_batch_change_nothing():
    scorer = ModelScorer(tiny_model())
    together = scorer(None, HISTORIES)(3, 23)
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(scorer(None, [history])(3, 23)[0], together[row], rtol=1e-5, atol=1e-5)


def test_each_history_is_read_once_however_many_slices_are_asked_for():
    model, reads = tiny_model(), []
    model.bert4rec.register_forward_hook(lambda *_: reads.append(1))
    score_items = ModelScorer(model)(None, HISTORIES)
    tokens, _ = top_k_items(score_items, 5, vocab_size=23, slice_size=4)
    assert reads == [1]
    assert tokens.tolist() == top_k_items(score_items, 5, vocab_size=23)[0].tolist()


def test_scoring_switches_dropout_off():
    model = tiny_model(hidden_dropout_prob=0.5)
    scorer = ModelScorer(model)
    first = scorer(None, HISTORIES)(3, 23)
    assert not model.training
    model.train()
    assert torch.equal(scorer(None, HISTORIES)(3, 23), first)


def test_a_model_in_half_precision_gives_float32_scores():
    model = tiny_model()
    expected = ModelScorer(model)(None, HISTORIES)(3, 23)
    scores = ModelScorer(model.bfloat16())(None, HISTORIES)(3, 23)
    assert scores.dtype == torch.float32
    assert (scores - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_scores_are_the_products_of_user_and_item_vectors():
    model = tiny_model()
    scorer = ModelScorer(model)
    vectors = scorer.user_vectors(HISTORIES)
    assert vectors.shape == (4, 16)
    head = model.get_output_embeddings()
    with torch.no_grad():
        expected = torch.nn.functional.linear(vectors, head.weight, head.bias)
    torch.testing.assert_close(scorer(None, HISTORIES)(0, 23), expected)


def test_equal_histories_are_scored_alike_and_others_are_not():
    scores = ModelScorer(tiny_model())(None, [np.array([5, 9]), np.array([5, 9]), np.array([9, 5])])(3, 23)
    torch.testing.assert_close(scores[0], scores[1])
    assert (scores[0] - scores[2]).abs().max() > 0.01


@pytest.mark.parametrize("tokens_at_once", [1, 7, 20])
def test_histories_read_a_few_at_a_time_give_the_same_vectors(monkeypatch, tokens_at_once):
    scorer = ModelScorer(tiny_model())
    expected = scorer.user_vectors(HISTORIES)
    monkeypatch.setattr("hf_bert4rec.scoring.TOKENS_AT_ONCE", tokens_at_once)
    found = scorer.user_vectors(HISTORIES)
    assert found.shape == (4, 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"scale_embedding": True}], ids=str)
def test_similarity_is_the_cosine_of_the_vectors_that_score_in_any_slices(changes):
    model = tiny_model(**changes)
    weight = model.get_output_embeddings().weight.detach().numpy()
    score_items = ItemSimilarity(model)(None, HISTORIES)
    whole = score_items(0, 23)
    assert (whole.shape, whole.dtype, whole.requires_grad) == ((4, 23), torch.float32, False)
    for row, history in enumerate(HISTORIES):
        for item in range(23):
            cosine = 0.0
            if len(history):
                one, other = weight[history[-1]], weight[item]
                cosine = sum(one * other) / (sum(one * one) * sum(other * other)) ** 0.5
            assert whole[row, item].item() == pytest.approx(cosine, abs=1e-5)
    torch.testing.assert_close(score_items(9, 14), whole[:, 9:14])


def test_rarity_shifts_every_score_by_the_logarithm_of_its_place():
    scorer = ModelScorer(tiny_model())
    plain = scorer(None, HISTORIES)(3, 23)
    for strength in (-1.0, 0.0, 0.7):
        shifted = RarityScorer(scorer, strength)(None, HISTORIES)
        shift = torch.tensor([strength * math.log(place) for place in range(1, 21)])
        torch.testing.assert_close(shifted(3, 23), plain + shift, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(shifted(9, 12), (plain + shift)[:, 6:9], rtol=1e-6, atol=1e-6)


def test_of_items_that_are_as_likely_as_popular_rarity_ranks_the_likelier():
    """By Zipf's law place p has a share of 1 / p; what a history makes three times as likely comes first at strength 1."""

    class Zipf:
        vocab_size = 13

        def __call__(self, user_ids, histories):
            shares = torch.tensor([1.0, 1.0, 1.0, *(1 / place for place in range(1, 11))])
            shares[9] *= 3
            return lambda start, stop: shares[None, start:stop].log()

    def best(strength):
        return top_k_items(RarityScorer(Zipf(), strength)(None, [[]]), 2, vocab_size=13)[0].tolist()

    assert best(0.0) == [[3, 4]]
    assert best(1.0)[0][0] == 9
    assert RarityScorer(Zipf(), 1.0).vocab_size == 13


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1), ("meta", 0)])
def test_a_scorer_on_a_cpu_keeps_the_memory_it_frees(monkeypatch, device, expected):
    calls = []
    monkeypatch.setattr(scoring, "keep_free_memory", lambda: calls.append(1))
    ModelScorer(tiny_model().to(device))
    assert len(calls) == expected
