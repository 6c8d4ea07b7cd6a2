"""
Checkpoints of other projects, made in their layout: equal scores, raw ids, refusals that name the difference, and nothing of
a checkpoint is ever run.
"""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from other_projects import recbole_scores, recbole_weights, save_recbole

from hf_bert4rec import Bert4RecForCausalLM, Bert4RecForMaskedLM
from hf_bert4rec.cli import main
from hf_bert4rec.convert import convert, read_model
from hf_bert4rec.convert.checkpoint_file import read_checkpoint
from hf_bert4rec.run_folder import load_run
from hf_bert4rec.scoring import ModelScorer

ITEMS = [f"i{number}" for number in range(9)]
HISTORIES = [[4], [1, 2, 3], [9, 1, 5, 5, 2], [3, 1, 4, 1, 5, 9], [3, 1, 4, 1, 5, 9, 2, 6]]  # the window is 6


class Payload:
    """What a hostile pickle holds: reading it with `pickle` calls `os.system`."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def items(tmp_path):
    file = tmp_path / "items.txt"
    file.write_text("\n".join(ITEMS) + "\n")
    return file


def scores(run):
    """Of a converted folder, as every command of ours ranks."""
    model, _ = load_run(run)
    return ModelScorer(model)(None, [np.array(history) + 2 for history in HISTORIES])(3, 12)


@pytest.mark.parametrize(
    ("model", "activation"), [("BERT4Rec", "gelu"), ("SASRec", "gelu"), ("SASRec", "relu"), ("SASRec", "swish")]
)
def test_a_model_of_recbole_scores_as_its_code_says(tmp_path, items, model, activation):
    weights = save_recbole(tmp_path / "model.pth", model, hidden_act=activation)
    convert(tmp_path / "model.pth", tmp_path / "run", items=items)
    expected = torch.stack([recbole_scores(weights, history, model, activation) for history in HISTORIES])
    torch.testing.assert_close(scores(tmp_path / "run"), expected, atol=1e-5, rtol=1e-5)


def test_what_trains_further_is_carried_over(tmp_path):
    save_recbole(tmp_path / "model.pth")
    config = read_model(tmp_path / "model.pth").config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.initializer_range) == (
        0.2,
        0.1,
        0.02,
    )
    assert (config.num_hidden_layers, config.intermediate_size, config.max_position_embeddings) == (2, 12, 6)


def test_the_class_says_how_a_history_is_read(tmp_path, items):
    for model, expected in (("BERT4Rec", "Bert4RecForMaskedLM"), ("SASRec", "Bert4RecForCausalLM")):
        save_recbole(tmp_path / "model.pth", model)
        convert(tmp_path / "model.pth", tmp_path / model, items=items)
        assert json.loads((tmp_path / model / "config.json").read_text())["architectures"] == [expected]
    assert Bert4RecForCausalLM.from_pretrained(tmp_path / "SASRec").config.reading == "causal"
    assert Bert4RecForMaskedLM.from_pretrained(tmp_path / "BERT4Rec").config.reading == "masked"


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("BERT4Rec", {"hidden_act": "relu"}, "its blocks use relu and its head GELU"),
        ("SASRec", {"hidden_act": "mish"}, "its activation 'mish' is unknown"),
        ("SASRec", {"n_heads": "two"}, "no usable n_heads"),
        ("GRU4Rec", {}, "GRU4Rec is another architecture; of RecBole BERT4Rec and SASRec are read"),
    ],
    ids=str,
)
def test_a_model_of_recbole_that_differs_is_refused_by_name(tmp_path, model, settings, message):
    save_recbole(tmp_path / "model.pth", model, **settings)
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path / "model.pth")


def test_a_weight_too_many_or_too_few_is_refused_by_name(tmp_path):
    weights = recbole_weights("BERT4Rec")
    for changed, message in (
        (weights | {"rating_embedding.weight": torch.ones(2, 8)}, "no place here for rating_embedding.weight"),
        ({name: value for name, value in weights.items() if name != "output_bias"}, "have no output_bias"),
        (weights | {"output_bias": "lost"}, "output_bias, which is no tensor"),
    ):
        save_recbole(tmp_path / "model.pth", weights=changed)
        with pytest.raises(ValueError, match=message):
            read_model(tmp_path / "model.pth")


def test_weights_that_do_not_fit_each_other_are_refused(tmp_path, items):
    save_recbole(tmp_path / "model.pth", weights=recbole_weights("BERT4Rec") | {"output_bias": torch.ones(4)})
    with pytest.raises(ValueError, match="do not fit"):
        convert(tmp_path / "model.pth", tmp_path / "run", items=items)
    assert not list(tmp_path.glob("run*"))


def test_what_is_laid_out_otherwise_is_refused(tmp_path):
    for changed in ({"item_embedding.weight": torch.tensor(1.0)}, {"position_embedding.weight": torch.tensor(1.0)}):
        save_recbole(tmp_path / "model.pth", weights=recbole_weights("BERT4Rec") | changed)
        with pytest.raises(ValueError, match="is not laid out as its project does"):
            read_model(tmp_path / "model.pth")
    save_recbole(tmp_path / "model.pth", weights={name: torch.ones(3, 3) for name in ("item_embedding.weight",)})
    with pytest.raises(ValueError, match=r"have no position_embedding.weight"):
        read_model(tmp_path / "model.pth")


def test_raw_ids_come_from_text_json_or_a_data_set_saved_beside(tmp_path):
    save_recbole(tmp_path / "model.pth")
    given = {"items.txt": "\r\n".join(ITEMS), "items.json": json.dumps(ITEMS), "numbers.json": json.dumps([*range(9)])}
    for name, text in given.items():
        (tmp_path / name).write_text(text, newline="")
        convert(tmp_path / "model.pth", tmp_path / f"{name}-run", items=tmp_path / name)
        ids = load_run(tmp_path / f"{name}-run")[1].item_ids
        assert ids == (list(range(9)) if name == "numbers.json" else ITEMS)
    saved = {"iid_field": "item_id", "field2id_token": {np.str_("item_id"): np.array(["[PAD]", *ITEMS])}}
    (tmp_path / "tiny-SequentialDataset.pth").write_bytes(pickle.dumps(saved))
    assert read_model(tmp_path / "model.pth").item_ids == ITEMS


def test_missing_or_unfit_ids_are_refused(tmp_path, items):
    save_recbole(tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"does not hold the raw item ids of RecBole's BERT4Rec; .* --items FILE"):
        convert(tmp_path / "model.pth", tmp_path / "run")
    items.write_text("only\ntwo\n")
    with pytest.raises(ValueError, match="There are 2 ids, RecBole's BERT4Rec has 9 items"):
        convert(tmp_path / "model.pth", tmp_path / "run", items=items)
    items.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="neither text nor a JSON list"):
        convert(tmp_path / "model.pth", tmp_path / "run", items=items)
    saved = {"iid_field": "item_id", "field2id_token": {"item_id": np.array(["[PAD]", "a"])}}
    (tmp_path / "tiny-SequentialDataset.pth").write_bytes(pickle.dumps(saved))
    with pytest.raises(ValueError, match="has 1 items, the model 9: it is another data set"):
        convert(tmp_path / "model.pth", tmp_path / "run")


@pytest.mark.parametrize("place", ["torch", "plain pickle", "old torch", "inside weights"])
def test_nothing_in_a_checkpoint_is_ever_run(tmp_path, place):
    trace, file = tmp_path / "trace", tmp_path / "model.pth"
    hostile = {"state_dict": {"output_bias": Payload(trace)} if place == "inside weights" else {}, "x": Payload(trace)}
    if place == "plain pickle":
        file.write_bytes(pickle.dumps(hostile))
        pickle.loads(file.read_bytes())
    else:
        torch.save(hostile, file, _use_new_zipfile_serialization=place != "old torch")
        torch.load(file, weights_only=False)
    assert trace.exists()  # the payload works
    trace.unlink()
    assert main(["convert", str(file), "--output_dir", str(tmp_path / "run")]) == 2
    assert main(["convert", str(file), "--output_dir", str(tmp_path / "run"), "--items", str(file)]) == 2
    assert not trace.exists()


def test_a_model_comes_out_of_a_checkpoint_whose_settings_are_hostile(tmp_path, items):
    weights = save_recbole(tmp_path / "model.pth", extra=Payload(tmp_path / "trace"))
    convert(tmp_path / "model.pth", tmp_path / "run", items=items)
    expected = torch.stack([recbole_scores(weights, history) for history in HISTORIES])
    torch.testing.assert_close(scores(tmp_path / "run"), expected, atol=1e-5, rtol=1e-5)
    assert not (tmp_path / "trace").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    file = tmp_path / "model.pth"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_checkpoint(file)
    with pytest.raises(ValueError, match="is a folder"):
        read_checkpoint(tmp_path)
    for data in (b"", b"PK\x03\x04 cut off", b"some text", pickle.dumps({"a": 1})[:-3]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read_checkpoint(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript"):
        read_checkpoint(file)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="holds a list"):
        read_checkpoint(file)
    torch.save({"weights": 1}, file)
    with pytest.raises(ValueError, match=r"no known project \(it holds 'weights'\)"):
        read_model(file)


@pytest.mark.parametrize(
    ("content", "source"),
    [
        (
            {"state_dict": {}, "hyper_parameters": {"item_external_ids": [], "model_config": {"cls": "SASRecModel"}}},
            "RecTools' SASRecModel",
        ),
        ({"state_dict": {"_model.item_embedder.item_emb.weight": 1}}, "RePlay's SasRec"),
    ],
    ids=["rectools", "replay"],
)
def test_a_sasrec_that_differs_is_refused_with_what_differs(tmp_path, content, source):
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=f"{source} is not converted, .* normalise queries but not keys and values"):
        read_model(tmp_path / "model.ckpt")


def test_an_existing_folder_is_refused_untouched_or_replaced_on_demand(tmp_path, items):
    save_recbole(tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "deep" / "run", items=items)
    before = (tmp_path / "deep" / "run" / "model.safetensors").read_bytes()
    save_recbole(tmp_path / "model.pth")
    with pytest.raises(FileExistsError, match="run exists; give another folder, or --overwrite_output_dir"):
        convert(tmp_path / "model.pth", tmp_path / "deep" / "run", items=items)
    assert (tmp_path / "deep" / "run" / "model.safetensors").read_bytes() == before
    convert(tmp_path / "model.pth", tmp_path / "deep" / "run", items=items, overwrite=True)
    assert (tmp_path / "deep" / "run" / "model.safetensors").read_bytes() != before
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]


def test_a_folder_that_holds_the_checkpoint_is_not_replaced(tmp_path, items):
    (tmp_path / "run").mkdir()
    save_recbole(tmp_path / "run" / "model.pth")
    with pytest.raises(FileExistsError, match=r"run holds .*model\.pth, which would be deleted with it, and stays"):
        convert(tmp_path / "run" / "model.pth", tmp_path / "run", items=items, overwrite=True)
    assert (tmp_path / "run" / "model.pth").exists()


def test_an_unfinished_training_is_not_lost(tmp_path, items):
    save_recbole(tmp_path / "model.pth")
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "options.json").write_text("{}")
    with pytest.raises(FileExistsError, match="unfinished training"):
        convert(tmp_path / "model.pth", tmp_path / "run", items=items)
    assert (tmp_path / "run.partial" / "options.json").exists()


def test_the_commands_read_what_convert_wrote(tmp_path, items, interaction_log, capsys):
    log = interaction_log[interaction_log.item_id != "i9"]
    log.to_csv(tmp_path / "log.csv", index=False)
    save_recbole(tmp_path / "model.pth")
    run, data = str(tmp_path / "run"), str(tmp_path / "data")
    assert main(["convert", str(tmp_path / "model.pth"), "--output_dir", run, "--items", str(items)]) == 0
    assert "RecBole's BERT4Rec: 9 items, 2 layers, hidden size 8, window 6" in capsys.readouterr().out
    assert main(["prepare", str(tmp_path / "log.csv"), "--output_dir", data, "--tokenizer", run]) == 0
    assert main(["evaluate", run, "--data", data]) == 0
    capsys.readouterr()
    assert main(["recommend", run, "--history", "i3", "i0", "--top_k", "9", "--keep_seen"]) == 0
    found = {entry["item_id"]: entry["score"] for entry in json.loads(capsys.readouterr().out)["recommendations"]}
    assert sorted(found) == ITEMS
    vector = ModelScorer(load_run(run)[0])(None, [np.array([6, 3])])(3, 12)[0]
    np.testing.assert_allclose([found[item] for item in ITEMS], vector, atol=1e-6)
