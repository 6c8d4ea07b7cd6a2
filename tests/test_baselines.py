"""Popularity and Markov counts against naive loops, through the same ranking as every scorer."""

import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_bert4rec import baselines
from hf_bert4rec.baselines import Markov, Popularity, count_items
from hf_bert4rec.ranking import rank_targets, top_k_items

histories_of_tokens = st.lists(st.lists(st.integers(3, 9), max_size=12), min_size=1, max_size=8)


def flat(histories):
    events = np.array([item for history in histories for item in history], dtype=np.int32)
    return events, np.cumsum([0, *map(len, histories)])


def arrays(histories):
    return [np.array(history, dtype=np.int64) for history in histories]


def naive_orders(histories, asked, vocab_size):
    """Per asked history, (count after the last item, events of the item) of each token."""
    events = Counter(item for history in histories for item in history)
    pairs = Counter(pair for history in histories for pair in pairwise(history))
    return [
        [(pairs[(history[-1], item)] if history else 0, events[item]) for item in range(vocab_size)]
        for history in asked
    ]


@settings(max_examples=60, deadline=None)
@given(histories_of_tokens, histories_of_tokens)
def test_markov_orders_items_by_transitions_then_popularity(histories, asked):
    scores = Markov(*flat(histories), vocab_size=10)(None, arrays(asked))(0, 10).tolist()
    for row, order in zip(scores, naive_orders(histories, asked, 10), strict=True):
        assert [int(score) for score in row] == [count for count, _ in order]
        for item in range(10):
            for other in range(10):
                assert (row[item] > row[other]) == (order[item] > order[other])


@settings(max_examples=30, deadline=None)
@given(histories_of_tokens)
def test_popularity_counts_events(histories):
    events = Counter(item for history in histories for item in history)
    scores = Popularity(flat(histories)[0], vocab_size=10)(None, arrays(histories))(2, 9)
    assert scores.tolist() == [[events[item] for item in range(2, 9)]] * len(histories)


@pytest.mark.parametrize("baseline", [Popularity, Markov])
def test_slices_and_the_other_rows_of_a_batch_do_not_change_a_score(baseline):
    generator = np.random.default_rng(0)
    events, offsets = generator.integers(3, 60, 2000), np.arange(0, 2001, 20)
    scorer = Popularity(events, 60) if baseline is Popularity else Markov(events, offsets, 60)
    asked = [events[:5], np.empty(0, np.int64), events[30:40]]
    whole = scorer(None, asked)(0, 60)
    sliced = torch.cat([scorer(None, asked)(start, start + 7) for start in range(0, 56, 7)], 1)
    assert torch.equal(whole[:, :56], sliced)
    alone = torch.cat([scorer(["somebody"], [history])(0, 60) for history in asked])
    assert torch.equal(whole, alone)


def test_a_transition_does_not_cross_from_one_user_to_the_next():
    markov = Markov(np.array([3, 4, 5, 6]), np.array([0, 2, 2, 4]), vocab_size=7)
    assert markov(None, [np.array([4])])(5, 6).item() < 1
    assert markov(None, [np.array([3])])(4, 5).item() >= 1
    assert markov(None, [np.array([5])])(6, 7).item() >= 1


def test_popularity_still_breaks_ties_beside_a_count_of_a_thousand():
    pairs = [3, 4] * 1000 + [3, 5] * 1000
    popular = [*range(6, 1000), 5]
    markov = Markov(np.array(pairs + popular), np.array([*range(0, 4001, 2), 4000 + len(popular)]), vocab_size=1000)
    scores = markov(None, [np.array([3])])(4, 6)
    assert int(scores[0, 0]) == int(scores[0, 1]) == 1000
    assert scores[0, 1] > scores[0, 0]


def test_histories_that_say_nothing_get_popularity():
    events, offsets = np.array([3, 4, 4, 5, 5, 5]), np.array([0, 1, 2, 3, 4, 5, 6])
    markov, popularity = Markov(events, offsets, 8), Popularity(events, 8)
    asked = arrays([[], [3], [7], [2]])
    tokens = top_k_items(markov(None, asked), 5, vocab_size=8)[0]
    assert torch.equal(tokens, top_k_items(popularity(None, asked), 5, vocab_size=8)[0])
    assert tokens[0].tolist() == [5, 4, 3, 6, 7]


def test_a_fit_on_no_events_ranks_everything_in_the_middle():
    nothing = np.empty(0, np.int64)
    for scorer in (Popularity(nothing, 6), Markov(nothing, np.array([0]), 6)):
        assert rank_targets(scorer(None, arrays([[3]])), torch.tensor([4]), vocab_size=6).tolist() == [1.0]


def test_memory_grows_with_events_not_with_the_square_of_the_catalogue():
    generator = np.random.default_rng(0)
    vocab_size = 300_000
    markov = Markov(generator.integers(3, vocab_size, 10_000), np.arange(0, 10_001, 10), vocab_size)
    assert len(markov.next_items) == len(markov.counts) <= 9_000
    tokens, _ = top_k_items(markov(None, arrays([[5], [6]])), 3, vocab_size=vocab_size)
    assert tokens.shape == (2, 3)


@pytest.mark.parametrize("token", [-1, 6])
def test_tokens_outside_the_vocabulary_are_named(token):
    with pytest.raises(ValueError, match=f"Token {token} is outside the vocabulary: give tokens between 0 and 5"):
        Popularity(np.array([3, token]), 6)
    with pytest.raises(ValueError, match=f"Token {token} is outside the vocabulary"):
        Markov(np.array([3, token]), np.array([0, 2]), 6)


@pytest.mark.parametrize("offsets", [[], [0, 1], [1, 2], [0, 3], [0, 2, 1, 2]])
def test_offsets_that_do_not_cover_the_events_are_refused(offsets):
    with pytest.raises(ValueError, match="Offsets do not cover the 2 events"):
        Markov(np.array([3, 4]), np.array(offsets), 6)


@settings(max_examples=60, deadline=None)
@given(histories_of_tokens, st.integers(1, 9))
def test_counting_in_blocks_is_counting_at_once(histories, block):
    whole = Markov(*flat(histories), vocab_size=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "EVENTS_AT_ONCE", block)
        parts = Markov(*flat(histories), vocab_size=10)
        counts = count_items(flat(histories)[0], 10)
    for name in ("starts", "next_items", "counts", "popularity"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert counts.tolist() == [sum(history.count(item) for history in histories) for item in range(10)]


def test_the_memory_of_counting_does_not_grow_with_the_events():
    events = np.tile(np.arange(3, 1003, dtype=np.int32), 1000)
    offsets = np.arange(0, len(events) + 1, 10)
    baselines_need = []
    for num_users in (len(offsets) // 4, len(offsets) - 1):
        tracemalloc.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(baselines, "EVENTS_AT_ONCE", 1 << 14)
            Markov(events[: offsets[num_users]], offsets[: num_users + 1], 1003)
            count_items(events[: offsets[num_users]], 1003)
        baselines_need.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Checking the offsets takes 9 bytes a user; four times the events are 3 megabytes more.
    assert baselines_need[1] - baselines_need[0] < 1_000_000, baselines_need
