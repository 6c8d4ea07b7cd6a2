"""Vectors on disk against the model's own logits; a folder of vectors is whole, or stays as it was."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, embedding, prepare
from hf_bert4rec.embedding import write_vectors


def tiny_model(num_items=10, **options):
    """Random throughout: a bias that stayed zero would hide that it is missing."""
    config = Bert4RecConfig(vocab_size=num_items + 3, hidden_size=16, intermediate_size=32, **options)
    model = Bert4RecForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data")


@pytest.fixture
def tokenizer(data):
    return Bert4RecTokenizer.from_items(data.item_ids.to_pylist())


def column(table, name):
    return np.array(table[name].to_pylist())


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}, {"norm_position": "pre"}], ids=str)
def test_user_vector_times_item_vector_plus_bias_is_the_logit(data, tokenizer, tmp_path, monkeypatch, options):
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", 4)  # ten users in three batches
    model = tiny_model(**options)
    items, users = map(pq.read_table, write_vectors(model, tokenizer, tmp_path / "vectors", data=data))
    assert users["user_id"].to_pylist() == data.user_ids.to_pylist()
    scores = column(users, "vector") @ column(items, "vector").T + column(items, "bias")
    for user in range(data.num_users):
        tokens = [*(item + 3 for item in data.history(user).tolist()), model.config.mask_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits[0, -1, 3:]
        np.testing.assert_allclose(scores[user], logits.numpy(), atol=1e-4)


def test_items_stand_in_token_order_in_their_own_type(tmp_path):
    model = tiny_model(num_items=3)
    (path,) = write_vectors(model, Bert4RecTokenizer.from_items([30, 10, 20]), tmp_path / "vectors")
    table = pq.read_table(path)
    assert table["item_id"].to_pylist() == [30, 10, 20]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 16)
    np.testing.assert_array_equal(column(table, "vector"), model.get_input_embeddings().weight.detach()[3:])
    np.testing.assert_array_equal(column(table, "bias"), model.get_output_embeddings().bias.detach()[3:])


def test_without_data_there_are_items_only(tokenizer, tmp_path):
    paths = write_vectors(tiny_model(), tokenizer, tmp_path / "deep" / "vectors")
    assert paths == [tmp_path / "deep" / "vectors" / "item_vectors.parquet"]
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["vectors", "item_vectors.parquet"]


def test_an_existing_folder_is_refused_untouched_or_replaced_whole_on_demand(data, tokenizer, tmp_path):
    paths = write_vectors(tiny_model(), tokenizer, tmp_path / "vectors", data=data)
    before = [path.read_bytes() for path in paths]
    with pytest.raises(FileExistsError, match=r"vectors exists; give another folder, or --overwrite_output_dir"):
        write_vectors(tiny_model(), tokenizer, tmp_path / "vectors", data=data)
    assert [path.read_bytes() for path in paths] == before
    assert write_vectors(tiny_model(), tokenizer, tmp_path / "vectors", overwrite=True) == paths[:1]
    assert paths[0].read_bytes() != before[0]
    assert not paths[1].exists()  # those users belonged to the other model


def test_what_fails_half_way_leaves_the_old_folder_and_does_not_stand_in_the_way(data, tokenizer, tmp_path):
    paths = write_vectors(tiny_model(), tokenizer, tmp_path / "vectors", data=data)
    before = [path.read_bytes() for path in paths]
    too_few = Bert4RecTokenizer.from_items(["i0", "i1"])
    with pytest.raises(pa.ArrowInvalid):
        write_vectors(tiny_model(), too_few, tmp_path / "vectors", overwrite=True)
    assert [path.read_bytes() for path in paths] == before
    write_vectors(tiny_model(), tokenizer, tmp_path / "vectors", overwrite=True)
    assert not (tmp_path / "vectors.partial").exists()
