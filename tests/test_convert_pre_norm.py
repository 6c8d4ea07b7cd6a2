"""Pre-norm models of other projects: equal scores, raw ids from where each keeps them, refusals of what is exchanged."""

import json
import pickle

import numpy as np
import pytest
import torch
from other_projects import (
    rectools_content,
    rectools_scores,
    rectools_weights,
    replay_scores,
    replay_weights,
    save_replay,
    vae_scores,
    vae_weights,
)

from hf_bert4rec.convert import convert, read_model
from hf_bert4rec.run_folder import load_run
from hf_bert4rec.scoring import ModelScorer

ITEMS = [f"i{number}" for number in range(9)]
HISTORIES = [[4], [1, 2, 3], [9, 1, 5, 5, 2], [3, 1, 4, 1, 5, 9], [3, 1, 4, 1, 5, 9, 2, 6]]  # the window is 6


class RectoolsModel:
    """What RecTools' `save` pickles: a model whose state is a checkpoint."""


def assert_equal_scores(run, weights, naive_scores, atol=1e-5):
    model, tokenizer = load_run(run)
    assert tokenizer.item_ids == ITEMS
    found = ModelScorer(model)(None, [np.array(history) + 2 for history in HISTORIES])(3, 12)
    expected = torch.stack([naive_scores(weights, history) for history in HISTORIES])
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("is_pickle", [False, True])
def test_a_model_of_rectools_scores_as_its_code_says(tmp_path, is_pickle):
    weights, file = rectools_weights(), tmp_path / "model.ckpt"
    torch.save(rectools_content(weights, ITEMS), file)
    if is_pickle:
        model = RectoolsModel()
        model.fitted_checkpoint = file.read_bytes()
        file.write_bytes(pickle.dumps(model, protocol=5))
    convert(file, tmp_path / "run")
    assert_equal_scores(tmp_path / "run", weights, rectools_scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cls": "HSTUModel"}, "RecTools' HSTUModel is another architecture"),
        ({"transformer_layers_type": "mine.Layers"}, "has transformer_layers_type='mine.Layers'"),
        ({"use_key_padding_mask": False}, "has use_key_padding_mask=False"),
        ({"use_causal_attn": True}, "has use_causal_attn=True"),
        ({"similarity_module_kwargs": {"distance": "cosine"}}, "has similarity_module_kwargs="),
        ({"n_heads": None}, "no usable n_heads"),
    ],
    ids=str,
)
def test_a_model_of_rectools_that_differs_is_refused_by_option(tmp_path, settings, message):
    torch.save(rectools_content(rectools_weights(), ITEMS, **settings), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path / "model.ckpt")


def test_item_features_of_rectools_are_refused(tmp_path):
    features = {"torch_model.item_model.item_net_blocks.1.embedding_bag.weight": torch.ones(3, 8)}
    torch.save(rectools_content(rectools_weights() | features, ITEMS), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"no place here for .*embedding_bag.weight"):
        read_model(tmp_path / "model.ckpt")


def test_without_positions_all_of_them_are_zero(tmp_path):
    weights = rectools_weights()
    name = "torch_model.pos_encoding_layer.pos_emb.weight"
    kept = {key: value for key, value in weights.items() if key != name}
    torch.save(rectools_content(kept, ITEMS, use_pos_emb=False), tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", tmp_path / "run")
    assert_equal_scores(tmp_path / "run", weights | {name: torch.zeros(6, 8)}, rectools_scores)


def save_tokenizer(folder, tokens):
    encoder = {
        "features_columns": {"ITEM_ID": ["item"]},
        "encoding_rules": {"item": {"mapping": tokens, "is_int": False}},
    }
    folder.mkdir()
    (folder / "init_args.json").write_text(json.dumps({"encoder": encoder}))


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_model_of_replay_scores_as_its_code_says(tmp_path, is_tied):
    weights = replay_weights(is_tied)
    save_replay(tmp_path / "model.ckpt", weights)
    save_tokenizer(tmp_path / "tokenizer.replay", {item: token for token, item in reversed(list(enumerate(ITEMS)))})
    convert(tmp_path / "model.ckpt", tmp_path / "run")
    assert_equal_scores(tmp_path / "run", weights, replay_scores)
    assert load_run(tmp_path / "run")[0].config.tie_word_embeddings == is_tied


def test_ids_of_replay_come_from_its_tokenizer_wherever_it_is(tmp_path):
    save_replay(tmp_path / "model.ckpt", replay_weights(True))
    with pytest.raises(ValueError, match=r"does not hold the raw item ids of RePlay's Bert4Rec.*tokenizer.save"):
        convert(tmp_path / "model.ckpt", tmp_path / "run")
    save_tokenizer(tmp_path / "elsewhere", {item: token for token, item in enumerate(ITEMS)})
    found = convert(tmp_path / "model.ckpt", tmp_path / "run", items=tmp_path / "elsewhere")
    assert found.item_ids == ITEMS
    save_tokenizer(tmp_path / "gap", {"a": 0, "b": 2})
    with pytest.raises(ValueError, match=r"is no tokenizer that RePlay saved .*are not 0, 1, 2"):
        convert(tmp_path / "model.ckpt", tmp_path / "other", items=tmp_path / "gap")


def test_other_features_of_replay_are_refused(tmp_path):
    weights = replay_weights(True)
    save_replay(tmp_path / "model.ckpt", weights, features=("item_id_seq", "price"))
    with pytest.raises(ValueError, match=r"reads other features than the item \(item_id_seq, price\)"):
        read_model(tmp_path / "model.ckpt")
    genre = {"_model.item_embedder.cat_embeddings.genre.weight": torch.ones(3, 8)}
    save_replay(tmp_path / "model.ckpt", weights | genre)
    with pytest.raises(ValueError, match="embeds other features than the item"):
        read_model(tmp_path / "model.ckpt")


def test_a_model_without_blocks_is_refused(tmp_path):
    for weights in (rectools_weights(), replay_weights(True)):
        kept = {name: value for name, value in weights.items() if "transformer_blocks" not in name}
        if "_model._head.out_bias" in kept:
            save_replay(tmp_path / "model.ckpt", kept)
        else:
            torch.save(rectools_content(kept, ITEMS), tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match=r"its weights have no .*transformer_blocks.0"):
            read_model(tmp_path / "model.ckpt")


@pytest.fixture
def experiment(tmp_path):
    """As BERT4Rec-VAE-Pytorch leaves it, from a torch that wrote no zip files; the weights too."""
    (tmp_path / "models").mkdir()
    weights = vae_weights()
    file = tmp_path / "models" / "best_acc_model.pth"
    torch.save({"model_state_dict": weights, "optimizer_state_dict": {}}, file, _use_new_zipfile_serialization=False)
    (tmp_path / "config.json").write_text(json.dumps({"bert_num_heads": 2, "bert_dropout": 0.1}))
    return file, weights


def test_a_model_of_bert4rec_vae_pytorch_scores_as_its_code_says(tmp_path, experiment):
    file, weights = experiment
    table = {item: token for token, item in enumerate(ITEMS, start=1)}
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps({"train": {}, "umap": {}, "smap": table}))
    convert(file, tmp_path / "run", items=tmp_path / "dataset.pkl")
    assert_equal_scores(tmp_path / "run", weights, vae_scores)


def test_what_bert4rec_vae_pytorch_does_not_tell_is_asked_for(tmp_path, experiment):
    file, _ = experiment
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps({"smap": {item: token for token, item in enumerate(ITEMS)}}))
    with pytest.raises(ValueError, match="numbers its items from 0, not 1: one of them was the padding"):
        convert(file, tmp_path / "run", items=tmp_path / "dataset.pkl")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"how many attention heads it has; put the experiment's config.json beside"):
        read_model(file)
