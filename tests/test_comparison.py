"""Model and baselines over one split: the arithmetic of a ring, nothing held out is counted, and whose items they are."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, compare, evaluate_run, prepare
from hf_bert4rec.comparison import check_vocabulary
from hf_bert4rec.run_folder import weights_hash
from hf_bert4rec.scoring import ModelScorer

VOCAB_SIZE = 13


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data")


@pytest.fixture
def model():
    return Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=32))


class Ring:
    """Knows the world: the next item of the ring scores 1, or -1 where `sign` turns it round."""

    vocab_size = VOCAB_SIZE

    def __init__(self, data, sign=1):
        names = data.item_ids.to_pylist()
        self.following = {names.index(f"i{n}") + 3: names.index(f"i{(n + 1) % 10}") + 3 for n in range(10)}
        self.sign = sign

    def __call__(self, user_ids, histories):
        scores = torch.zeros(len(histories), VOCAB_SIZE)
        scores[np.arange(len(histories)), [self.following[history[-1]] for history in histories]] = self.sign
        return lambda start, stop: scores[:, start:stop]


def test_on_a_ring_markov_is_perfect_and_popularity_guesses_among_the_unseen(data):
    found = compare(Ring(data), data)
    assert (found["protocol"], found["split"], found["num_users"], found["cold_targets"]) == (
        "full-catalogue", "test", 10, 0.0,
    )  # fmt: skip
    assert found["model"]["mrr"] == found["markov"]["mrr"] == found["markov"]["recall@1"] == 1
    # Every item has five training events; four are unseen, so the target shares places 0 to 3: rank 1.5.
    assert found["popularity"]["mrr"] == pytest.approx(1 / 2.5)
    assert found["popularity"]["recall@1"] == 0


def test_split_and_protocol_decide_who_competes(data):
    # Five unseen items compete for the validation target: rank 2. Unfiltered, all ten for the test target: rank 4.5.
    found = compare(Ring(data), data, split="validation")
    assert found["split"] == "validation"
    assert found["popularity"]["mrr"] == pytest.approx(1 / 3)
    found = compare(Ring(data), data, protocol="unfiltered")
    assert found["protocol"] == "unfiltered"
    assert found["popularity"]["mrr"] == pytest.approx(1 / 5.5)


def test_other_scorers_stand_beside_the_model_and_change_nothing(data):
    alone = compare(Ring(data), data)
    found = compare(Ring(data), data, others={"turned_round": Ring(data, sign=-1)})
    assert found["turned_round"]["mrr"] == pytest.approx(1 / 4)  # the target is the last of four
    for group in found["by_popularity"] + found["by_history_length"]:
        assert group.pop("turned_round")["ndcg@10"] == pytest.approx(1 / math.log2(5))
    assert {name: found[name] for name in alone} == alone
    assert found.keys() - alone.keys() == {"turned_round"}


def test_coverage_is_counted_over_what_each_scorer_would_show(data):
    found = compare(Ring(data), data, with_coverage=True)
    # Each user's six last items are seen; whoever asks, the first unseen item of the ring comes first.
    assert found["model"]["coverage@1"] == found["markov"]["coverage@1"] == 1
    # Every item is as popular as the others, so that the lower tokens come first: the four unseen of ten.
    assert found["popularity"]["coverage@1"] == len({unseen[0] for unseen in unseen_items(data)}) / 10
    assert found["popularity"]["coverage@5"] == 1
    assert "coverage@1" not in compare(Ring(data), data)["model"]


def unseen_items(data):
    """Of each user the items that are not in the six events before the last, in the order of their tokens."""
    for start in data.offsets[:-1]:
        yield sorted(set(range(10)) - set(data.events[start : start + 6].tolist()))


def test_a_model_is_scored_as_its_scorer_is_however_many_users_at_a_time(data, model):
    found = compare(model, data)
    assert found == compare(ModelScorer(model), data, batch_size=3)
    assert found["model"] != compare(Ring(data), data)["model"]


def test_the_seed_draws_the_intervals_and_not_the_metrics(data, model):
    one, other = compare(model, data, seed=0)["model"], compare(model, data, seed=1)["model"]
    assert one.pop("intervals") != other.pop("intervals")
    assert one == other


def test_held_out_events_teach_the_baselines_nothing(tmp_path):
    # All users end with w, z. Counted with the targets z is ahead; in training there is no z, so the unseen item is.
    rows = [(user, item, time) for user in ("abwz", "bcwz", "cawz") for time, item in enumerate(user)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    data = prepare(log, tmp_path / "data", min_user_events=1, min_item_events=1)
    found = compare(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=8, hidden_size=16)), data)
    assert found["cold_targets"] == 1
    assert found["popularity"]["mrr"] == found["markov"]["mrr"] == 1 / 2


def test_a_catalogue_of_another_size_is_refused(data):
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=VOCAB_SIZE + 1, hidden_size=16))
    with pytest.raises(ValueError, match=r"The model knows 11 items, the data 10; prepare the log with .*--tokenizer"):
        compare(model, data)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"protocol": "sampled"}, r"no protocol 'sampled'; choose one of full-catalogue, unfiltered"),
        ({"split": "train"}, "train"),
    ],
)
def test_an_unknown_protocol_or_split_is_refused(data, option, message):
    with pytest.raises(ValueError, match=message):
        compare(Ring(data), data, **option)


def test_the_vocabulary_is_the_same_items_in_the_same_order(data):
    names = data.item_ids.to_pylist()
    check_vocabulary(Bert4RecTokenizer.from_items(names), data)
    swapped = [names[0], names[2], names[1], *names[3:]]
    for items, message in (
        (swapped, rf"10 items, the model has 10; at place 1 the model has '{names[2]}', the data '{names[1]}'"),
        (names[:9], rf"10 items, the model has 9; at place 9 the model has 'nothing', the data '{names[9]}'"),
        ([*names, "i10"], "10 items, the model has 11; at place 10 the model has 'i10', the data 'nothing'"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            check_vocabulary(Bert4RecTokenizer.from_items(items), data)
        assert str(caught.value).startswith(f"{data.folder} was prepared with another vocabulary")


def test_items_that_are_integers_are_compared_as_they_are_written(interaction_log, tmp_path):
    log = interaction_log.assign(item_id=interaction_log.item_id.str[1:].astype(int))
    data = prepare(log, tmp_path / "integers")
    check_vocabulary(Bert4RecTokenizer.from_items([int(item) for item in data.item_ids.to_pylist()]), data)


def test_a_saved_model_is_evaluated_like_the_model_and_its_figures_say_whose_they_are(data, model, tmp_path):
    run = tmp_path / "run"
    model.save_pretrained(run)
    Bert4RecTokenizer.from_items(data.item_ids.to_pylist()).save_pretrained(run)
    found = evaluate_run(run, data.folder, split="validation")
    assert found.pop("run") == {"weights_hash": weights_hash(run)}
    assert found == compare(model, data, split="validation")
    assert found["data_hash"] == data.content_hash()
    record = {"format": "hf_bert4rec-run", "training_arguments": {"seed": 5}, "options": {"seed": 5, "bf16": True}}
    (run / "run.json").write_text(json.dumps(record))
    assert evaluate_run(run, data)["run"] == {
        "weights_hash": weights_hash(run), "seed": 5, "options": {"bf16": True},
    }  # fmt: skip


def test_the_hash_of_weights_is_another_for_other_weights(model, tmp_path):
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "same")
    model.bert4rec.embeddings.word_embeddings.weight.data[5, 0] += 1
    model.save_pretrained(tmp_path / "other")
    one, same, other = (weights_hash(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
