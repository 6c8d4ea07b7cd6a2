"""Items that are like an item: the cosine of their embeddings, the item itself left out, however large the catalogue."""

import json

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer
from hf_bert4rec.cli import main
from hf_bert4rec.ranking import TOP_K_SLICE_SIZE

ITEMS = [f"item {number}" for number in range(12)]


def recommender(items, **changes):
    torch.manual_seed(0)
    config = Bert4RecConfig(vocab_size=len(items) + 3, hidden_size=16, intermediate_size=32, **changes)
    model = Bert4RecForMaskedLM(config).eval()
    tokenizer = Bert4RecTokenizer.from_items(items, titles={items[3]: "Three"})
    return pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def recommend():
    return recommender(ITEMS)


def ids(answer):
    return [entry["item_id"] for entry in answer["similar_items"]]


def cosines(recommend, item):
    """Item ids and cosines with the item, best first, one by one."""
    vectors = recommend.model.get_output_embeddings().weight.detach().double()[3:]
    own = vectors[item]
    found = [(float(own @ other / (own.norm() * other.norm())), place) for place, other in enumerate(vectors)]
    found = sorted((entry for entry in found if entry[1] != item), key=lambda entry: -entry[0])
    return [ITEMS[place] for _, place in found], [score for score, _ in found]


@pytest.mark.parametrize("changes", [{}, {"scale_embedding": True}, {"tie_word_embeddings": False}], ids=str)
def test_the_list_is_that_of_the_cosines_without_the_item_itself(changes):
    recommend = recommender(ITEMS, **changes)
    for item in (0, 7):
        answer = recommend.similar_items(ITEMS[item], top_k=12)
        expected, scores = cosines(recommend, item)
        assert answer["item_id"] == ITEMS[item]
        assert ids(answer) == expected
        assert [entry["score"] for entry in answer["similar_items"]] == pytest.approx(scores, abs=1e-6)


def test_neither_the_length_of_a_vector_nor_the_bias_of_an_item_counts(recommend):
    before = recommend.similar_items(ITEMS, top_k=11)
    changed = recommender(ITEMS)
    with torch.no_grad():
        head = changed.model.get_output_embeddings()
        head.weight *= torch.linspace(0.1, 9, 15)[:, None]
        head.bias += torch.arange(15)
    assert list(map(ids, changed.similar_items(ITEMS, top_k=11))) == list(map(ids, before))


def test_a_catalogue_of_several_slices_is_searched_as_a_whole_in_batches_of_any_size():
    recommend = recommender(list(range(9000)))
    assert TOP_K_SLICE_SIZE < 4500
    asked = [3, 4095, 4092, 8999, 17]
    vectors = torch.nn.functional.normalize(recommend.model.get_output_embeddings().weight.detach()[3:])
    best = (vectors[asked] @ vectors.T).topk(6).indices[:, 1:].tolist()
    for batch_size in (None, 2):
        assert list(map(ids, recommend.similar_items(asked, top_k=5, batch_size=batch_size))) == best


def test_one_several_and_a_stream_are_the_same_and_a_stream_is_read_batch_by_batch(recommend):
    single = [recommend.similar_items(item, top_k=3) for item in ITEMS]
    assert isinstance(single[0], dict)
    for asked in (ITEMS, tuple(ITEMS), np.array(ITEMS)):
        answers = recommend.similar_items(asked, top_k=3)
        assert isinstance(answers, list)
        assert list(map(ids, answers)) == list(map(ids, single))
    read = []
    stream = recommend.similar_items((read.append(item) or item for item in ITEMS), top_k=3, batch_size=5)
    assert not read
    assert ids(next(stream)) == ids(single[0])
    assert len(read) == 5
    assert len(list(stream)) == 11


def test_titles_and_types_are_those_of_the_tokenizer(recommend):
    answer = recommend.similar_items("item 3", top_k=11)
    assert answer["title"] == "Three"
    assert {entry["title"] for entry in answer["similar_items"]} == {None}
    numbered = recommender(list(range(12)))
    for asked in (3, np.int64(3), "3"):
        answer = numbered.similar_items(asked, top_k=2)
        assert all(type(item) is int for item in ids(answer))
        json.dumps(answer)


def test_allowed_and_denied_items_shape_the_list(recommend):
    whole = ids(recommend.similar_items("item 1", top_k=11))
    denied = ids(recommend.similar_items("item 1", top_k=11, denied_items=["item 2", "item 9", "item 9"]))
    assert denied == [item for item in whole if item not in ("item 2", "item 9")]
    allowed = recommend.similar_items("item 1", allowed_items=["item 2", "item 1", "item 9", "not in stock"])
    assert ids(allowed) == [item for item in whole if item in ("item 2", "item 9")]


def test_an_unknown_item_has_an_empty_list_in_its_place_or_is_refused(recommend):
    answers = recommend.similar_items(["item 1", "who", "item 2"], top_k=3)
    assert [len(answer["similar_items"]) for answer in answers] == [3, 0, 3]
    assert [answer["is_unknown"] for answer in answers] == [False, True, False]
    assert answers[1]["item_id"] == "who"
    with pytest.raises(ValueError, match=r"^item_ids must hold items of the vocabulary only, found 'who'"):
        recommend.similar_items(["item 1", "who"], unknown_items="error")
    assert recommend.similar_items([]) == []


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (None, {}, "item_ids must be an item id or a list of them, found None"),
        ({"item_id": "item 1"}, {}, "item_ids must be an item id or a list of them, found {'item_id'"),
        (1.5, {}, "item_ids must be an item id or a list of them, found 1.5"),
        ([1.5], {}, r"^item_ids must hold text or integers, found 1.5 \(float\)"),
        ("item 1", {"top_k": 13}, "top_k is 13, but the catalogue has 12 items"),
        ("item 1", {"batch_size": 0}, "batch_size is 0; give a whole number of at least 1"),
        ("item 1", {"allowed_items": "item 2"}, "allowed_items must be a list of item ids, found 'item 2'"),
        ("item 1", {"unknown_items": "drop"}, "unknown_items is 'drop'; choose 'skip' or 'error'"),
    ],
)
def test_wrong_input_is_named_in_one_line(recommend, asked, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        recommend.similar_items(asked, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def run(recommend, tmp_path_factory):
    folder = tmp_path_factory.mktemp("similar") / "run"
    recommend.model.save_pretrained(folder)
    recommend.tokenizer.save_pretrained(folder)
    return folder


def test_the_command_prints_a_line_for_each_item(recommend, run, capsys):
    options = ["--items", "item 1", "who", "--top_k", "2", "--denied_items", "item 5"]
    assert main(["similar", str(run), *options]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers == recommend.similar_items(["item 1", "who"], top_k=2, denied_items=["item 5"])


def test_the_command_writes_the_whole_catalogue_where_no_items_are_named(recommend, run, tmp_path, capsys):
    file = tmp_path / "similar.jsonl"
    assert main(["similar", str(run), "--output_file", str(file), "--top_k", "3"]) == 0
    assert [json.loads(line) for line in file.read_text().splitlines()] == recommend.similar_items(ITEMS, top_k=3)
    before = file.read_bytes()
    assert main(["similar", str(run), "--items", "who", "--unknown_items", "error", "--output_file", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hf-bert4rec similar: item_ids must hold items of the vocabulary only, found 'who'")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
