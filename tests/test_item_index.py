"""An index finds what a sweep over the catalogue finds: all of it where it is flat, most of it where it is not."""

import re

import numpy as np
import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, write_export
from hf_bert4rec.export_check import check_index
from hf_bert4rec.item_index import ItemIndex
from hf_bert4rec.ranking import top_k_items
from hf_bert4rec.scoring import ModelScorer

faiss = pytest.importorskip("faiss", reason="item indexes need: pip install 'hf_bert4rec[faiss]'")

NUM_ITEMS = 500


@pytest.fixture
def model():
    """Biases as large as the products, so that a ranking without them is another."""
    model = Bert4RecForMaskedLM(
        Bert4RecConfig(vocab_size=NUM_ITEMS + 3, hidden_size=16, max_position_embeddings=8)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.requires_grad_(False)


@pytest.fixture
def histories():
    generator = np.random.default_rng(0)
    lengths = [0, 1, *generator.integers(2, 30, 40)]
    return [generator.integers(3, NUM_ITEMS + 3, length) for length in lengths]


def index_of(model, kind="flat", bias=True):
    head = model.get_output_embeddings()
    return ItemIndex.build(head.weight[3:], head.bias[3:] if bias else None, kind)


def sorted_by_hand(model, history, k):
    """A loop over all items: score, drop what was seen, sort."""
    head, vector = model.get_output_embeddings(), ModelScorer(model).user_vectors([history])[0]
    scores = {
        token: float(vector @ head.weight[token] + head.bias[token])
        for token in range(3, NUM_ITEMS + 3)
        if token not in set(history.tolist())
    }
    return sorted(scores, key=scores.__getitem__, reverse=True)[:k]


def test_flat_lists_are_those_of_the_exact_ranking(model, histories, tmp_path):
    index_of(model).save(tmp_path / "items.faiss")
    index, scorer = ItemIndex.load(tmp_path / "items.faiss"), ModelScorer(model)
    for k in (1, 10, NUM_ITEMS):
        expected, scores = top_k_items(scorer(None, histories), k, vocab_size=NUM_ITEMS + 3, seen=histories)
        tokens, found = index.top_k(scorer.user_vectors(histories), k, seen=histories)
        assert (
            tokens == expected
        ).float().mean() > 0.999  # of scores that are equal but for rounding either comes first
        torch.testing.assert_close(found, scores, atol=1e-4, rtol=0)
    assert index.top_k(scorer.user_vectors(histories[2:3]), 10, seen=histories[2:3])[0].tolist() == [
        sorted_by_hand(model, histories[2], 10)
    ]
    check_index(index, scorer, histories, is_exact=True)


def test_without_seen_items_the_whole_catalogue_is_listed(model, histories):
    scorer = ModelScorer(model)
    tokens, _ = index_of(model).top_k(scorer.user_vectors(histories), NUM_ITEMS)
    assert (tokens.sort(1).values == torch.arange(3, NUM_ITEMS + 3)).all()
    few = [np.arange(3, NUM_ITEMS + 1)] * len(histories)  # two items are left
    tokens, scores = index_of(model).top_k(scorer.user_vectors(histories), 4, seen=few)
    assert set(map(tuple, tokens.sort(1).values.tolist())) == {(-1, -1, NUM_ITEMS + 1, NUM_ITEMS + 2)}
    assert torch.isneginf(scores[:, 2:]).all() and scores[:, :2].isfinite().all()


def test_the_bias_is_part_of_the_ranking(model, histories):
    vectors = ModelScorer(model).user_vectors(histories)
    with_bias, without = (index_of(model, bias=bias).top_k(vectors, 10)[0] for bias in (True, False))
    assert not torch.equal(with_bias, without)
    scores = vectors @ model.get_output_embeddings().weight[3:].T
    assert torch.equal(without, scores.topk(10).indices + 3)


def test_hnsw_finds_nearly_all_of_items_of_any_length_with_their_exact_scores(model, histories):
    model.get_output_embeddings().weight.mul_(torch.logspace(-0.5, 0.3, NUM_ITEMS + 3)[:, None])
    scorer, index = ModelScorer(model), index_of(model, "hnsw")
    assert check_index(index, scorer, histories, is_exact=False)["index_recall_at_10"] > 0.95
    tokens, found = index.top_k(scorer.user_vectors(histories), 10, seen=histories)
    scores = scorer(None, histories)(0, NUM_ITEMS + 3).gather(1, tokens)
    torch.testing.assert_close(found, scores, atol=1e-3, rtol=0)


def test_an_index_of_other_items_is_found_by_the_check(model, histories):
    other = ItemIndex.build(model.get_output_embeddings().weight[3:].flip(0), None)
    with pytest.raises(ValueError, match=r"The exported index ranks otherwise than the model: place 1 for history 0"):
        check_index(other, ModelScorer(model), histories, is_exact=True)
    assert check_index(other, ModelScorer(model), histories, is_exact=False)["index_recall_at_10"] < 0.5


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_export_brings_its_index(model, histories, tmp_path, kind):
    facts = write_export(
        model,
        Bert4RecTokenizer.from_items(range(NUM_ITEMS)),
        tmp_path / "export",
        format="torch",
        index=kind,
        num_histories=5,
    )
    assert facts["index"] == kind
    assert facts["check"]["index_recall_at_10"] >= (1.0 if kind == "flat" else 0.9)
    index = ItemIndex.load(tmp_path / "export" / "items.faiss")
    assert check_index(index, ModelScorer(model), histories, is_exact=kind == "flat")["index_recall_at_10"] > 0.9


def test_what_cannot_be_found_is_said(model, tmp_path):
    with pytest.raises(ValueError, match=re.escape("There is no index 'ivf'; choose 'flat' or 'hnsw'.")):
        index_of(model, "ivf")
    with pytest.raises(ValueError, match="k is 501, but the index has 500 items"):
        index_of(model).top_k(torch.zeros(1, 16), 501)
    with pytest.raises(FileNotFoundError, match=r"items.faiss; export the model with --faiss flat or --faiss hnsw"):
        ItemIndex.load(tmp_path / "items.faiss")
