"""Ranks and lists against naive loops; slices, ties and forbidden items may not change them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_bert4rec.ranking import rank_targets, target_ranks, top_k_items

FIRST_ITEM = 3


def slices_of(scores):
    return lambda start, stop: scores[:, start:stop]


def naive_rank(scores, target, forbidden):
    rank = 0.0
    for token in range(FIRST_ITEM, len(scores)):
        if token != target and token not in forbidden:
            rank += 1.0 if scores[token] > scores[target] else 0.5 if scores[token] == scores[target] else 0.0
    return rank


def naive_list(scores, k, forbidden):
    left = [token for token in range(FIRST_ITEM, len(scores)) if token not in forbidden and scores[token] > -math.inf]
    best = sorted(left, key=lambda token: (-scores[token], token))[:k]
    return best + [-1] * (k - len(best)), [float(scores[token]) for token in best] + [-math.inf] * (k - len(best))


@st.composite
def tied_worlds(draw):
    """Scores with many ties (and some -inf), a token list per row, and a slice size."""
    rows = draw(st.integers(1, 4))
    vocab_size = draw(st.integers(FIRST_ITEM + 1, 14))
    values = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0])
    scores = torch.tensor(
        draw(st.lists(st.lists(values, min_size=vocab_size, max_size=vocab_size), min_size=rows, max_size=rows))
    )
    tokens = st.lists(st.integers(0, vocab_size - 1), max_size=8)
    lists = [np.array(draw(tokens), dtype=np.int64) for _ in range(rows)]
    return scores, lists, draw(st.integers(1, vocab_size + 2)), draw(st.randoms(use_true_random=False))


def test_the_rank_counts_the_items_above_from_zero():
    scores = torch.tensor([[0.1, 0.7, 0.2, 0.4]])
    for target, rank in [(0, 3.0), (1, 0.0), (2, 2.0), (3, 1.0)]:
        assert target_ranks(scores, torch.tensor([target])).tolist() == [rank]


def test_an_item_that_ties_with_the_target_counts_as_half_an_item_above():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5]])
    assert target_ranks(scores, torch.tensor([2])).tolist() == [1 + 2 / 2]


def test_a_constant_scorer_lands_in_the_middle():
    constant = torch.zeros(1, 11 + FIRST_ITEM)
    assert rank_targets(slices_of(constant), torch.tensor([5]), vocab_size=11 + FIRST_ITEM).tolist() == [10 / 2]


def test_a_forbidden_target_has_no_rank():
    scores = torch.tensor([[0.5, 0.5], [-math.inf, 0.5]])
    with pytest.raises(ValueError, match="target of row 1, token 0, is forbidden"):
        target_ranks(scores, torch.tensor([0, 0]))


def test_half_precision_scores_are_ranked_as_they_are():
    scores = torch.tensor([[1.0, 1.0078125, 0.5]], dtype=torch.bfloat16)
    ranks = target_ranks(scores, torch.tensor([0]))
    assert ranks.dtype == torch.float32
    assert ranks.tolist() == [1.0]


def test_special_tokens_are_never_candidates():
    scores = torch.tensor([[9.0, 9.0, 9.0, 1.0, 2.0]])
    assert rank_targets(slices_of(scores), torch.tensor([4]), vocab_size=5).tolist() == [0.0]
    assert rank_targets(slices_of(scores), torch.tensor([4]), vocab_size=5, first_item=2).tolist() == [1.0]
    assert top_k_items(slices_of(scores), 2, vocab_size=5)[0].tolist() == [[4, 3]]
    assert top_k_items(slices_of(scores), 2, vocab_size=5, first_item=2)[0].tolist() == [[2, 4]]


def test_seen_items_are_forbidden_except_the_target_itself():
    scores = torch.tensor([[0.0, 0.0, 0.0, 4.0, 3.0, 2.0, 1.0]])
    target = torch.tensor([6])
    assert rank_targets(slices_of(scores), target, vocab_size=7).tolist() == [3.0]
    assert rank_targets(slices_of(scores), target, vocab_size=7, seen=[np.array([3, 6, 4, 3])]).tolist() == [1.0]


def test_only_candidates_compete_and_seen_ones_do_not():
    scores = torch.tensor([[0.0, 0.0, 0.0, 4.0, 3.0, 2.0, 1.0]])
    options = {"vocab_size": 7, "candidates": [np.array([3, 5, 5, 6])]}
    assert rank_targets(slices_of(scores), torch.tensor([6]), **options).tolist() == [2.0]
    assert rank_targets(slices_of(scores), torch.tensor([6]), seen=[np.array([3])], **options).tolist() == [1.0]


def test_a_target_that_is_scored_minus_infinity_ties_only_with_others_that_are():
    scores = torch.tensor([[0.0, 0.0, 0.0, -math.inf, -math.inf, -math.inf, 1.0]])
    assert rank_targets(slices_of(scores), torch.tensor([3]), vocab_size=7, seen=[[5]]).tolist() == [1 + 1 / 2]


@settings(max_examples=150, deadline=None)
@given(tied_worlds())
def test_ranks_equal_a_naive_loop_whatever_the_slice_size(world):
    scores, seen, slice_size, random = world
    targets = [random.randrange(FIRST_ITEM, scores.shape[1]) for _ in scores]
    options = {"vocab_size": scores.shape[1], "slice_size": slice_size}
    ranks = rank_targets(slices_of(scores), torch.tensor(targets), seen=seen, **options)
    assert ranks.tolist() == [naive_rank(*row) for row in zip(scores.tolist(), targets, map(set, seen), strict=True)]
    candidates = [tokens[tokens >= FIRST_ITEM] for tokens in seen]
    ranks = rank_targets(slices_of(scores), torch.tensor(targets), candidates=candidates, **options)
    others = [set(range(scores.shape[1])) - set(tokens.tolist()) for tokens in candidates]
    assert ranks.tolist() == [naive_rank(*row) for row in zip(scores.tolist(), targets, others, strict=True)]


@settings(max_examples=150, deadline=None)
@given(tied_worlds())
def test_lists_equal_a_naive_loop_whatever_the_slice_size(world):
    scores, lists, slice_size, random = world
    vocab_size = scores.shape[1]
    k = random.randint(1, vocab_size - FIRST_ITEM)
    options = {"vocab_size": vocab_size, "slice_size": slice_size}
    items = [tokens[tokens >= FIRST_ITEM] for tokens in lists]
    shared = items[0].tolist()
    every = set(range(vocab_size))
    for given_lists, forbidden in [
        ({}, [set() for _ in lists]),
        ({"seen": lists}, [set(tokens.tolist()) for tokens in lists]),
        ({"denied": lists}, [set(tokens.tolist()) for tokens in lists]),
        ({"denied": lists[0]}, [set(lists[0].tolist()) for _ in lists]),
        ({"allowed": items}, [every - set(tokens.tolist()) for tokens in items]),
        ({"allowed": shared}, [every - set(shared) for _ in lists]),
        ({"allowed": shared, "seen": lists}, [every - set(shared) | set(tokens.tolist()) for tokens in lists]),
        ({"allowed": items, "denied": shared}, [every - set(tokens.tolist()) | set(shared) for tokens in items]),
    ]:
        tokens, values = top_k_items(slices_of(scores), k, **given_lists, **options)
        expected = [naive_list(row, k, out) for row, out in zip(scores.tolist(), forbidden, strict=True)]
        assert tokens.tolist() == [row for row, _ in expected], given_lists
        assert values.tolist() == [row for _, row in expected], given_lists


@pytest.mark.parametrize("slice_size", [64, 100, 777])
@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_lists_of_large_catalogues_equal_a_full_sort(slice_size, order):
    scores = torch.randn(3, 2003).round(decimals=2)  # with ties
    if order != "random":
        scores = scores.sort(1, descending=order == "falling").values
    tokens, found = top_k_items(slices_of(scores), 20, vocab_size=2003, first_item=0, slice_size=slice_size)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(tokens, expected.indices[:, :20])
    assert torch.equal(found, expected.values[:, :20])


def test_large_random_catalogues_rank_the_same_in_one_slice_and_in_many():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 500, (32, 5003), generator=generator).float()
    seen = list(torch.randint(FIRST_ITEM, 5003, (32, 100), generator=generator).numpy())
    targets = torch.randint(FIRST_ITEM, 5003, (32,), generator=generator)
    whole = rank_targets(slices_of(scores), targets, vocab_size=5003, seen=seen)
    sliced = rank_targets(slices_of(scores), targets, vocab_size=5003, seen=seen, slice_size=777)
    assert torch.equal(whole, sliced)
    whole = top_k_items(slices_of(scores), 50, vocab_size=5003, seen=seen)
    sliced = top_k_items(slices_of(scores), 50, vocab_size=5003, seen=seen, slice_size=777)
    assert torch.equal(whole[0], sliced[0])
    assert torch.equal(whole[1], sliced[1])


def test_a_catalogue_of_one_slice_is_scored_once_and_larger_ones_in_the_same_slices_twice():
    scores, asked = torch.randn(2, 23), []

    def score_items(start, stop):
        asked.append((start, stop))
        return scores[:, start:stop]

    targets = torch.tensor([4, 20])
    rank_targets(score_items, targets, vocab_size=23)
    assert asked == [(3, 23)]
    asked.clear()
    rank_targets(score_items, targets, vocab_size=23, slice_size=8)
    assert set(asked) == {(3, 11), (11, 19), (19, 23)}
    assert len(asked) <= 6
    asked.clear()
    rank_targets(score_items, targets, vocab_size=23, slice_size=8, candidates=[[5], [21]])
    assert asked == [(3, 11), (19, 23)]


def test_the_scorers_own_tensor_is_left_alone():
    row = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0])
    lists = {"seen": [[4], [3]], "vocab_size": 5}
    top_k_items(lambda start, stop: row[start:stop].expand(2, -1), 2, allowed=[[3], [4]], **lists)
    rank_targets(lambda start, stop: row[start:stop].expand(2, -1), torch.tensor([3, 3]), **lists)
    assert row.tolist() == [0.0, 0.0, 0.0, 1.0, 2.0]


def test_a_list_that_runs_out_of_items_ends_in_minus_one():
    scores = torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]])
    tokens, values = top_k_items(slices_of(scores), 3, vocab_size=6, seen=[[5]], denied=[3])
    assert tokens.tolist() == [[4, -1, -1]]
    assert values.tolist() == [[2.0, -math.inf, -math.inf]]


def test_an_empty_allowed_list_allows_nothing():
    tokens, _ = top_k_items(slices_of(torch.zeros(2, 6)), 2, vocab_size=6, allowed=[])
    assert tokens.tolist() == [[-1, -1], [-1, -1]]


def test_an_empty_batch_has_empty_ranks_and_lists():
    empty = torch.zeros(0, 6)
    assert rank_targets(slices_of(empty), torch.tensor([], dtype=torch.long), vocab_size=6, seen=[]).shape == (0,)
    assert top_k_items(slices_of(empty), 2, vocab_size=6, seen=[])[0].shape == (0, 2)


@pytest.mark.parametrize("slice_size", [2, 100])
def test_a_nan_score_is_one_clear_error(slice_size):
    scores = torch.tensor([[0.0, 0.0, 0.0, 1.0, math.nan, 3.0], [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]])
    options = {"vocab_size": 6, "slice_size": slice_size}
    with pytest.raises(ValueError, match="A score is NaN"):
        target_ranks(scores, torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="A score is NaN"):
        rank_targets(slices_of(scores), torch.tensor([3, 3]), **options)
    with pytest.raises(ValueError, match="A score is NaN"):
        top_k_items(slices_of(scores), 1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": [2]}, "Target 2 is no item token: give tokens between 3 and 5"),
        ({"targets": [6]}, "Target 6 is no item token"),
        ({"targets": [[3]]}, "Targets have shape"),
        ({"seen": [[3], [4]]}, "seen has 2 lists for 1 rows"),
        ({"seen": [[6]]}, "seen has token 6: give tokens between 0 and 5"),
        ({"seen": [[3.5]]}, "seen has float64 values"),
        ({"candidates": [[2]]}, "candidates has token 2: give tokens between 3 and 5"),
        ({"slice_size": 0}, "slice_size is 0"),
        ({"vocab_size": 3}, "Target 3 is no item token"),
        ({"vocab_size": 8}, "Scores have shape"),
    ],
)
def test_wrong_input_for_ranks_is_named(options, message):
    options = {"targets": [3], "vocab_size": 6, **options}
    targets = torch.tensor(options.pop("targets"))
    with pytest.raises(ValueError, match=message):
        rank_targets(slices_of(torch.zeros(1, 6)), targets, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 4}, "k is 4, but the catalogue has 3 items"),
        ({"k": 0}, "k is 0"),
        ({"allowed": [1]}, "allowed has token 1"),
        ({"allowed": [[3], [3]]}, "allowed has 2 lists for 1 rows"),
        ({"denied": [-1]}, "denied has token -1"),
        ({"slice_size": 2**24 + 1}, "slice_size is 16777217"),
        ({"vocab_size": 8, "k": 1}, "Scores have shape"),
    ],
)
def test_wrong_input_for_lists_is_named(options, message):
    options = {"k": 1, "vocab_size": 6, **options}
    with pytest.raises(ValueError, match=message):
        top_k_items(slices_of(torch.zeros(1, 6)), options.pop("k"), **options)


@pytest.mark.parametrize("slice_size", [2, 4, 100])
def test_a_nan_score_of_an_item_that_is_left_out_is_none(slice_size):
    scores = torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0, math.nan, 0.0]])
    options = {"vocab_size": 8, "slice_size": slice_size}
    assert top_k_items(slices_of(scores), 1, seen=[np.array([6])], **options)[0].tolist() == [[5]]
    assert top_k_items(slices_of(scores), 1, denied=np.array([6]), **options)[0].tolist() == [[5]]
    with pytest.raises(ValueError, match="NaN"):
        top_k_items(slices_of(scores), 1, seen=[np.array([5])], **options)
