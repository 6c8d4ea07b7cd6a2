"""New and retired items: what both know stays as it was, new items start where they should, tokenizer and model in step."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecTokenizer,
    change_catalogue,
    prepare,
)
from hf_bert4rec.catalogue import ridge_regression, tokenizer_of

OLD_ITEMS = ["e", "b", "gone", "a", "d", "lost", "c"]
# Five users; the last two events of each are held out. `new` and `fresh` are not among the old items.
HISTORIES = {
    "u1": ["a", "new", "b", "c", "new", "d"],
    "u2": ["b", "c", "new", "d", "a"],
    "u3": ["fresh", "a", "e", "b"],
    "u4": ["a", "b", "c", "new", "fresh"],
    "u5": ["a", "d", "late"],
}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 12}


def log_of(histories):
    rows = [(user, item, time) for user, items in histories.items() for time, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def prepared(folder, histories=None, **options):
    return prepare(log_of(histories or HISTORIES), folder, min_user_events=1, min_item_events=1, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("log") / "data")


def trained(items=OLD_ITEMS, model_class=Bert4RecForMaskedLM, **config):
    """A model whose every weight is drawn, biases too, and its tokenizer."""
    model = model_class(Bert4RecConfig(vocab_size=len(items) + 3, **SIZES, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model, Bert4RecTokenizer.from_items(items)


def score_of(model, tokenizer, history):
    """Score of every item by its id, after a history of ids."""
    tokens, unknown = tokenizer.encode_items(history)
    assert unknown == []
    with torch.no_grad():
        vector = model.user_vectors(torch.tensor([[*tokens, model.config.mask_token_id]]))
    head = model.get_output_embeddings()
    scores = (head.weight @ vector[0] + head.bias)[3:]
    return dict(zip(tokenizer.item_ids, scores.tolist(), strict=True))


def row_of(model, tokenizer, item):
    """Input embedding, output embedding and bias of an item, side by side."""
    token = tokenizer.encode_items([item])[0][0]
    head = model.get_output_embeddings()
    parts = (model.get_input_embeddings().weight[token], head.weight[token], head.bias[token : token + 1])
    return torch.cat([part.detach() for part in parts])


@pytest.mark.parametrize("start", ["neighbours", "mean", "random"])
@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (Bert4RecForMaskedLM, {}),
        (Bert4RecForMaskedLM, {"reading": "both", "norm_position": "pre", "position_origin": "newest"}),
        (Bert4RecForCausalLM, {"head_transform": False, "norm_position": "pre"}),
        (Bert4RecForMaskedLM, {"scale_embedding": True, "head_transform": False, "embedding_layer_norm": False}),
        (Bert4RecForMaskedLM, {"tie_word_embeddings": False}),
    ],
    ids=str,
)
def test_old_items_have_the_same_scores_after_old_histories(data, model_class, config, start):
    model, tokenizer = trained(model_class=model_class, **config)
    changed, its_tokenizer = change_catalogue(model, tokenizer, data, new_items=start)
    assert type(changed) is model_class
    for history in (["a"], ["e", "b", "a", "c"]):
        before, after = score_of(model, tokenizer, history), score_of(changed, its_tokenizer, history)
        assert before.keys() - after.keys() == {"gone", "lost"}
        assert after.keys() - before.keys() == {"new", "fresh", "late"}
        for item in before.keys() & after.keys():
            assert after[item] == pytest.approx(before[item], abs=1e-5)


def test_the_model_that_was_given_is_left_alone(data):
    model, tokenizer = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change_catalogue(model, tokenizer, data)
    assert model.config.vocab_size == len(OLD_ITEMS) + 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert tokenizer.item_ids == OLD_ITEMS


def test_tokens_and_rows_follow_the_data_and_special_tokens_stay(data):
    model, tokenizer = trained(tie_word_embeddings=False)
    changed, its_tokenizer = change_catalogue(model, tokenizer, data)
    assert its_tokenizer.item_ids == data.item_ids.to_pylist() != OLD_ITEMS
    assert changed.config.vocab_size == len(its_tokenizer) == len(changed.get_input_embeddings().weight)
    for item in "abcde":
        assert torch.equal(row_of(changed, its_tokenizer, item), row_of(model, tokenizer, item))
    assert torch.equal(changed.get_input_embeddings().weight[:3], model.get_input_embeddings().weight[:3])
    assert torch.equal(changed.get_output_embeddings().bias[:3], model.get_output_embeddings().bias[:3])


def test_a_catalogue_changed_there_and_back_has_its_scores_again(data, tmp_path):
    model, tokenizer = trained()
    old = prepared(tmp_path / "old", {"u": OLD_ITEMS[::-1] * 2}, vocabulary=OLD_ITEMS)
    wider = prepared(tmp_path / "wider", vocabulary=[*data.item_ids.to_pylist(), "gone", "lost"])
    there = change_catalogue(model, tokenizer, wider)
    assert {"gone", "new"} < set(there[1].item_ids)
    back, its_tokenizer = change_catalogue(*there, old)
    assert its_tokenizer.item_ids == OLD_ITEMS
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_new_items_start_at_the_mean_of_all_items(data):
    model, tokenizer = trained()
    changed, its_tokenizer = change_catalogue(model, tokenizer, data, new_items="mean")
    mean = torch.stack([row_of(model, tokenizer, item) for item in OLD_ITEMS]).mean(0)
    for item in ("new", "fresh", "late"):
        assert torch.allclose(row_of(changed, its_tokenizer, item), mean, atol=1e-6)


def test_new_items_start_at_random_as_in_a_new_model(data):
    model, tokenizer = trained()
    torch.manual_seed(1)
    changed, its_tokenizer = change_catalogue(model, tokenizer, data, new_items="random")
    torch.manual_seed(1)
    new = Bert4RecForMaskedLM(changed.config)
    for item in ("new", "fresh", "late"):
        assert torch.equal(row_of(changed, its_tokenizer, item), row_of(new, its_tokenizer, item))


def test_new_items_start_at_what_stands_near_them_in_the_training_part(data, monkeypatch):
    monkeypatch.setattr("hf_bert4rec.catalogue.NEIGHBOUR_DISTANCE", 2)
    monkeypatch.setattr("hf_bert4rec.catalogue.USERS_AT_ONCE", 2)
    model, tokenizer = trained()
    changed, its_tokenizer = change_catalogue(model, tokenizer, data)
    sums, weights = {}, {}
    for items in HISTORIES.values():
        items = items[:-2]
        for place, item in enumerate(items):
            for other_place, other in enumerate(items):
                distance = abs(place - other_place)
                if item not in OLD_ITEMS and other in OLD_ITEMS and distance <= 2:
                    sums[item] = sums.get(item, 0) + row_of(model, tokenizer, other) / distance
                    weights[item] = weights.get(item, 0) + 1 / distance
    assert sums.keys() == {"new", "fresh"}
    for item in sums:
        assert torch.allclose(row_of(changed, its_tokenizer, item), sums[item] / weights[item], atol=1e-6)
    # `fresh` has one neighbour in the training part, `a`; `late` is nobody's.
    assert torch.allclose(row_of(changed, its_tokenizer, "fresh"), row_of(model, tokenizer, "a"))
    mean = torch.stack([row_of(model, tokenizer, item) for item in OLD_ITEMS]).mean(0)
    assert torch.allclose(row_of(changed, its_tokenizer, "late"), mean, atol=1e-6)


def drawn_vectors(items, size, seed=0):
    random = np.random.default_rng(seed)
    return {item: random.normal(size=size) for item in items}


def test_new_items_start_where_a_linear_map_of_their_vectors_says(data):
    model, tokenizer = trained()
    vectors = drawn_vectors([*OLD_ITEMS, "new", "fresh"], 2)
    map_of_vectors = torch.randn(2, 16, dtype=torch.float64)

    def mapped(item):
        return (torch.from_numpy(vectors[item]) @ map_of_vectors + 0.5).float()

    with torch.no_grad():
        for item in OLD_ITEMS:
            model.get_input_embeddings().weight[tokenizer.encode_items([item])[0][0]] = mapped(item)
    changed, its_tokenizer = change_catalogue(model, tokenizer, data, new_items=vectors)
    for item in ("new", "fresh"):
        found = row_of(changed, its_tokenizer, item)[:16]
        assert torch.allclose(found, mapped(item), atol=0.05 * mapped(item).abs().max())


def test_an_item_without_a_vector_starts_at_its_neighbours(data):
    model, tokenizer = trained()
    vectors = drawn_vectors([*OLD_ITEMS, "new"], 2)
    changed, its_tokenizer = change_catalogue(model, tokenizer, data, new_items=vectors)
    near, _ = change_catalogue(model, tokenizer, data)
    is_as_near = [
        torch.equal(row_of(changed, its_tokenizer, item), row_of(near, its_tokenizer, item))
        for item in ("new", "fresh", "late")
    ]
    assert is_as_near == [False, True, True]


def test_vectors_in_a_file_are_those_in_memory(data, tmp_path):
    model, tokenizer = trained()
    vectors = drawn_vectors([*OLD_ITEMS, "new"], 3)
    table = pa.table({"item_id": list(vectors), "vector": [vector.tolist() for vector in vectors.values()]})
    pq.write_table(table, tmp_path / "vectors.parquet")
    changed = [
        change_catalogue(model, tokenizer, data, new_items=given)[0]
        for given in (vectors, tmp_path / "vectors.parquet", str(tmp_path / "vectors.parquet"))
    ]
    for other in changed[1:]:
        assert all(map(torch.equal, changed[0].parameters(), other.parameters()))


def test_the_ridge_is_as_strong_as_generalised_cross_validation_finds_best():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 12, dtype=torch.float64, generator=generator)
    values = vectors[:, :2] + 2 * torch.randn(30, 2, dtype=torch.float64, generator=generator)
    asked = torch.randn(4, 12, dtype=torch.float64, generator=generator)
    x, y = vectors - vectors.mean(0), values - values.mean(0)
    found = []
    largest = torch.linalg.matrix_norm(x, 2) ** 2
    for strength in (10.0**exponent * largest for exponent in np.arange(-8, 3, 0.5)):
        weights = torch.linalg.solve(x.T @ x + strength * torch.eye(12), x.T @ y)
        hat = x @ torch.linalg.solve(x.T @ x + strength * torch.eye(12), x.T)
        error = ((y - x @ weights) ** 2).sum() / (30 - 1 - hat.trace()) ** 2
        found.append((error.item(), (asked - vectors.mean(0)) @ weights + values.mean(0)))
    errors = [error for error, _ in found]
    assert 0 < errors.index(min(errors)) < len(errors) - 1
    assert torch.allclose(ridge_regression(vectors, values, asked), min(found, key=lambda pair: pair[0])[1])


def test_titles_of_the_data_go_first_and_others_stay(tmp_path):
    old = Bert4RecTokenizer.from_items(["a", "b", "gone"], titles={"a": "Alpha", "b": "Beta", "gone": "Gone"})
    items = pd.DataFrame({"item_id": ["a", "new"], "title": ["Alpha II", "New"]})
    data = prepared(tmp_path / "titled", items=items)
    assert tokenizer_of(data, old).titles == {"a": "Alpha II", "b": "Beta", "new": "New"}
    assert tokenizer_of(prepared(tmp_path / "plain"), old).titles == {"a": "Alpha", "b": "Beta"}
    assert tokenizer_of(data).titles == {"a": "Alpha II", "new": "New"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [([1, 2], ["2", "3"], [2, 3]), ([1, 2], ["2", "3x"], ["2", "3x"]), (["1", "2"], ["2", "3"], ["2", "3"])],
)
def test_ids_stay_integers_where_all_are(tmp_path, old, new, expected):
    data = prepared(tmp_path / "data", {"u": new})
    model, tokenizer = trained(old)
    assert change_catalogue(model, tokenizer, data)[1].item_ids == expected


def test_a_retired_item_is_never_recommended_and_is_skipped_in_a_history(data, tmp_path):
    changed, its_tokenizer = change_catalogue(*trained(), data)
    changed.save_pretrained(tmp_path / "run")
    its_tokenizer.save_pretrained(tmp_path / "run")
    recommend = pipeline("next-item-recommendation", model=str(tmp_path / "run"))
    answer, shorter = recommend([["gone", "a", "lost"], ["a"]], top_k=data.num_items, filter_seen=False)
    assert {entry["item_id"] for entry in answer["recommendations"]} == set(data.item_ids.to_pylist())
    assert (answer["num_unknown"], shorter["num_unknown"]) == (2, 0)
    assert answer["recommendations"] == shorter["recommendations"]
    assert AutoTokenizer.from_pretrained(tmp_path / "run").item_ids == its_tokenizer.item_ids
    assert len(AutoModelForMaskedLM.from_pretrained(tmp_path / "run").get_input_embeddings().weight) == 11


def test_a_log_of_other_ids_is_refused(tmp_path):
    data = prepared(tmp_path / "data", {"u": ["x", "y"]})
    with pytest.raises(
        ValueError, match=r"knows none of the 2 items of .*data \('x' ...; its own are 'e' ...\); give"
    ):
        change_catalogue(*trained(), data)


def test_a_tokenizer_of_another_model_is_refused(data):
    model, _ = trained()
    with pytest.raises(ValueError, match="The tokenizer has 5 tokens, the model 10; load both from one folder"):
        change_catalogue(model, Bert4RecTokenizer.from_items(["a", "b"]), data)


@pytest.mark.parametrize(
    ("new_items", "message"),
    [
        (
            "nearest",
            "new_items is 'nearest', which is no start of new items and no file; give neighbours, mean, random",
        ),
        ({"a": [1.0], "new": [1.0, 2.0]}, "a vector of finite numbers, all of one length"),
        ({"a": [1.0], "new": [float("nan")]}, "a vector of finite numbers"),
        ({"a": ["?"]}, "a vector of finite numbers"),
        ({}, "a vector of finite numbers"),
        ({"a": [1.0], "new": [2.0]}, "vectors of 1 items that the model knows, too few to learn from"),
    ],
    ids=str,
)
def test_a_start_that_cannot_be_used_is_refused(data, new_items, message):
    with pytest.raises(ValueError, match=message):
        change_catalogue(*trained(), data, new_items=new_items)


@pytest.mark.parametrize(
    "content", ["no parquet", pa.table({"item": ["a"], "vector": [[1.0]]})], ids=["text", "columns"]
)
def test_a_file_that_holds_no_vectors_is_refused(data, tmp_path, content):
    path = tmp_path / "vectors.parquet"
    path.write_text(content) if isinstance(content, str) else pq.write_table(content, path)
    with pytest.raises(ValueError, match=r"vectors\.parquet is no Parquet file with the columns item_id and vector"):
        change_catalogue(*trained(), data, new_items=path)
