"""The graph gives what the model gives, before anybody exports it."""

import numpy as np
import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
from hf_bert4rec.ranking_graph import RankingGraph
from hf_bert4rec.scoring import ModelScorer

NUM_ITEMS, WINDOW = 10, 6


def tiny_model(**options):
    """Random throughout: a bias or a norm that stayed as it begins would hide that it is missing."""
    sizes = {
        "vocab_size": NUM_ITEMS + 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": WINDOW,
    }
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def random_histories(num_histories=12, longest=WINDOW + 4):
    generator = np.random.default_rng(0)
    lengths = [0, 1, longest, *generator.integers(0, longest, num_histories - 3)]
    return [generator.integers(3, NUM_ITEMS + 3, length) for length in lengths]


def padded(histories, side, width):
    """Rows of `width` columns with [MASK] behind the events, whatever `max_position_embeddings` says."""
    input_ids, attention_mask = torch.zeros((2, len(histories), width), dtype=torch.long)
    for row, history in enumerate(histories):
        tokens = torch.tensor([*history, 1])
        columns = slice(width - len(tokens), width) if side == "left" else slice(len(tokens))
        input_ids[row, columns], attention_mask[row, columns] = tokens, 1
    return input_ids, attention_mask


def scores_of(scorer, histories):
    return scorer(None, histories)(0, NUM_ITEMS + 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reading": "causal"},
        {"reading": "both", "position_origin": "newest"},
        {"norm_position": "pre", "head_transform": False, "embedding_layer_norm": False},
        {"norm_position": "pre", "backbone": "modernbert", "reading": "both"},
        {"norm_position": "pre", "backbone": "modernbert", "is_decoder": True, "position_origin": "newest"},
        {"scale_embedding": True, "head_layer_norm": False},
        {"is_decoder": True},
        {"tie_word_embeddings": False, "hidden_act": "relu"},
        {"num_hidden_layers": 1, "reading": "both"},
        {"max_position_embeddings": 1, "reading": "both"},
        {"mask_token_id": 2, "unk_token_id": 1},
        {"num_members": 2, "reading": "both"},
    ],
    ids=str,
)
@torch.no_grad()
def test_the_graph_scores_as_the_model_does_whatever_its_options(options):
    model = tiny_model(**options)
    histories, scorer = random_histories(), ModelScorer(model)
    batch = scorer.collator.ranking_batch(histories)
    scores, vectors = RankingGraph(model)(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(scores, scores_of(scorer, histories), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors, scorer.user_vectors(histories), atol=1e-5, rtol=0)


@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
@torch.no_grad()
def test_padding_side_batch_mates_and_events_before_the_window_change_nothing(reading):
    model = tiny_model(reading=reading)
    histories = random_histories()
    expected = scores_of(ModelScorer(model), histories)
    for side in ("left", "right"):
        for width in (WINDOW + 5, 2 * WINDOW + 5):
            scores, _ = RankingGraph(model)(*padded(histories, side, width))
            torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    alone = [RankingGraph(model)(*padded([history], "right", len(history) + 1))[0] for history in histories]
    torch.testing.assert_close(torch.cat(alone), expected, atol=1e-5, rtol=0)
