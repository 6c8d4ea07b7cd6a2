"""What a protocol needs and states: time-cut data, the facts of an evaluation, and why two figures cannot be compared."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

from hf_bert4rec import EvaluationSequences, compare, prepare
from hf_bert4rec.interactions.histories import report_text
from hf_bert4rec.protocols import PROTOCOLS, comparability, find_protocol, read_metrics


class Constant:
    """Every item scores the same, those in `ahead` higher."""

    def __init__(self, data, ahead=()):
        names = data.item_ids.to_pylist()
        self.vocab_size = data.num_items + 3
        self.scores = torch.zeros(self.vocab_size)
        self.scores[[names.index(item) + 3 for item in ahead]] = 1.0

    def __call__(self, user_ids, histories):
        return lambda start, stop: self.scores[start:stop].expand(len(histories), -1)


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data")


@pytest.fixture
def time_cut(tmp_path):
    """
    Training until 12, validation until 20, then test. Of five users three have a test target: a's is known to training,
    b's is new, c was not there in training; d comes with the test period, e is gone. Items p, q, r, s are known; v and n are not.
    """
    events = {
        "a": [("p", 1), ("q", 2), ("r", 12), ("s", 20)],
        "b": [("q", 3), ("r", 4), ("p", 13), ("n", 21)],
        "c": [("v", 14), ("s", 15), ("p", 22)],
        "d": [("p", 23), ("q", 24), ("r", 25)],
        "e": [("s", 5), ("p", 6), ("q", 7)],
    }
    rows = [(user, item, time) for user, pairs in events.items() for item, time in pairs]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    options = {"min_user_events": 1, "min_item_events": 1, "validation_share": 4 / 17, "test_share": 6 / 17}
    return prepare(log, tmp_path / "time_cut", split="global-time", **options)


def test_every_protocol_describes_itself_in_a_line():
    assert set(PROTOCOLS) == {"full-catalogue", "unfiltered", "popularity-100", "uniform-100", "temporal"}
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert 20 < len(protocol.description) < 150
        assert "\n" not in protocol.description
    assert len({protocol.description for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_temporal_needs_data_that_were_cut_in_time(data):
    message = (
        "Protocol temporal needs data split by global-time, but these are split by leave-one-out; prepare the log with "
        "--split global-time"
    )
    for check in (lambda: find_protocol("temporal", data), lambda: compare(Constant(data), data, protocol="temporal")):
        with pytest.raises(ValueError, match=message):
            check()
    with pytest.raises(ValueError, match=r"There is no protocol 'time'; choose one of full-catalogue, .*, temporal"):
        find_protocol("time", data)


def test_temporal_lists_only_what_training_knows(time_cut):
    # The scorer puts the unknown items first. Under the full catalogue n, b's target, is hit and v is in a's way.
    scorer = Constant(time_cut, ahead=["v", "n"])
    full = compare(scorer, time_cut, protocol="full-catalogue")
    found = compare(scorer, time_cut, protocol="temporal")
    assert full["num_users"] == found["num_users"] == 3
    assert full["cold_targets"] == found["cold_targets"] == pytest.approx(1 / 3)
    # a: s after p, q, r is the only known item left, rank 0; b: missed; c: p ties with q and r, rank 1.
    assert found["model"]["mrr"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert found["model"]["recall@20"] == pytest.approx(2 / 3)
    assert found["model"]["warm"]["mrr"] == pytest.approx((1 + 1 / 2) / 2)
    # a: behind v and n; b: n ties with v alone; c: behind n, ties with q and r.
    assert full["model"]["mrr"] == pytest.approx((1 / 3 + 1 / 1.5 + 1 / 3) / 3)
    assert "warm" not in full["model"]


def test_temporal_states_who_and_what_was_warm(time_cut):
    facts = compare(Constant(time_cut), time_cut, protocol="temporal")["conditions"]
    assert facts["temporal"] == {
        "trained_until": "12",
        "period_from": "20",
        "users_evaluated": 3,
        "users_evaluated_without_training": 1,
        "users_not_evaluated": 2,
        "warm_items": 4,
        "cold_items": 2,
    }
    assert facts["cold_targets"] == "missed"
    assert compare(Constant(time_cut), time_cut, split="validation", protocol="temporal")["conditions"]["temporal"][
        "period_from"
    ] == "12"  # fmt: skip
    facts = compare(Constant(time_cut), time_cut)["conditions"]
    assert "temporal" not in facts
    assert facts["data"]["split"] == "global-time"


def test_a_cut_in_time_that_leaves_no_targets_says_why(tmp_path):
    rows = [(user, "pqrs"[step], 4 * place + step) for place, user in enumerate("abc") for step in range(4)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    options = {"min_user_events": 1, "min_item_events": 1, "validation_share": 1 / 3, "test_share": 1 / 3}
    cut = prepare(log, tmp_path / "cut", split="global-time", **options)
    split = cut.metadata["report"]["split"]
    assert (split["users_evaluated"], split["users_train_only"], split["users_unused"]) == (0, 1, 2)
    text = report_text(cut.metadata["report"])
    assert "1 users in training only, 2 in no part\n" in text
    remedy = "a user with one has three events or more, one in the part and one before: give other shares"
    assert f"\nnot every part has targets: {remedy}\n" in text
    with pytest.raises(
        ValueError, match="No user has a test target; a user needs three events, one in the test period"
    ):
        EvaluationSequences(cut, split="test")


def test_users_with_targets_in_both_parts_are_no_matter_to_mention(time_cut):
    text = report_text(time_cut.metadata["report"])
    assert "in no part" in text  # d
    assert "not every part has targets" not in text


def test_an_evaluation_states_its_conditions(data):
    found = compare(Constant(data), data)
    facts = found["conditions"]
    assert set(found) == {
        "protocol", "split", "num_users", "cold_targets", "model", "popularity", "markov", "conditions",
        "data_hash", "seed", "by_popularity", "by_history_length",
    }  # fmt: skip
    assert facts.pop("targets") == compare(Constant(data), data, protocol="unfiltered")["conditions"]["targets"]
    assert facts == {
        "description": PROTOCOLS["full-catalogue"].description,
        "candidates": "all items",
        "seen_items": "forbidden",
        "ties": "half",
        "tie_order": "as in the log",
        "cold_targets": "ranked",
        "trained_on": "training events",
        "data": {
            "num_users": 10, "num_items": 10, "num_events": 70, "split": "leave-one-out",
            "min_user_events": 5, "min_item_events": 5, "min_rating": None, "repeats": "keep",
        },
    }  # fmt: skip
    json.dumps(found)
    assert compare(Constant(data), data, protocol="unfiltered")["conditions"]["seen_items"] == "allowed"
    for protocol, counted in (("popularity-100", "training events"), ("uniform-100", "nothing")):
        drawn = compare(Constant(data), data, protocol=protocol, seed=4)["conditions"]
        assert (drawn["seed"], drawn["negatives_counted"]) == (4, counted)


def test_what_was_trained_on_is_read_from_the_data(data):
    data.train_end = data.train_end.copy()
    for trained_on in ("training and validation events", "all events"):
        data.train_end[3] += 1
        assert compare(Constant(data), data)["conditions"]["trained_on"] == trained_on


def test_the_checksum_knows_the_targets_and_not_their_names(interaction_log, tmp_path):
    log = interaction_log[interaction_log.index % 7 != 3]  # not all items equally often

    def checksum(log, name, split="test"):
        data = prepare(log, tmp_path / name, min_user_events=1, min_item_events=1)
        return compare(Constant(data), data, split=split)["conditions"]["targets"]

    found = checksum(log, "as_it_is")
    assert len(found) == 8
    turned = {name: log[name].map(lambda name: f"{9 - int(name[1:])}x") for name in ("user_id", "item_id")}
    renamed = log.assign(**turned)  # in the opposite order, so that equally frequent items are numbered otherwise
    assert checksum(renamed, "renamed") == found
    last = log[log.user_id == "u2"].index[-2:]
    swapped = log.copy()
    swapped.loc[last, "item_id"] = swapped.loc[last[::-1], "item_id"].to_numpy()
    assert checksum(swapped, "swapped") != found
    assert checksum(log, "validation", "validation") != found


def evaluation(**changes):
    """A metrics file in short; a change names a key of the file, of its conditions or of their data."""
    data = {"num_users": 50, "num_items": 1349, "num_events": 9000, "split": "leave-one-out", "min_item_events": 5}
    facts = {
        "candidates": "all items",
        "seen_items": "forbidden",
        "ties": "half",
        "tie_order": "as in the log",
        "trained_on": "training events",
        "targets": "0000abcd",
        "seed": 0,
        "data": data,
    }
    metrics = {
        "protocol": "full-catalogue",
        "split": "test",
        "num_users": 50,
        "cold_targets": 0.1,
        "conditions": facts,
    }
    for name, value in copy.deepcopy(changes).items():
        place = data if name in {*data, "data_split"} - {"split"} else facts if name in facts else metrics
        place["split" if name == "data_split" else name] = value
    return metrics


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"cold_targets": 0.10004}, []),
        ({"protocol": "popularity-100"}, ["protocol: full-catalogue against popularity-100"]),
        (
            {"protocol": "unfiltered", "seen_items": "allowed"},  # said by the name
            ["protocol: full-catalogue against unfiltered"],
        ),
        ({"seen_items": "allowed"}, ["seen items: forbidden against allowed"]),
        ({"seed": 1}, ["seed: 0 against 1"]),
        ({"ties": "on top"}, ["ties: half against on top"]),
        ({"tie_order": "any"}, ["tie order: as in the log against any"]),
        ({"trained_on": "all events"}, ["trained on: training events against all events"]),
        ({"data_split": "global-time"}, ["data split by: leave-one-out against global-time"]),
        (
            {"num_items": 1682, "num_events": 9500, "min_item_events": 1, "targets": "11110000"},
            ["items: 1,349 against 1,682, min_item_events 5 against 1", "events: 9,000 against 9,500"],
        ),
        ({"split": "validation", "targets": "11110000"}, ["split: test against validation"]),
        (
            {"targets": "11110000"},
            ["targets: as many users, items and events, but other targets (events of equal time in another order?)"],
        ),
        ({"cold_targets": 0.0}, ["cold targets: 10.00% against 0.00%"]),
        ({"seed": None, "targets": None, "ties": None, "num_events": None}, []),  # what is not stated is not compared
    ],
)  # fmt: skip
def test_each_difference_is_a_reason(changes, reasons):
    assert comparability(evaluation(), evaluation(**changes)) == reasons


def test_a_difference_is_found_from_either_side_and_in_files(tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps(evaluation()))
    other.write_text(json.dumps(evaluation(protocol="temporal")))
    assert comparability(one, str(other)) == ["protocol: full-catalogue against temporal"]
    assert comparability(other, one) == ["protocol: temporal against full-catalogue"]
    assert comparability(one, one) == []
    old = evaluation()
    del old["conditions"]
    assert comparability(old, one) == ["the first does not state its conditions: evaluate again"]
    assert comparability(one, old) == ["the second does not state its conditions: evaluate again"]


def test_evaluations_of_one_log_are_comparable_where_they_ought_to_be(data, interaction_log, tmp_path):
    one = compare(Constant(data), data)
    again = prepare(interaction_log.sample(frac=1, random_state=0), tmp_path / "again")  # times tell the order
    assert comparability(one, compare(Constant(again), again, batch_size=3, seed=5)) == []
    assert comparability(one, compare(Constant(data), data, split="validation")) == ["split: test against validation"]
    drawn = [compare(Constant(data), data, protocol="uniform-100", seed=seed) for seed in (0, 1)]
    assert comparability(*drawn) == ["seed: 0 against 1"]
    dropped = prepare(interaction_log[interaction_log.item_id != "i0"], tmp_path / "dropped", min_user_events=1)
    reasons = comparability(one, compare(Constant(dropped), dropped))
    assert reasons[0] == "items: 10 against 9, min_user_events 5 against 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"There is no file .*metrics.json; give a file that evaluate --output_file wrote"),
        ("{", r"metrics.json is no JSON \(.*\); give a file"),
        ("[1]", r"metrics.json holds no metrics \(no protocol, split and num_users\)"),
        ('{"protocol": "temporal"}', "holds no metrics"),
    ],
)
def test_a_file_that_holds_no_metrics_is_refused(tmp_path, text, message):
    path = tmp_path / "metrics.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_metrics(path)


def test_the_checksum_follows_the_order_of_equal_times(tmp_path):
    rows = [("u", "abc"), ("v", "bcc"), ("w", "abb")]  # b was trained on, c was not
    log = pd.DataFrame(
        [(user, item, 1) for user, items in rows for item in items], columns=["user_id", "item_id", "timestamp"]
    )
    found = set()
    for name, order in (("kept", np.arange(9)), ("turned", [0, 2, 1, *range(3, 9)])):
        data = prepare(log.iloc[order], tmp_path / name, min_user_events=1, min_item_events=1)
        found.add(compare(Constant(data), data)["conditions"]["targets"])
    assert len(found) == 2
