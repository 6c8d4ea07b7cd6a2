"""Metrics as arithmetic; the bootstrap against resampled users and against the normal approximation."""

import math
import time

import numpy as np
import pytest

from hf_bert4rec import metrics as metrics_module
from hf_bert4rec.metrics import (
    bootstrap_intervals,
    coverage,
    difference_intervals,
    mean_popularity_rank,
    metrics_by_history_length,
    metrics_by_popularity,
    note_places,
    ranking_metrics,
    unlisted,
)


def test_recall_counts_ranks_below_k():
    metrics = ranking_metrics([0, 4, 5, 9, 10], ks=(1, 5, 10, 20))
    assert metrics["recall@1"] == pytest.approx(1 / 5)
    assert metrics["recall@5"] == pytest.approx(2 / 5)
    assert metrics["recall@10"] == pytest.approx(4 / 5)
    assert metrics["recall@20"] == pytest.approx(5 / 5)


def test_ndcg_discounts_by_the_logarithm_of_the_place():
    metrics = ranking_metrics([0, 2, 6, 10], ks=(1, 10))
    assert metrics["ndcg@1"] == pytest.approx(1 / 4)
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4) + 1 / math.log2(8)) / 4)


def test_the_reciprocal_rank_is_not_cut():
    assert ranking_metrics([0, 3, 99], ks=(1,))["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 100) / 3)


def test_half_ranks_enter_as_they_are():
    metrics = ranking_metrics([0.5, 9.5], ks=(1, 10))
    assert metrics["recall@1"] == 0.5
    assert metrics["recall@10"] == 1.0
    assert metrics["ndcg@10"] == pytest.approx((1 / math.log2(2.5) + 1 / math.log2(11.5)) / 2)
    assert metrics["mrr"] == pytest.approx((1 / 1.5 + 1 / 10.5) / 2)


def test_a_target_that_was_not_listed_counts_as_nothing():
    assert ranking_metrics([0, math.inf], ks=(20,)) == {"recall@20": 0.5, "ndcg@20": 0.5, "mrr": 0.5}
    assert bootstrap_intervals([math.inf] * 9, ks=(20,))["mrr"] == [0.0, 0.0]


def test_the_keys_are_those_of_the_metrics_file():
    names = ["recall@1", "ndcg@1", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20", "mrr"]
    assert list(ranking_metrics([0])) == names
    assert list(bootstrap_intervals([0])) == names


def naive_intervals(ranks, ks, num_resamples=1000):
    generator = np.random.default_rng(7)
    drawn = [ranking_metrics(generator.choice(ranks, len(ranks)), ks) for _ in range(num_resamples)]
    return {name: np.quantile([values[name] for values in drawn], [0.025, 0.975]) for name in drawn[0]}


def test_intervals_are_those_of_resampled_users():
    ranks = np.floor(np.random.default_rng(0).pareto(0.4, 600)).clip(0, 5000)
    expected = naive_intervals(ranks, (1, 10))
    for name, (low, high) in bootstrap_intervals(ranks, (1, 10)).items():
        width = expected[name][1] - expected[name][0]
        assert [low, high] == pytest.approx(expected[name], abs=0.1 * width), name


def test_intervals_are_1_96_standard_errors_wide_for_many_users():
    hits = np.arange(100_000) % 5 == 0
    low, high = bootstrap_intervals(np.where(hits, 0, 50), ks=(1,))["recall@1"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.2 * 0.8 / 100_000), rel=0.1)
    assert (low + high) / 2 == pytest.approx(0.2, abs=0.0005)


def test_classes_of_ranks_beyond_every_k_keep_the_mean_of_the_reciprocal_rank():
    ranks = np.arange(20, 40_000, dtype=np.float64)
    low, high = bootstrap_intervals(ranks, num_resamples=4000)["mrr"]
    reciprocal = 1 / (ranks + 1)
    assert (low + high) / 2 == pytest.approx(reciprocal.mean(), rel=0.02)
    assert high - low == pytest.approx(2 * 1.96 * reciprocal.std() / math.sqrt(len(ranks)), rel=0.1)


def test_confidence_seed_and_number_of_resamples_change_the_intervals():
    ranks = np.random.default_rng(1).integers(0, 40, 300)
    usual = bootstrap_intervals(ranks)["ndcg@10"]
    narrow = bootstrap_intervals(ranks, confidence=0.5)["ndcg@10"]
    assert usual[0] < narrow[0] < narrow[1] < usual[1]
    assert bootstrap_intervals(ranks)["ndcg@10"] == usual
    assert bootstrap_intervals(ranks, seed=1)["ndcg@10"] != usual
    assert bootstrap_intervals(ranks, num_resamples=50)["ndcg@10"] != usual
    assert bootstrap_intervals(ranks, ks=(5,)).keys() == {"recall@5", "ndcg@5", "mrr"}


def test_a_million_users_take_less_than_two_seconds():
    ranks = np.floor(np.random.default_rng(0).pareto(0.3, 1_000_000)).clip(0, 1_000_000)
    start = time.perf_counter()
    bootstrap_intervals(ranks)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("ranks", "message"),
    [([], "Ranks have shape"), ([[0]], "Ranks have shape"), ([0, math.nan], "row 1"), ([-0.5], "Rank -0.5 of row 0")],
)
def test_ranks_that_are_none_are_refused(ranks, message):
    with pytest.raises(ValueError, match=message):
        ranking_metrics(ranks)
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(ranks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": ()}, "ks is"),
        ({"ks": (0,)}, "ks is"),
        ({"ks": (1.5,)}, "ks is"),
        ({"confidence": 95}, "confidence is 95"),
        ({"num_resamples": 0}, "num_resamples is 0"),
    ],
)
def test_wrong_options_of_the_bootstrap_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals([0, 1], **options)


def test_coverage_is_the_share_of_items_in_anybodys_list():
    lists = np.array([[5, 6, 7], [5, 7, -1]])
    best_places = unlisted(11)
    note_places(best_places, lists)
    assert coverage(best_places, num_items=10, ks=(1, 2, 3)) == {
        "coverage@1": 1 / 10, "coverage@2": 3 / 10, "coverage@3": 3 / 10,
    }  # fmt: skip
    assert coverage(unlisted(11), num_items=10, ks=(3,)) == {"coverage@3": 0}


def test_coverage_is_the_same_in_whatever_parts_the_lists_come():
    lists = np.random.default_rng(0).integers(0, 400, (90, 20))
    whole, parts = unlisted(400), unlisted(400)
    note_places(whole, lists)
    for part in (lists[60:], lists[:7], lists[7:60]):
        note_places(parts, part)
    assert whole.tolist() == parts.tolist()
    naive = {f"coverage@{k}": len(set(lists[:, :k].ravel().tolist())) / 400 for k in (1, 5, 10, 20)}
    assert coverage(parts, num_items=400) == naive


def test_the_popularity_rank_is_averaged_over_all_that_was_listed():
    counts = np.array([10, 30, 20, 10])  # places 2.5, 0, 1, 2.5
    lists = np.array([[1, 0], [2, -1]])
    assert mean_popularity_rank(lists, counts, k=2) == (0 + 2.5 + 1) / 3
    assert mean_popularity_rank(lists, counts, k=1) == (0 + 1) / 2


def test_wrong_lists_are_named():
    with pytest.raises(ValueError, match="Lists have shape"):
        mean_popularity_rank(np.array([1, 2]), np.array([1, 1, 1]), k=1)
    with pytest.raises(ValueError, match="k is 3"):
        mean_popularity_rank(np.array([[1, 2]]), np.array([1, 1, 1]), k=3)
    best_places = unlisted(3)
    note_places(best_places, np.array([[1, 2]]))
    with pytest.raises(ValueError, match="2 distinct items, but num_items is 1"):
        coverage(best_places, num_items=1, ks=(1, 2))
    with pytest.raises(ValueError, match="give whole numbers of at least 1"):
        coverage(best_places, num_items=2, ks=(0,))
    with pytest.raises(ValueError, match="lists are empty"):
        mean_popularity_rank(np.array([[-1]]), np.array([1]), k=1)


def test_differences_are_paired_by_user():
    ranks, others = np.array([0, 0, 3, 20, 1, 5] * 20), np.array([0, 1, 3, 20, 2, 9] * 20)
    low, high = difference_intervals(ranks, others, ks=(10,))["mrr"]
    each = 1 / (ranks + 1) - 1 / (others + 1)
    error = 1.959964 * math.sqrt(((each - each.mean()) ** 2).sum() / 119 / 120)
    assert [low, high] == pytest.approx([each.mean() - error, each.mean() + error])
    assert low > 0  # though the intervals of the two overlap
    own, other = (bootstrap_intervals(these, ks=(10,))["mrr"] for these in (ranks, others))
    assert own[0] < other[1]


def test_differences_of_many_users_are_summed_block_by_block(monkeypatch):
    monkeypatch.setattr(metrics_module, "USERS_AT_ONCE", 7)
    ranks, others = np.random.default_rng(0).integers(0, 30, (2, 50))
    gains = [1 / (some + 1) for some in (ranks, others)]
    differences = gains[0] - gains[1]
    error = differences.std(ddof=1) / math.sqrt(50)
    expected = [differences.mean() - 1.959964 * error, differences.mean() + 1.959964 * error]
    assert difference_intervals(ranks, others)["mrr"] == pytest.approx(expected)


def test_one_user_says_nothing_about_a_difference_and_unequal_numbers_are_refused():
    assert difference_intervals(np.array([1]), np.array([2]), ks=(1,))["mrr"] == [-1, 1]
    with pytest.raises(ValueError, match="2 ranks are compared with 3: give the same users to both"):
        difference_intervals(np.zeros(2), np.zeros(3))


def test_users_are_grouped_by_the_training_events_of_their_target_two_groups_to_a_decade():
    counts = np.array([0, 1, 2, 3, 9, 10, 29, 30, 99, 100, 1000, 1000])
    ranks = {"model": np.arange(12.0), "other": np.full(12, 20)}
    groups = metrics_by_popularity(ranks, counts)
    edges = [[0, 0], [1, 2], [3, 9], [10, 29], [30, 99], [100, 299], [1000, 2999]]
    assert [group["training_events"] for group in groups] == edges
    assert [group["num_users"] for group in groups] == [1, 2, 2, 2, 2, 1, 2]
    assert [group["model"]["recall@10"] for group in groups] == [1, 1, 1, 1, 1, 1, 0]
    assert groups[1]["model"]["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(4)) / 2)
    assert {group["other"]["recall@10"] for group in groups} == {0}


def test_the_groups_make_up_the_whole_and_their_intervals_are_those_of_their_users():
    random = np.random.default_rng(0)
    counts, ranks = random.integers(0, 500, 800), random.integers(0, 30, 800)
    groups = metrics_by_popularity({"model": ranks}, counts, k=5, seed=3)
    for name in ("recall@5", "ndcg@5"):
        whole = sum(group["num_users"] * group["model"][name] for group in groups) / 800
        assert whole == pytest.approx(ranking_metrics(ranks, (5,))[name])
    inside = (counts >= 30) & (counts <= 99)
    found = next(group for group in groups if group["training_events"] == [30, 99])["model"]["intervals"]
    expected = bootstrap_intervals(ranks[inside], (5,), seed=3)
    assert found == {name: expected[name] for name in ("recall@5", "ndcg@5")}


def test_users_are_grouped_by_the_length_of_their_history_in_the_same_groups():
    lengths, ranks = np.array([4, 2000, 9, 31, 12]), {"model": np.array([0, 12, 3, 9, 10])}
    groups = metrics_by_history_length(ranks, lengths)
    assert [(group["history_events"], group["num_users"], group["model"]["recall@10"]) for group in groups] == [
        ([3, 9], 2, 1), ([10, 29], 1, 0), ([30, 99], 1, 1), ([1000, 2999], 1, 0),
    ]  # fmt: skip
    assert groups[0]["model"]["ndcg@10"] == pytest.approx((1 + 1 / math.log2(5)) / 2)
    same = metrics_by_popularity(ranks, lengths)
    assert [{"history_events": group.pop("training_events"), **group} for group in same] == groups


def test_ranks_without_a_target_are_refused():
    with pytest.raises(ValueError, match="model has 2 ranks for 3 targets: give one for each"):
        metrics_by_popularity({"model": np.zeros(2)}, np.zeros(3))
