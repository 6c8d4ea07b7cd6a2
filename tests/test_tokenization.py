"""Raw item ids to tokens and back, whatever the ids are; files, Auto classes and the conventions of Transformers."""

import copy
import json
import pickle
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from transformers import AutoTokenizer

from hf_bert4rec.configuration_bert4rec import Bert4RecConfig
from hf_bert4rec.tokenization_bert4rec import Bert4RecTokenizer

AWKWARD_IDS = [
    *["007", "7", "a b", "a", "b", " a", "a ", "  ", "\n", "\t\x00", '"', "\\", "[CLS]", "##a", "<s>", "None", "nan"],
    *["[PAD]", "[MASK]", "[UNK]", "[[MASK]]", "x[MASK]y", "[MASK] [PAD]", "[mask]"],
    *["é", "e\u0301", "Å", "\u212b", "ﬁ", "日本", "👩\u200d🚀", "\u200b", "\ufeff", "İ", "ß", "\u00a0", "\U0010ffff"],
]
text_ids = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=30, unique=True)
integer_ids = st.lists(st.integers(), min_size=1, max_size=30, unique=True)


def list_tokens(tokenizer, ids, **kwargs):
    return tokenizer(ids, is_split_into_words=True, **kwargs)["input_ids"]


def assert_round_trip(tokenizer, ids):
    tokens = list(range(3, len(ids) + 3))
    assert tokenizer.encode_items(ids) == (tokens, [])
    assert list_tokens(tokenizer, ids) == tokens
    assert [tokenizer(raw_id)["input_ids"] for raw_id in ids] == [[token] for token in tokens]
    decoded = tokenizer.decode_items(tokens)
    assert decoded == ids
    assert list(map(type, decoded)) == list(map(type, ids))
    assert tokenizer.item_ids == ids
    assert tokenizer.num_items == len(ids)
    assert len(tokenizer) == tokenizer.vocab_size == len(ids) + 3
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.all_special_ids == [2, 0, 1]


def copies(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    loaded = Bert4RecTokenizer.from_pretrained(folder)
    return [loaded, pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer), copy.copy(tokenizer)]


@pytest.fixture
def letters():
    return Bert4RecTokenizer.from_items(["a", "b", "c", "d"])


def test_awkward_ids_come_back_as_they_were_also_from_copies_and_files(tmp_path):
    tokenizer = Bert4RecTokenizer.from_items(AWKWARD_IDS)
    assert_round_trip(tokenizer, AWKWARD_IDS)
    for other in copies(tokenizer, tmp_path):
        assert_round_trip(other, AWKWARD_IDS)


@settings(deadline=None, max_examples=60)
@given(text_ids, st.data())
def test_any_text_makes_a_round_trip(ids, data):
    tokenizer = Bert4RecTokenizer.from_items(ids)
    assert_round_trip(tokenizer, ids)
    history = data.draw(st.lists(st.one_of(st.sampled_from(ids), st.text(max_size=3)), max_size=20))
    expected = [ids.index(raw_id) + 3 for raw_id in history if raw_id in ids]
    assert tokenizer.encode_items(history) == (expected, [raw_id for raw_id in history if raw_id not in ids])


@settings(deadline=None, max_examples=20)
@given(ids=text_ids)
def test_any_text_makes_a_round_trip_through_a_folder(ids, tmp_path_factory):
    titles = {raw_id: f"title of {raw_id}" for raw_id in ids[::2]}
    folder = tmp_path_factory.mktemp("tokenizer")
    Bert4RecTokenizer.from_items(ids, titles=titles).save_pretrained(folder)
    loaded = Bert4RecTokenizer.from_pretrained(folder)
    assert_round_trip(loaded, ids)
    assert loaded.titles == titles


@settings(deadline=None, max_examples=40)
@given(integer_ids)
def test_any_integers_make_a_round_trip_and_may_also_be_given_as_text(ids):
    tokenizer = Bert4RecTokenizer.from_items(ids)
    assert_round_trip(tokenizer, ids)
    assert tokenizer.encode_items([str(raw_id) for raw_id in ids])[0] == list(range(3, len(ids) + 3))


def test_the_vocabulary_holds_every_id_under_its_own_text():
    vocabulary = Bert4RecTokenizer.from_items(AWKWARD_IDS).get_vocab()
    assert [vocabulary[raw_id] for raw_id in AWKWARD_IDS] == list(range(3, len(AWKWARD_IDS) + 3))


def test_special_tokens_have_their_usual_text_and_give_way_to_an_item_of_that_text():
    usual = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    assert Bert4RecTokenizer.from_items(["a"]).special_tokens_map == usual
    tokenizer = Bert4RecTokenizer.from_items(["[MASK]", "[[MASK]]", "<u>"], unk_token="<u>")
    assert tokenizer.special_tokens_map == {"unk_token": "[<u>]", "pad_token": "[PAD]", "mask_token": "[[[MASK]]]"}
    assert list_tokens(tokenizer, ["[MASK]", tokenizer.mask_token, "new"]) == [3, 1, 2]
    assert tokenizer.decode([3, 1, 4], skip_special_tokens=True) == "[MASK] [[MASK]]"
    assert tokenizer.encode_items(["[PAD]", "[MASK]"]) == ([3], ["[PAD]"])


@pytest.mark.parametrize("ids", [[10, 20, 30], ["x", "y"]], ids=["int", "str"])
@pytest.mark.parametrize(
    "container",
    [list, tuple, iter, np.array, pd.Series, pa.array, lambda ids: list(np.array(ids))],
)
def test_ids_from_anywhere_come_back_as_plain_python(container, ids):
    assert_round_trip(Bert4RecTokenizer.from_items(container(ids)), ids)


def test_integers_of_several_widths_are_of_one_type():
    assert_round_trip(Bert4RecTokenizer.from_items([np.int64(10), 20, np.uint8(30)]), [10, 20, 30])
    assert_round_trip(Bert4RecTokenizer.from_items(torch.tensor([10, 20, 30])), [10, 20, 30])


def test_item_id_type_says_how_ids_come_back_and_is_saved(tmp_path):
    tokenizer = Bert4RecTokenizer.from_items(["5", "-7", "0"], item_id_type="int")
    for other in [tokenizer, *copies(tokenizer, tmp_path)]:
        assert_round_trip(other, [5, -7, 0])
        assert other.item_id_type == "int"
    assert_round_trip(Bert4RecTokenizer.from_items([5, -7, 0], item_id_type="str"), ["5", "-7", "0"])
    assert Bert4RecTokenizer.from_pretrained(tmp_path, item_id_type="str").item_ids == ["5", "-7", "0"]


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([], {}, "items must hold at least one id, found none"),
        ("abc", {}, r"items must be a list, found 'abc' \(str\); put it in a list"),
        ({"a": 1}, {}, r"items must be a list, found .* \(dict\)"),
        (5, {}, r"items must be a list, found 5 \(int\)"),
        (["a", ""], {}, "an item id must not be empty, found '' at position 1"),
        (["a", "b", "a"], {}, "item ids must be unique, found 'a' more than once"),
        ([7, 8, np.int64(8)], {}, "item ids must be unique, found '8' more than once"),
        (["a", None], {}, r"items must hold text or integers, found None \(NoneType\) at position 1"),
        ([1, 2, True], {}, r"items must hold text or integers, found True \(bool\) at position 2"),
        ([1.0], {}, r"items must hold text or integers, found 1.0 \(float\) at position 0"),
        (pd.Series(["a", None]), {}, r"items must hold text or integers, found nan \(float\) at position 1"),
        ([b"a"], {}, r"items must hold text or integers, found b'a' \(bytes\)"),
        (np.array([[1], [2]]), {}, r"items must hold text or integers, found \[1\] \(list\)"),
        (["a", "b", 3], {}, "all text or all integers, found 'a' at position 0 and 3 at position 2"),
        ([3, "a"], {}, "all text or all integers, found 3 at position 0 and 'a' at position 1"),
        (["ok", "x\ud800y"], {}, r"items must hold valid Unicode, found 'x\\ud800y'"),
        (["1", "007"], {"item_id_type": "int"}, "needs ids that are integers, found '007'"),
        (["1"], {"item_id_type": "float"}, "item_id_type must be 'str' or 'int', found 'float'"),
        (["a", "b"], {"titles": ["A"]}, "titles must be one for each of 2 items, found 1"),
        (["a"], {"titles": [1.5]}, r"titles must hold text or integers, found 1.5 \(float\) at position 0"),
        (["a"], {"titles": {None: "A"}}, r"the keys of titles must hold text or integers, found None"),
        (["a"], {"titles": ["\udfff"]}, "titles must hold valid Unicode"),
    ],
)
def test_unusable_items_end_with_one_clear_line(items, options, message):
    with pytest.raises(ValueError, match=message) as error:
        Bert4RecTokenizer.from_items(items, **options)
    assert "\n" not in str(error.value)


def test_unknown_items_are_given_back_or_are_an_error():
    tokenizer = Bert4RecTokenizer.from_items([1, 2])
    assert tokenizer.encode_items([9, 2, "1", "x", ""], unknown="skip") == ([4, 3], [9, "x", ""])
    assert tokenizer.encode_items([9]) == ([], [9])
    assert tokenizer.encode_items([]) == ([], [])
    assert tokenizer.encode_items(np.array([2, 1])) == ([4, 3], [])
    with pytest.raises(ValueError, match="vocabulary only, found 9; leave it out or let unknown items be skipped"):
        tokenizer.encode_items([2, 9, "x"], unknown="error")
    with pytest.raises(ValueError, match="unknown must be 'skip' or 'error', found 'ignore'"):
        tokenizer.encode_items([2], unknown="ignore")


@pytest.mark.parametrize("history", ["ab", 5, None, {"a": 1}])
def test_a_history_that_is_no_list_is_an_error(letters, history):
    with pytest.raises(ValueError, match="a history must be a list, found"):
        letters.encode_items(history)


@pytest.mark.parametrize("raw_id", [None, 1.0, True, ["a"]])
def test_a_history_that_holds_no_id_is_an_error(letters, raw_id):
    with pytest.raises(ValueError, match=r"a history must hold text or integers, found .* at position 1"):
        letters.encode_items(["a", raw_id])


@pytest.mark.parametrize("token", [0, 1, 2, -1, 7, 2**70, 3.0, True, None, "a"])
def test_only_tokens_of_items_are_decoded(letters, token):
    with pytest.raises(ValueError, match="token_ids must be tokens of items, found"):
        letters.decode_items([3, token])


def test_tensors_and_arrays_are_decoded(letters):
    assert letters.decode_items(torch.tensor([6, 3])) == letters.decode_items(np.array([6, 3])) == ["d", "a"]
    assert letters.decode_items([]) == []


def test_titles_are_given_by_id_or_in_order_and_saved_in_a_file_of_their_own(tmp_path):
    titles = {7: "Se7en", "9": "9\n“é”", 11: None, 99: "of no item"}
    tokenizer = Bert4RecTokenizer.from_items([7, 9, 11], titles=titles)
    for other in [tokenizer, *copies(tokenizer, tmp_path)]:
        assert other.titles == {7: "Se7en", 9: "9\n“é”"}
        assert [other.title(raw_id) for raw_id in (7, "7", 11, 99)] == ["Se7en", "Se7en", None, None]
    assert json.loads((tmp_path / "titles.json").read_text(encoding="utf-8")) == {"7": "Se7en", "9": "9\n“é”"}
    assert "Se7en" not in (tmp_path / "tokenizer.json").read_text() + (tmp_path / "tokenizer_config.json").read_text()
    in_order = Bert4RecTokenizer.from_items(["a", "b", "c"], titles=pd.Series(["A", None, 300]))
    assert in_order.titles == {"a": "A", "c": "300"}


def test_without_titles_there_is_no_file_and_an_old_one_goes(tmp_path):
    Bert4RecTokenizer.from_items(["a"], titles=["A"]).save_pretrained(tmp_path)
    Bert4RecTokenizer.from_items(["a"], titles=[float("nan")]).save_pretrained(tmp_path)
    loaded = Bert4RecTokenizer.from_pretrained(tmp_path)
    assert (loaded.titles, loaded.title("a")) == (None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    Bert4RecTokenizer.from_items(["a"], titles=["A"]).save_pretrained(tmp_path / "more", filename_prefix="shop")
    assert (tmp_path / "more" / "shop-titles.json").is_file()


def test_a_titles_file_of_another_kind_is_an_error(tmp_path):
    Bert4RecTokenizer.from_items(["a"], titles=["A"]).save_pretrained(tmp_path)
    for content in ("[1]", "not JSON"):
        (tmp_path / "titles.json").write_text(content)
        with pytest.raises(ValueError, match=r"titles\.json must be a JSON object of titles by item id"):
            Bert4RecTokenizer.from_pretrained(tmp_path)


def test_a_folder_without_items_or_of_another_tokenizer_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"found neither tokenizer\.json nor vocab\.json in .*from_items"):
        Bert4RecTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="needs a vocabulary"):
        Bert4RecTokenizer()
    Tokenizer(BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="needs a WordLevel model, found BPE"):
        Bert4RecTokenizer.from_pretrained(tmp_path)


def test_auto_tokenizer_loads_the_folder(tmp_path):
    AutoTokenizer.register(Bert4RecConfig, tokenizer_class=Bert4RecTokenizer, exist_ok=True)
    Bert4RecTokenizer.from_items([7, 9], titles=["Se7en", "9"], model_max_length=20).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is Bert4RecTokenizer
    assert_round_trip(loaded, [7, 9])
    assert (loaded.model_max_length, loaded.title(9), loaded.truncation_side) == (20, "9", "left")
    assert AutoTokenizer.from_pretrained(tmp_path, truncation_side="right").truncation_side == "right"


def test_without_the_package_the_folder_is_a_plain_tokenizer_with_the_same_tokens(tmp_path):
    Bert4RecTokenizer.from_items(AWKWARD_IDS, titles={"a": "A"}).save_pretrained(tmp_path)
    (tmp_path / "ids.json").write_text(json.dumps([*AWKWARD_IDS, "new item"]))
    script = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert "hf_bert4rec" not in sys.modules and type(tokenizer).__name__ == "TokenizersBackend", type(tokenizer)
ids = json.load(open(sys.argv[1] + "/ids.json"))
assert tokenizer(ids, is_split_into_words=True)["input_ids"] == [*range(3, len(ids) + 2), 2]
assert tokenizer.truncation_side == "left" and tokenizer.mask_token_id == 1
"""
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning", "-c", script, tmp_path], check=True)


def test_it_is_built_from_a_vocabulary_a_file_or_a_backend(tmp_path, letters):
    letters.save_pretrained(tmp_path)
    (vocabulary_file,) = letters.save_vocabulary(tmp_path)
    vocabulary = ["[PAD]", "[MASK]", "[UNK]", "a", "b", "c", "d"]
    assert json.loads((tmp_path / "vocab.json").read_text()) == {text: i for i, text in enumerate(vocabulary)}
    for other in (
        Bert4RecTokenizer(vocab={text: i for i, text in enumerate(vocabulary)}),
        Bert4RecTokenizer(vocab=vocabulary),
        Bert4RecTokenizer(vocab=[(text, 0.0) for text in vocabulary]),
        Bert4RecTokenizer(vocab_file=vocabulary_file),
        Bert4RecTokenizer(tokenizer_file=str(tmp_path / "tokenizer.json")),
        Bert4RecTokenizer(tokenizer_object=letters.backend_tokenizer),
    ):
        assert_round_trip(other, ["a", "b", "c", "d"])
    (tmp_path / "tokenizer.json").unlink()
    assert_round_trip(Bert4RecTokenizer.from_pretrained(tmp_path), ["a", "b", "c", "d"])


def test_a_backend_that_lacks_special_tokens_gets_them():
    backend = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"))
    tokenizer = Bert4RecTokenizer(tokenizer_object=backend)
    assert backend.get_vocab_size() == 2
    assert tokenizer.item_ids == ["a", "b"]
    assert list_tokens(tokenizer, ["b", "x"]) == [1, tokenizer.unk_token_id]
    assert len({tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id, 0, 1}) == 5


def test_lists_are_exact_and_plain_text_is_one_item_or_a_history():
    tokenizer = Bert4RecTokenizer.from_items(["a", "b", "a b", " c"])
    assert list_tokens(tokenizer, ["a b", "b", " c", "b a", "c"]) == [5, 4, 6, 2, 2]
    assert tokenizer(["a b", "b  a\nx", " c", "", "  "])["input_ids"] == [[5], [4, 3, 2], [6], [], []]
    assert tokenizer.tokenize("b a [MASK]") == ["b", "a", "[MASK]"]
    assert tokenizer("b a x", return_offsets_mapping=True)["offset_mapping"] == [(0, 1), (2, 3), (4, 5)]
    assert tokenizer("a", "b a")["input_ids"] == [3, 4, 3]
    assert list_tokens(tokenizer, [[], ["a b"]]) == [[], [5]]
    assert list_tokens(tokenizer, []) == []


def test_integers_need_no_conversion():
    tokenizer = Bert4RecTokenizer.from_items([10, 20])
    assert list_tokens(tokenizer, [[10, 30], [np.int64(20)]]) == [[3, 2], [4]]
    assert (tokenizer(20)["input_ids"], tokenizer("20 10")["input_ids"]) == ([4], [4, 3])


def test_decoding_joins_ids_with_a_space(letters):
    assert letters.decode([4, 1, 3, 0]) == "b [MASK] a [PAD]"
    assert letters.decode([4, 1, 3, 0], skip_special_tokens=True) == "b a"
    assert letters.batch_decode([[3], [4, 5]]) == ["a", "b c"]
    assert letters.convert_ids_to_tokens([3, 0]) == ["a", "[PAD]"]
    assert letters.convert_tokens_to_ids(["a", "x", "[MASK]"]) == [3, 2, 1]
    assert letters(letters.decode([3, 5, 4, 1]))["input_ids"] == [3, 5, 4, 1]


def test_special_tokens_do_not_match_inside_ids_unless_asked_to():
    tokenizer = Bert4RecTokenizer.from_items(["x[MASK]y", "x"])
    assert list_tokens(tokenizer, ["x[MASK]y", "x[MASK]", "[MASK]"]) == [3, 2, 1]
    assert list_tokens(tokenizer, ["x[MASK]y", "x[MASK]"], split_special_tokens=False) == [4, 1, 2, 4, 1]


def test_padding_and_truncation_sides(letters, tmp_path):
    histories = [["a"], ["b", "c", "d"]]
    assert list_tokens(letters, histories, padding=True) == [[3, 0, 0], [4, 5, 6]]
    assert list_tokens(letters, histories, truncation=True, max_length=2) == [[3], [5, 6]]
    rows = [{"input_ids": [3]}, {"input_ids": [4, 5]}]
    assert letters.pad(rows) == {"input_ids": [[3, 0], [4, 5]], "attention_mask": [[1, 0], [1, 1]]}
    left = letters.pad(rows, padding_side="left", return_tensors="pt")
    assert left["input_ids"].tolist() == [[0, 3], [4, 5]]
    assert left["attention_mask"].tolist() == [[0, 1], [1, 1]]
    letters.padding_side, letters.truncation_side, letters.model_max_length = "left", "right", 2
    letters.save_pretrained(tmp_path)
    loaded = Bert4RecTokenizer.from_pretrained(tmp_path)
    assert list_tokens(loaded, histories, padding=True, truncation=True) == [[0, 3], [4, 5]]


def test_added_items_are_items_and_never_match_inside_other_ids(tmp_path):
    tokenizer = Bert4RecTokenizer.from_items(["10071", "a"])
    assert tokenizer.item_ids == ["10071", "a"]
    assert tokenizer.add_tokens(["007", "x y", "a", "007"]) == 2
    assert tokenizer.add_tokens("") == tokenizer.add_tokens([""]) == 0
    for other in [tokenizer, *copies(tokenizer, tmp_path)]:
        assert_round_trip(other, ["10071", "a", "007", "x y"])
        assert list_tokens(other, ["10071", "100719", "x y z"]) == [3, 2, 2]


def test_added_special_tokens_are_no_items(letters):
    assert (letters.add_special_tokens({"eos_token": "[EOS]"}), letters.add_tokens(["e"])) == (1, 1)
    assert (letters.eos_token_id, letters.num_items, len(letters)) == (7, 5, 9)
    assert letters.item_ids == ["a", "b", "c", "d", "e"]
    assert letters.encode_items(["e", "[EOS]"]) == ([8], ["[EOS]"])
    assert letters.decode([8, 7], skip_special_tokens=True) == "e"
    assert list_tokens(letters, ["[EOS]", "x[EOS]"]) == [7, 2]
    letters.add_eos_token = True
    assert list_tokens(letters, ["a", "b"]) == letters("a b")["input_ids"] == [3, 4, 7]


def test_items_added_to_integers_come_back_as_they_came(letters):
    tokenizer = Bert4RecTokenizer.from_items([5, 6])
    assert tokenizer.add_tokens(["7", "007", "new"]) == 3
    assert tokenizer.decode_items([3, 5, 6, 7]) == [5, 7, "007", "new"]


def test_a_new_vocabulary_is_trained_with_frequent_items_first():
    tokenizer = Bert4RecTokenizer.from_items(["z"]).train_new_from_iterator([["c b", "c b a", "c x"]], vocab_size=6)
    assert_round_trip(tokenizer, ["c", "b", "a"])
    assert list_tokens(tokenizer, ["c b"]) == [2]


def test_threads_do_not_disturb_each_other():
    tokenizer = Bert4RecTokenizer.from_items(["a", "b", "a b"])
    results = []

    def read_lists():
        results.extend(tuple(list_tokens(tokenizer, ["a b", "b"])) == (5, 4) for _ in range(200))

    def read_texts():
        results.extend(tokenizer(["b a", "a b"] * 4)["input_ids"] == [[4, 3], [5]] * 4 for _ in range(200))

    threads = [threading.Thread(target=target, daemon=True) for target in (read_lists, read_texts, read_texts)]
    list(map(threading.Thread.start, threads))
    for thread in threads:
        thread.join(timeout=60)
    assert results == [True] * 600


def test_fifty_thousand_items_are_quick(tmp_path):
    ids = [f"B{number:09d}" for number in range(50_000)]
    tokenizer = Bert4RecTokenizer.from_items(ids)
    assert tokenizer.encode_items(ids[::-1])[0] == list(range(50_002, 2, -1))
    tokenizer.save_pretrained(tmp_path)
    assert Bert4RecTokenizer.from_pretrained(tmp_path).item_ids == ids
