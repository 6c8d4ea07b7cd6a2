"""The whole protocol against loops over a small random world; the law of the negatives; the same ranks inside `Trainer`."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, evaluation
from hf_bert4rec.configuration_bert4rec import FIRST_ITEM_TOKEN
from hf_bert4rec.data_collator import DataCollatorForCloze
from hf_bert4rec.evaluation import TrainerRanking, evaluate, weighted_negatives
from hf_bert4rec.protocols import PROTOCOLS
from hf_bert4rec.randomness import uniform
from hf_bert4rec.scoring import ModelScorer
from hf_bert4rec.sequences import EvaluationSequences, training_events

NUM_ITEMS = 150
VOCAB_SIZE = NUM_ITEMS + FIRST_ITEM_TOKEN


@pytest.fixture(scope="module")
def data():
    """Sixty users with 2 to 40 events each; items repeat, popular ones more often, and the last twenty are never trained on."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 40, 60)
    train_end = np.where(lengths >= 3, lengths - 2, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = (NUM_ITEMS * generator.random(offsets[-1]) ** 2).astype(np.int32)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    is_training = places < np.repeat(train_end, lengths)
    events[is_training] %= NUM_ITEMS - 20
    return SimpleNamespace(
        events=events,
        offsets=offsets,
        train_end=train_end,
        validation_target=np.where(lengths >= 3, lengths - 2, -1),
        test_target=np.where(lengths >= 3, lengths - 1, -1),
        num_users=60,
        num_items=NUM_ITEMS,
        num_events=int(offsets[-1]),
        metadata={"split": "global-time"},
    )


@pytest.fixture(scope="module")
def counts(data):
    return np.bincount(training_events(data)[0], minlength=VOCAB_SIZE)


class RandomScorer:
    """Whole numbers as scores, so that many tie, one row for each user."""

    vocab_size = VOCAB_SIZE

    def __init__(self, seed):
        self.scores = torch.from_numpy(np.random.default_rng(seed).integers(0, 50, (60, VOCAB_SIZE))).float()

    def __call__(self, user_ids, histories):
        assert len(user_ids) == len(histories)
        return lambda start, stop: self.scores[user_ids, start:stop]


def naive_negatives(user, known, weights, num_negatives, seed=0):
    """One number at a time: the first token whose share of the weights, added up, lies above it."""
    edges, negatives = np.cumsum(weights) / weights.sum(), []
    for number in uniform("negatives", seed, user, np.arange(100_000)):
        if len(negatives) == num_negatives:
            break
        token = int((edges <= number).sum())
        if token not in negatives and token not in known:
            negatives.append(token)
    return negatives


def naive_evaluation(scorer, data, split, counts, protocol):
    """Every user, every item, one comparison at a time."""
    gains = {f"{name}@{k}": [] for k in (1, 5, 10, 20) for name in ("recall", "ndcg")} | {"mrr": []}
    is_cold, count_of_hit, length_of_hit, lists = [], [], [], []
    for user in range(60):
        place = {"validation": data.validation_target, "test": data.test_target}[split][user]
        if place < 0:
            continue
        tokens = [int(item) + 3 for item in data.events[data.offsets[user] :][: place + 1]]
        history, target = set(tokens[:-1]), tokens[-1]
        if protocol.endswith("-100"):
            weights = counts if protocol == "popularity-100" else np.arange(VOCAB_SIZE) >= 3
            num_free = sum(weight > 0 and token not in history | {target} for token, weight in enumerate(weights))
            rivals = naive_negatives(user, history | {target}, weights, min(100, num_free), seed=3)
        else:
            forbidden = set() if protocol == "unfiltered" else history
            rivals = [token for token in range(3, VOCAB_SIZE) if token not in forbidden | {target}]
            rivals = [token for token in rivals if counts[token] > 0 or protocol != "temporal"]
        scores = scorer.scores[user].tolist()
        rank = sum((scores[r] > scores[target]) + 0.5 * (scores[r] == scores[target]) for r in rivals)
        if protocol == "temporal" and counts[target] == 0:
            rank = math.inf
        for k in (1, 5, 10, 20):
            gains[f"recall@{k}"].append(float(rank < k))
            gains[f"ndcg@{k}"].append(1 / math.log2(rank + 2) if rank < k else 0.0)
        gains["mrr"].append(1 / (rank + 1))
        is_cold.append(counts[target] == 0)
        count_of_hit.append((counts[target], rank < 10))
        length_of_hit.append((place, rank < 10))
        # what may be shown does not know the target: an item of the history is left out even where it comes again
        shown = [t for t in range(3, VOCAB_SIZE) if t not in (() if protocol == "unfiltered" else history)]
        shown = [token for token in shown if counts[token] > 0 or protocol != "temporal"]
        lists.append(sorted(shown, key=lambda token: (-scores[token], token)))
    warm = {name: np.mean(np.array(values)[~np.array(is_cold)]) for name, values in gains.items()}
    metrics = {name: np.mean(values) for name, values in gains.items()}
    if not protocol.endswith("-100"):
        for k in (1, 5, 10, 20):
            metrics[f"coverage@{k}"] = len({token for tokens in lists for token in tokens[:k]}) / NUM_ITEMS
    return metrics, warm, np.mean(is_cold), {"training_events": count_of_hit, "history_events": length_of_hit}


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_equals_a_naive_loop(data, counts, protocol, split):
    scorers = {"one": RandomScorer(1), "other": RandomScorer(2)}
    options = {"protocol": protocol, "batch_size": 7, "seed": 3, "with_coverage": not protocol.endswith("-100")}
    result = evaluate(scorers, EvaluationSequences(data, split=split), counts, **options)
    assert (result["protocol"], result["split"]) == (protocol, split)
    for name, scorer in scorers.items():
        metrics, warm, cold_targets, hits_by = naive_evaluation(scorer, data, split, counts, protocol)
        num_users = len(hits_by["training_events"])
        assert result["num_users"] == num_users
        assert 0 < result["cold_targets"] == pytest.approx(cold_targets)
        intervals = result[name].pop("intervals")
        differences = result[name].pop("first_minus_this", None)
        assert (differences is None) == (name == "one")
        if protocol == "temporal":
            assert result[name].pop("warm") == pytest.approx(warm)
        assert result[name] == pytest.approx(metrics)
        assert all(low <= result[name][key] <= high for key, (low, high) in intervals.items())
        assert set(intervals) == {key for key in metrics if not key.startswith("coverage")}
        for key, (low, high) in (differences or {}).items():
            assert (low + high) / 2 == pytest.approx(result["one"][key] - metrics[key], abs=1e-9)
        for groups, by in (("by_popularity", "training_events"), ("by_history_length", "history_events")):
            for group in result[groups]:
                fewest, most = group[by]
                hits = [hit for value, hit in hits_by[by] if fewest <= value <= most]
                assert (group["num_users"], group[name]["recall@10"]) == (len(hits), pytest.approx(np.mean(hits)))
            assert sum(group["num_users"] for group in result[groups]) == num_users
            assert len(result[groups]) > 2


def test_coverage_is_counted_where_it_is_asked_for_and_refused_where_rivals_are_drawn(data, counts):
    sequences, scorers = EvaluationSequences(data, split="test"), {"model": RandomScorer(1)}
    plain = evaluate(scorers, sequences, counts)
    asked = evaluate(scorers, sequences, counts, with_coverage=True)
    added = {f"coverage@{k}" for k in (1, 5, 10, 20)}
    assert asked["model"].keys() - plain["model"].keys() == added
    assert {name: value for name, value in asked["model"].items() if name not in added} == plain["model"]
    with pytest.raises(ValueError, match=r"uniform-100 lists 100 items .* leave coverage out"):
        evaluate(scorers, sequences, counts, protocol="uniform-100", with_coverage=True)


def test_protocols_splits_and_seeds_differ_and_batches_do_not(data, counts):
    def run(split="test", **options):
        result = evaluate({"model": RandomScorer(1)}, EvaluationSequences(data, split=split), counts, **options)
        return result["model"]["mrr"], result["model"]["intervals"]["mrr"]

    full = run()
    assert full == run(protocol="full-catalogue") == run(batch_size=1)
    assert len({run("validation")[0], *(run(protocol=protocol)[0] for protocol in PROTOCOLS)}) == 1 + len(PROTOCOLS)
    assert run(seed=1)[0] == full[0]
    assert run(seed=1)[1] != full[1]
    sampled = run(protocol="popularity-100")
    assert sampled == run(protocol="popularity-100", batch_size=3)
    assert sampled[0] != run(protocol="popularity-100", seed=1)[0]


@pytest.mark.parametrize(
    ("protocol", "num_drawable"), [("popularity-100", NUM_ITEMS - 20), ("uniform-100", NUM_ITEMS)]
)
def test_negatives_are_unseen_and_the_same_for_all_scorers_and_batch_sizes(
    data, counts, monkeypatch, protocol, num_drawable
):
    asked = []
    original = evaluation.rank_targets
    monkeypatch.setattr(
        evaluation, "rank_targets", lambda *args, **rules: asked.append(rules) or original(*args, **rules)
    )
    scorers = {"one": RandomScorer(1), "other": RandomScorer(2)}
    sequences = EvaluationSequences(data, split="test")
    drawn = []
    for batch_size in (100, 7, 1):
        asked.clear()
        evaluate(scorers, sequences, counts, protocol=protocol, batch_size=batch_size)
        for place in range(2):  # the scorers take turns
            drawn.append([tokens.tolist() for rules in asked[place::2] for tokens in rules["candidates"]])
    assert all(lists == drawn[0] for lists in drawn)
    assert any(counts[token] == 0 for tokens in drawn[0] for token in tokens) == (protocol == "uniform-100")
    for row, tokens in zip(sequences, drawn[0], strict=True):
        known = {*row["input_ids"].tolist(), row["target"]}
        num_free = num_drawable - len({token for token in known if protocol == "uniform-100" or counts[token] > 0})
        never = int((counts[3:] == 0).sum()) - 20 if protocol == "popularity-100" else 0
        assert len(tokens) == len(set(tokens)) == min(100, num_free - never)
        assert not known & set(tokens)
        assert min(tokens) >= FIRST_ITEM_TOKEN


def test_two_processes_share_the_users_and_agree_with_one(data, counts, monkeypatch):
    sequences, scorers = EvaluationSequences(data, split="test"), {"model": RandomScorer(1)}
    alone = evaluate(scorers, sequences, counts, batch_size=8, with_coverage=True)
    parts, results = [], []
    for gathering in (False, True):
        for process in range(2):
            state = SimpleNamespace(process_index=process, num_processes=2)
            monkeypatch.setattr(evaluation, "PartialState", lambda state=state: state)
            gather = (lambda part: parts) if gathering else (lambda part: parts.extend(part) or part)
            monkeypatch.setattr(evaluation, "gather_object", gather)
            results.append(evaluate(scorers, sequences, counts, batch_size=8, with_coverage=True))
    assert results[2] == results[3]
    assert results[2]["model"]["mrr"] == pytest.approx(alone["model"]["mrr"])
    assert results[2]["model"]["intervals"] == alone["model"]["intervals"]
    assert results[2]["cold_targets"] == alone["cold_targets"]
    for k in (1, 5, 10, 20):
        shares = [results[process]["model"][f"coverage@{k}"] for process in range(2)]
        assert max(shares) < results[2]["model"][f"coverage@{k}"] == alone["model"][f"coverage@{k}"]
    for name in ("by_popularity", "by_history_length"):
        assert [group["num_users"] for group in results[2][name]] == [group["num_users"] for group in alone[name]]
    sizes = [sum(map(len, part.ranks["model"])) for part in parts]
    assert sum(sizes) == len(sequences)
    assert min(sizes) >= 24


def test_an_unknown_protocol_is_refused(data, counts):
    with pytest.raises(
        ValueError, match="There is no protocol 'uniform'; choose one of full-catalogue, unfiltered, pop"
    ):
        evaluate({}, EvaluationSequences(data, split="test"), counts, protocol="uniform")


@given(
    st.lists(st.sampled_from([0, 1, 2, 5, 40]), min_size=4, max_size=30).filter(any),
    st.sets(st.integers(0, 29), max_size=12),
    st.integers(1, 12),
    st.integers(0, 3),
)
def test_negatives_are_distinct_unknown_and_drawn_as_a_naive_loop_draws_them(weights, known, num_negatives, seed):
    weights = np.array(weights, dtype=float)
    known = {token for token in known if token < len(weights)}
    free = {token for token, weight in enumerate(weights) if weight > 0} - known
    users = np.array([4, 9])
    rows = weighted_negatives(users, [np.array(sorted(known), dtype=int)] * 2, weights, num_negatives, seed=seed)
    for user, tokens in zip(users, rows, strict=True):
        assert len(tokens) == len(set(tokens)) == min(num_negatives, len(free))
        assert set(tokens) <= free
        assert tokens.tolist() == naive_negatives(user, known, weights, len(tokens), seed)


def test_negatives_are_a_function_of_seed_and_user_alone():
    weights, known = np.arange(1.0, 51.0), [np.array([3, 7])] * 20
    together = weighted_negatives(np.arange(20), known, weights, 10)
    alone = [weighted_negatives(np.array([user]), known[:1], weights, 10)[0] for user in range(20)]
    assert [tokens.tolist() for tokens in together] == [tokens.tolist() for tokens in alone]
    assert len({tuple(tokens) for tokens in together}) == 20
    assert together[0].tolist() != weighted_negatives(np.arange(1), known[:1], weights, 10, seed=1)[0].tolist()


@pytest.mark.parametrize("known_weight", [0.0, 4.0, 1500.0, 1e7], ids=["nothing", "little", "most", "nearly all"])
def test_the_first_two_negatives_follow_the_weights(known_weight):
    # Where the user knows nearly all of the weight, the draws give up and the clocks ring: the law is the same.
    weights, num_users = np.array([0.0, known_weight, 1, 2, 3, 4]), 4000
    known = [np.array([1])] * num_users
    drawn = np.array(weighted_negatives(np.arange(num_users), known, weights, 2))
    counts = np.zeros((6, 6))
    np.add.at(counts, (drawn[:, 0], drawn[:, 1]), 1)
    shares = weights[2:] / 10
    law = shares[:, None] * shares / (1 - shares[:, None]) * (1 - np.eye(4))  # the second among those that are left
    expected = law[law > 0] * num_users
    assert counts[:2].sum() == counts[:, :2].sum() == 0
    assert ((counts[2:, 2:][law > 0] - expected) ** 2 / expected).sum() < 11 + 4 * math.sqrt(2 * 11)


@pytest.mark.parametrize(
    "weights", [[5.0, 1, 1, 3, 2, 8, 1, 4, 9, 1, 2, 6], [1.0] * 12], ids=["popularity", "uniform"]
)
def test_a_whole_draw_holds_each_item_as_often_as_drawing_from_an_urn(weights):
    # The urn: of what is left, one item with probability proportional to its weight; then it is taken out.
    num_users, known, generator = 4000, {5, 9}, random.Random(0)
    found = weighted_negatives(np.arange(num_users), [np.array([5, 9])] * num_users, np.array(weights), 6)
    expected = np.zeros(12)
    for _ in range(num_users):
        left = [token for token in range(12) if token not in known]
        for _ in range(6):
            token = generator.choices(left, [weights[token] for token in left])[0]
            left.remove(token)
            expected[token] += 1
    shares, expected = np.bincount(np.concatenate(found), minlength=12) / num_users, expected / num_users
    assert (np.abs(shares - expected) <= 4 * np.sqrt(2 * expected * (1 - expected) / num_users)).all()
    if len(set(weights)) > 1:
        assert shares[8] > 0.85 > 0.4 > shares[1] > 0  # nine times the weight, but not nine times as often in the list


def test_what_was_drawn_stays_drawn_where_the_clocks_add_the_rest():
    weights, known = np.array([1270.0, *[1.0] * 10]), np.array([0])
    rows = weighted_negatives(np.arange(40), [known] * 40, weights, 10)
    assert [sorted(tokens) for tokens in rows] == [list(range(1, 11))] * 40
    assert [tokens[0] for tokens in rows] == [naive_negatives(user, {0}, weights, 1)[0] for user in range(40)]


def test_a_small_catalogue_gives_fewer_negatives():
    rows = weighted_negatives(
        np.arange(2), [np.array([3, 4]), np.array([3, 4, 5, 6])], np.array([0, 0, 0, 1, 1, 1, 1.0]), 9
    )
    assert [sorted(tokens) for tokens in rows] == [[5, 6], []]


@pytest.mark.parametrize(("number", "message"), [({"batch_size": 0}, "batch_size is 0"), ({"seed": -1}, "seed is -1")])
def test_a_number_that_is_too_low_is_refused(data, counts, number, message):
    with pytest.raises(ValueError, match=message):
        evaluate({}, EvaluationSequences(data, split="test"), counts, **number)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_ranking_inside_the_trainer_equals_evaluate(data, counts, tmp_path, batch_size):
    # The window is shorter than most histories, whose seen items are forbidden all the same.
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 12}
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=VOCAB_SIZE, initializer_range=0.5, **sizes))
    sequences, ranking = EvaluationSequences(data, split="validation"), TrainerRanking()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        batch_eval_metrics=True,
        label_names=["labels", "seen_items"],
        per_device_eval_batch_size=batch_size,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=DataCollatorForCloze(max_length=12),
        eval_dataset=sequences,
        compute_metrics=ranking.compute_metrics,
        preprocess_logits_for_metrics=ranking.preprocess_logits_for_metrics,
    )
    expected = evaluate({"model": ModelScorer(model)}, sequences, counts)["model"]
    for _ in range(2):  # the second evaluation begins with no ranks of the first
        metrics = trainer.evaluate()
        found = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        assert {name: found[name] for name in expected if name != "intervals"} == pytest.approx(
            {name: value for name, value in expected.items() if name != "intervals"}, abs=1e-6
        )
        assert found["loss"] > 0


def test_the_trainer_finds_targets_and_seen_items_wherever_padding_has_put_them():
    logits = torch.tensor([[9.0, 9, 9, 4, 3, 2, 1], [9.0, 9, 9, 1, 2, 3, 4]])
    labels = torch.tensor([[-100, 5, -100, -100], [-100, -100, 4, -100]])
    seen_items = torch.tensor([[-100, -100, 3, 5], [6, -100, -100, -100]])
    ranking = TrainerRanking()
    ranks = ranking.preprocess_logits_for_metrics(logits, (labels, seen_items))
    assert ranks.tolist() == [1.0, 1.0]
    prediction = SimpleNamespace(predictions=ranks)
    assert ranking.compute_metrics(prediction, compute_result=False) == {}
    assert ranking.compute_metrics(prediction, compute_result=True)["mrr"] == pytest.approx(1 / 2)
    assert ranking.compute_metrics(SimpleNamespace(predictions=torch.zeros(1)), compute_result=True)["mrr"] == 1
