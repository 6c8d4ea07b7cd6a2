"""Raw ids in, ranked raw ids, titles and scores out; the same answer one by one, in a batch and as a stream."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecTokenizer,
    NextItemRecommendationPipeline,
)
from hf_bert4rec.recipes import RECIPES

ITEMS = [f"item {number}" for number in range(12)]


@pytest.fixture(scope="module")
def recommend():
    torch.manual_seed(0)
    config = Bert4RecConfig(vocab_size=15, hidden_size=16, intermediate_size=32, initializer_range=0.5)
    model = Bert4RecForMaskedLM(config).eval()
    tokenizer = Bert4RecTokenizer.from_items(ITEMS, titles={"item 3": "Three"})
    return pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def numbered(recommend):
    """The same model with integers for ids."""
    return pipeline(
        "next-item-recommendation", model=recommend.model, tokenizer=Bert4RecTokenizer.from_items(list(range(12)))
    )


def ids(result):
    return [entry["item_id"] for entry in result["recommendations"]]


def close(one, other):
    """Equal but for the rounding that another batch size brings."""
    assert ids(one) == ids(other)
    scores = [[entry["score"] for entry in result["recommendations"]] for result in (one, other)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert {key: one[key] for key in ("num_unknown", "is_popularity")} == {
        key: other[key] for key in ("num_unknown", "is_popularity")
    }


def test_the_task_is_registered_and_finds_its_class(recommend):
    assert isinstance(recommend, NextItemRecommendationPipeline)


def test_the_best_item_is_the_one_with_the_highest_logit_of_the_plain_model(recommend):
    history = ["item 1", "item 5"]
    tokens = torch.tensor([[4, 8, 1]])
    logits = recommend.model(tokens, logits_to_keep=tokens == 1).logits[0]
    logits[:3] = -torch.inf
    expected = [ITEMS[token - 3] for token in logits.argsort(descending=True)[:9].tolist()]
    answer = recommend(history, top_k=9, filter_seen=False)
    assert ids(answer) == expected
    assert answer["recommendations"][0]["score"] == pytest.approx(logits.max().item(), abs=1e-5)


def test_one_by_one_batched_streamed_and_from_a_column_are_the_same(recommend):
    histories = [["item 1"], ["item 2", "item 3", "nobody knows me"], [], ["item 11"] * 5]
    single = [recommend(history, top_k=4) for history in histories]
    column = datasets.Dataset.from_dict({"history": histories})["history"]
    for answers in (
        recommend(histories, top_k=4),
        recommend(histories, top_k=4, batch_size=1),
        list(recommend((history for history in histories), top_k=4, batch_size=3)),
        list(recommend(column, top_k=4)),
        [recommend({"history": history}, top_k=4) for history in histories],
        [recommend(np.array(history, dtype=object), top_k=4) for history in histories],
    ):
        for one, other in zip(single, answers, strict=True):
            close(one, other)


@pytest.mark.parametrize(
    "history",
    [
        np.array([1, 5]),
        [np.int64(1), np.int32(5)],
        (1, 5),
        ("1", "5"),
        pd.Series([1, 5], index=[7, 8]),
        pd.Index(["1", "5"]),
        torch.tensor([1, 5]),
        pa.array([1, 5]),
        pa.chunked_array([["1"], ["5"]]),
        {"history": np.array([1, 5]), "user_id": 3},
    ],
    ids=lambda history: type(history).__name__,
)
def test_a_history_may_come_in_any_container_alone_or_among_others(numbered, history):
    expected = numbered([1, 5], top_k=4)
    close(numbered(history, top_k=4), expected)
    for one in numbered([history, history], top_k=4):
        close(one, expected)
    (one,) = numbered(iter([history]), top_k=4)
    close(one, expected)


def test_many_histories_may_come_in_any_container(numbered):
    histories = [[1, 5], [3, 2]]
    expected = numbered(histories, top_k=4)
    dataset = datasets.Dataset.from_dict({"history": histories})
    for inputs in (
        np.array(histories),
        torch.tensor(histories),
        pd.Series(histories),
        pa.array(histories),
        pa.chunked_array([histories]),
        {"history": histories},
        {"history": dataset["history"]},
        dataset,
        KeyDataset(dataset, "history"),
    ):
        for one, other in zip(expected, numbered(inputs, top_k=4), strict=True):
            close(one, other)


def test_a_stream_is_read_sixteen_batches_ahead_and_no_further(recommend):
    read = []

    def histories():
        for number in range(100):
            read.append(number)
            yield ["item 1"]

    answers = iter(recommend(histories(), batch_size=2))
    assert not read
    next(answers)
    assert len(read) == 16 * 2


def test_answers_keep_the_order_of_histories_of_all_lengths(recommend):
    histories = [["item 1", "item 2", "item 3"][: 1 + place * 7 % 3] for place in range(50)]
    alone = [recommend(history, top_k=3) for history in histories[:3]]
    for inputs in (histories, (history for history in histories)):
        answers = list(recommend(inputs, top_k=3, batch_size=4))
        assert len(answers) == 50
        for place, answer in enumerate(answers):
            found, expected = answer["recommendations"], alone[place % 3]["recommendations"]
            assert [entry["item_id"] for entry in found] == [entry["item_id"] for entry in expected]


def test_seen_items_are_left_out_unless_asked_for(recommend):
    history = ["item 0", "item 4", "item 7"]
    assert not set(ids(recommend(history, top_k=12))) & set(history)
    assert len(ids(recommend(history, top_k=12))) == 9
    assert set(ids(recommend(history, top_k=12, filter_seen=False))) == set(ITEMS)


def test_allowed_and_denied_items_shape_the_list(recommend):
    assert set(ids(recommend(["item 1"], allowed_items=["item 2", "item 9", "not in stock"]))) == {"item 2", "item 9"}
    denied = ids(recommend(["item 1"], top_k=12, denied_items=["item 2", "item 9", "item 2"]))
    assert len(denied) == 9
    assert not {"item 2", "item 9"} & set(denied)
    assert ids(recommend(["item 1"], allowed_items=["item 1"])) == []


def test_a_history_without_a_known_item_gets_popularity_and_says_so(recommend):
    for history, num_unknown in (([], 0), (["who", "what"], 2)):
        answer = recommend(history, top_k=3)
        assert ids(answer) == ITEMS[:3]
        assert [entry["score"] for entry in answer["recommendations"]] == [0, -1, -2]
        assert answer["is_popularity"] is True
        assert answer["num_unknown"] == num_unknown
    assert ids(recommend([], top_k=2, denied_items=["item 0"])) == ["item 1", "item 2"]
    assert recommend(["item 1"])["is_popularity"] is False


def test_unknown_items_are_counted_or_refused(recommend):
    close(
        recommend(["item 1", "who"]) | {"num_unknown": 0},
        recommend(["item 1"]),
    )
    assert recommend(["item 1", "who"])["num_unknown"] == 1
    with pytest.raises(ValueError, match="'who'"):
        recommend(["item 1", "who"], unknown_items="error")


def test_titles_come_where_there_are_titles(recommend, numbered):
    titles = {entry["item_id"]: entry["title"] for entry in recommend(["item 1"], top_k=11)["recommendations"]}
    assert titles["item 3"] == "Three"
    assert titles["item 2"] is None
    answer = numbered([1, 5])["recommendations"][0]
    assert set(answer) == {"item_id", "score"}
    assert isinstance(answer["item_id"], int)


def test_of_a_small_catalogue_all_items_come_unless_another_number_is_asked_for():
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=7, hidden_size=16, intermediate_size=32))
    small = pipeline("next-item-recommendation", model=model, tokenizer=Bert4RecTokenizer.from_items(list("abcd")))
    assert len(small(["a"])["recommendations"]) == 3
    assert len(small(["a"], filter_seen=False)["recommendations"]) == 4
    assert len(small.similar_items("a")["similar_items"]) == 3
    assert len(small.answer(small.queries([[]]))[0]["recommendations"]) == 4
    with pytest.raises(ValueError, match="top_k is 10, but the catalogue has 4 items"):
        small(["a"], top_k=10)


def test_what_to_do_with_unknown_items_is_one_of_two(recommend):
    for ask in (recommend, recommend.similar_items):
        with pytest.raises(ValueError, match="unknown_items is 'ignore'; choose 'skip' or 'error'"):
            ask(["item 1"], unknown_items="ignore")


@pytest.mark.parametrize("top_k", [0, 13, "3", 2.5, True])
def test_top_k_outside_the_catalogue_is_refused(recommend, top_k):
    with pytest.raises(ValueError, match=f"top_k is {top_k!r}, but the catalogue has 12 items; give between 1 and 12"):
        recommend(["item 1"], top_k=top_k)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("item 1", {}, "A history must be a list of item ids, found 'item 1'; put the ids in a list"),
        (3, {}, "A history must be a list of item ids, found 3"),
        (None, {}, "A history must be a list of item ids, found None"),
        ({"item 1"}, {}, "A history must be a list of item ids, found {'item 1'}"),
        ([["item 1"], "item 2"], {}, "A history must be a list of item ids, found 'item 2'"),
        ([["item 1"], {"item 2"}], {}, "A history must be a list of item ids, found {'item 2'}"),
        ({"items": ["item 1"]}, {}, "A record needs 'history', found 'items'"),
        ([1.5], {}, r"must hold text or integers, found 1.5 \(float\) at position 0"),
        (["item 1", None], {}, r"must hold text or integers, found None \(NoneType\) at position 1"),
        (pd.Series([1, None]), {}, r"must hold text or integers, found 1.0 \(float\) at position 0"),
        (["item 1"], {"allowed_items": ["who"]}, "None of the 1 allowed_items is in the catalogue"),
        (["item 1"], {"denied_items": "item 2"}, "denied_items must be a list of item ids, found 'item 2'"),
        (["item 1"], {"allowed_items": 2}, "allowed_items must be a list of item ids, found 2"),
        (["item 1"], {"denied_items": [None]}, r"^denied_items must hold text or integers, found None \(NoneType\)"),
        (["item 1"], {"batch_size": 0}, "batch_size is 0; give a whole number of at least 1"),
        ([["item 1"]], {"batch_size": 2.0}, "batch_size is 2.0; give a whole number of at least 1"),
        (["item 1"], {"topk": 3}, "There is no parameter 'topk'"),
    ],
)
def test_wrong_input_is_named_in_one_line(recommend, inputs, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        recommend(inputs, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["default", "sparse", "paper", "sasrec"])
def test_a_saved_model_of_any_recipe_gives_the_same_answers(recommend, recipe, tmp_path):
    fields = {name: value for name, value in RECIPES[recipe].items() if name in Bert4RecConfig.__annotations__}
    reading = {"default": "both", "sparse": "both", "paper": "masked", "sasrec": "causal"}[recipe]
    config = Bert4RecConfig(vocab_size=15, hidden_size=16, reading=reading, initializer_range=0.5, **fields)
    model = (Bert4RecForCausalLM if recipe == "sasrec" else Bert4RecForMaskedLM)(config).eval()
    original = pipeline("next-item-recommendation", model=model, tokenizer=recommend.tokenizer)
    model.save_pretrained(tmp_path)
    recommend.tokenizer.save_pretrained(tmp_path)
    loaded = pipeline("next-item-recommendation", model=str(tmp_path))
    close(loaded(["item 1", "item 2"]), original(["item 1", "item 2"]))
    assert ids(original(["item 1"])) != ids(recommend(["item 1"]))
    assert loaded.similar_items("item 1") == original.similar_items("item 1")


def test_queries_of_different_rules_are_answered_together_as_one_by_one(recommend):
    asked = [
        (["item 1", "item 5"], {"top_k": 4}),
        ([], {"top_k": 2, "denied_items": ["item 0"]}),
        (["item 2"], {"top_k": 12, "filter_seen": False}),
        (["item 3", "who"] * 3, {"top_k": 3, "allowed_items": ["item 3", "item 7", "item 9"]}),
        ([], {"allowed_items": ["item 7", "item 4"]}),
        (["item 2", "item 3"], {"denied_items": ["item 4", "nobody knows me"], "allowed_items": ["item 4", "item 5"]}),
        (["item 8"], {}),
    ]
    queries = [query for history, options in asked for query in recommend.queries([history], **options)]
    answers = recommend.answer(queries)
    assert [len(answer["recommendations"]) for answer in answers] == [4, 2, 12, 2, 2, 1, 10]
    for (history, options), answer in zip(asked, answers, strict=True):
        close(answer, recommend(history, **options))
    assert recommend.answer([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 13}, "top_k is 13, but the catalogue has 12 items"),
        ({"allowed_items": ["who"]}, "None of the 1 allowed_items"),
        ({"unknown_items": "error"}, "'who'"),
        ({"topk": 3}, "There is no parameter 'topk'"),
    ],
)
def test_a_wrong_query_is_found_before_anything_is_scored(recommend, options, message):
    with pytest.raises(ValueError, match=message):
        recommend.queries([["item 1", "who"]], **options)
