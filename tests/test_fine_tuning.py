"""A run that continues a trained model: starts at its weights, keeps its architecture, resumes, and says what it began from."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file

from hf_bert4rec import change_catalogue, load_data, prepare, train
from hf_bert4rec.cli import main
from hf_bert4rec.recipes import RECIPES
from hf_bert4rec.run_folder import load_run, weights_hash

KEEP_ALL = {"min_user_events": 1, "min_item_events": 1}
TINY = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 20}
QUICK = {"use_cpu": True, "disable_tqdm": True, "max_steps": 2}
MOVED = QUICK | {"warmup_steps": 0, "load_best_model_at_end": False}
UNMOVED = QUICK | {"learning_rate": 0.0}
TABLE = "bert4rec.embeddings.word_embeddings.weight"


def ring(first, last, seed):
    """A log of 20 users who walk with random steps around a ring of the items `first` to `last`."""
    random, rows = np.random.default_rng(seed), []
    for user in range(20):
        item = random.integers(first, last)
        for time in range(random.integers(4, 15)):
            item = first + (item - first + random.integers(1, 4)) % (last - first)
            rows.append((f"u{user}", f"i{item}", time))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fine_tuning")


@pytest.fixture(scope="module")
def run(folder):
    """A model of the items 0 to 19."""
    return train(
        prepare(ring(0, 20, 0), folder / "old", **KEEP_ALL), folder / "run", mlm_probability=0.3, **TINY, **QUICK
    )


@pytest.fixture(scope="module")
def data(folder):
    """Items 5 to 24: fifteen that the model knows, five new ones."""
    return prepare(ring(5, 25, 1), folder / "new", **KEEP_ALL)


def weights(folder):
    return load_file(folder / "model.safetensors")


def record(folder):
    return json.loads((folder / "run.json").read_text())


def differ(one, other):
    one, other = weights(one), weights(other)
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_a_run_starts_at_the_weights_of_the_model_with_the_items_of_the_data(run, data, tmp_path):
    unmoved = train(data, tmp_path / "unmoved", model=run, **UNMOVED)
    changed, tokenizer = change_catalogue(*load_run(run), data)
    found, its_tokenizer = load_run(unmoved)
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in changed.state_dict().items())
    assert its_tokenizer.item_ids == tokenizer.item_ids == data.item_ids.to_pylist()


def test_each_start_of_new_items_reaches_the_run_and_moves_new_items_alone(run, data, tmp_path):
    vectors = {f"i{item}": np.array([np.sin(item), np.cos(item)]) for item in range(25)}
    starts = {"neighbours": "neighbours", "mean": "mean", "random": "random", "vectors": vectors}
    tables = []
    is_known = np.isin(data.item_ids.to_pylist(), [f"i{item}" for item in range(20)])
    for name, start in starts.items():
        tables.append(weights(train(data, tmp_path / name, model=run, new_items=start, **UNMOVED))[TABLE][3:])
        for other in tables[:-1]:
            assert torch.equal(tables[-1][is_known], other[is_known])
            assert (tables[-1][~is_known] != other[~is_known]).any(1).all()


def test_training_moves_the_weights_from_there(run, data, tmp_path):
    unmoved = train(data, tmp_path / "unmoved", model=run, **UNMOVED)
    assert differ(unmoved, train(data, tmp_path / "moved", model=run, **MOVED))


def test_architecture_recipe_and_sequences_are_those_of_the_model(run, data, tmp_path):
    tuned = train(data, tmp_path / "tuned", model=run, **QUICK)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (run, tuned))
    assert old | {"vocab_size": data.num_items + 3, "reading": new["reading"]} == new  # validation chooses the reading
    old, new = record(run), record(tuned)
    assert old["sequence_options"] == new["sequence_options"]
    assert new["sequence_options"]["mlm_probability"] == 0.3
    recipe = RECIPES[new["sequence_options"]["recipe"]]
    arguments = new["training_arguments"]
    assert arguments["learning_rate"] == recipe["learning_rate"]
    assert (arguments["num_train_epochs"], arguments["warmup_steps"]) == (recipe["num_train_epochs"] / 5, 0.1)


def test_what_is_given_wins_over_the_model_and_a_recipe_over_its_record(run, data, tmp_path):
    given = {"learning_rate": 0.5, "mlm_probability": 0.7, "hidden_dropout_prob": 0.4, "training_loss": "gbce"}
    tuned = train(data, tmp_path / "tuned", model=run, **given, **QUICK)
    found = record(tuned)
    assert found["training_arguments"]["learning_rate"] == 0.5
    assert found["sequence_options"]["mlm_probability"] == 0.7
    config = load_run(tuned)[0].config
    assert (config.hidden_dropout_prob, config.training_loss) == (0.4, "gbce")
    recipe = record(train(data, tmp_path / "recipe", model=run, recipe="paper", **QUICK))
    assert recipe["sequence_options"]["mlm_probability"] == RECIPES["paper"]["mlm_probability"]
    own = RECIPES["sparse"]["causal_probability"]  # what the model was trained with
    assert recipe["sequence_options"]["causal_probability"] == own
    assert recipe["training_arguments"]["weight_decay"] == RECIPES["paper"]["weight_decay"]


@pytest.mark.parametrize("causal_probability", [0.0, 0.5, 1.0])
def test_the_objective_stays_with_and_without_a_record(data, tmp_path, causal_probability):
    reading = {0.0: "masked", 0.5: "both", 1.0: "causal"}[causal_probability]
    options = {"causal_probability": causal_probability, "reading": reading} | TINY | QUICK | KEEP_ALL
    old = train(ring(0, 20, 0), tmp_path / "run", **options)
    for name in ("tuned", "of_unrecorded"):
        tuned = train(data, tmp_path / name, model=old, **QUICK)
        assert record(tuned)["sequence_options"]["causal_probability"] == causal_probability
        assert load_run(tuned)[0].config.architectures == load_run(old)[0].config.architectures
        (old / "run.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 32}, "hidden_size is 32, but the model .*run has 16; leave it out, or train without --model"),
        ({"norm_position": "post"}, "norm_position is 'post', but the model .*run has 'pre'"),
        ({"scale_embedding": False}, "scale_embedding is False, but the model .*run has True"),
        ({"new_items": "nearest"}, "new_items is 'nearest', which is no start of new items"),
        ({"recipe": "none"}, "There is no recipe 'none'"),
    ],
    ids=str,
)
def test_what_contradicts_the_model_is_refused_before_anything_is_made(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        train(ring(5, 25, 1), tmp_path / "tuned", model=run, **options, **QUICK)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_agrees_with_the_model_may_be_said(run, data, tmp_path):
    tuned = train(data, tmp_path / "tuned", model=run, hidden_size=16, norm_position="pre", **QUICK)
    assert load_run(tuned)[0].config.hidden_size == 16


def test_a_start_of_new_items_without_a_model_is_refused(data, tmp_path):
    with pytest.raises(
        ValueError, match="new_items says where items start that a trained model does not know; give model"
    ):
        train(data, tmp_path / "run", new_items="mean", **QUICK)


def test_a_log_prepared_with_the_vocabulary_of_the_model_changes_no_item(run, tmp_path):
    old_items = load_run(run)[1].item_ids
    data = prepare(ring(5, 25, 1), tmp_path / "data", vocabulary=old_items, **KEEP_ALL)
    tuned = train(data, tmp_path / "tuned", model=run, **UNMOVED)
    assert load_run(tuned)[1].item_ids == old_items
    assert torch.equal(weights(tuned)[TABLE], weights(run)[TABLE])
    assert record(tuned)["start"]["num_retired_items"] == record(tuned)["start"]["num_new_items"] == 0


def test_the_record_says_what_was_continued_and_how_to_do_it_again(run, data, tmp_path):
    tuned = record(train(data, tmp_path / "tuned", model=run, new_items="mean", **QUICK))
    counts = {"num_known_items": 15, "num_new_items": 5, "num_retired_items": 5}
    assert tuned["start"] == {"model": "run", "hub_model": None, "weights_hash": weights_hash(run), **counts}
    assert (tuned["options"]["model"], tuned["options"]["new_items"]) == ("run", "mean")
    assert "train new --output_dir tuned --model run --new_items mean" in tuned["commands"][1]
    assert str(run.parent) not in json.dumps(tuned)


def test_vectors_in_memory_are_recorded_by_a_checksum(run, data, tmp_path):
    vectors = {f"i{item}": [float(item), 1.0] for item in range(25)}
    tuned = record(train(data, tmp_path / "tuned", model=run, new_items=vectors, **QUICK))
    others = record(train(data, tmp_path / "others", model=run, new_items=vectors | {"i0": [9.0, 1.0]}, **QUICK))
    found = [noted["options"]["new_items"] for noted in (tuned, others)]
    assert all(text.startswith("25 vectors of size 2 (") for text in found)
    assert found[0] != found[1]


def test_a_stopped_run_resumes_to_the_same_weights(run, data, tmp_path, monkeypatch):
    steps = {"max_steps": 6, "save_steps": 2, "eval_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 0.01}
    options = {"model": run, "new_items": "random"} | MOVED | steps
    whole = train(data, tmp_path / "whole", **options)
    after_step = transformers.Trainer._maybe_log_save_evaluate

    def stop(self, *args, **kwargs):
        after_step(self, *args, **kwargs)
        if self.state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "_maybe_log_save_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "stopped", **options)
    assert (tmp_path / "stopped.partial" / "checkpoint-2").is_dir()
    with pytest.raises(ValueError, match="was begun with new_items random, now it is mean"):
        train(data, tmp_path / "stopped", **(options | {"new_items": "mean"}))
    assert not differ(whole, train(data, tmp_path / "stopped", **options))


def test_a_model_is_found_by_its_name_on_the_hub(run, data, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--someone--films" / "snapshots" / "0123abc"
    shutil.copytree(run, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    tuned = train(data, tmp_path / "tuned", model="someone/films", **UNMOVED)
    start = record(tuned)["start"]
    assert start["model"] == start["hub_model"] == record(tuned)["options"]["model"] == "someone/films"
    assert not differ(tuned, train(data, tmp_path / "local", model=run, **UNMOVED))


@pytest.mark.parametrize("name", ["someone/nothing", "a/b/c", "nowhere"])
def test_a_model_that_is_nowhere_is_refused_in_one_line(data, tmp_path, name):
    with pytest.raises(
        FileNotFoundError, match=f"There is no folder {name}, and no model of that name on the Hub"
    ) as caught:
        train(data, tmp_path / "tuned", model=name, **QUICK)
    assert "\n" not in str(caught.value)


def test_the_command_line_continues_a_model_on_a_log(run, tmp_path, capsys):
    ring(5, 25, 1).to_csv(tmp_path / "log.csv", index=False)
    words = ["train", str(tmp_path / "log.csv"), "--model", str(run), "--output_dir", str(tmp_path / "tuned")]
    words += ["--new_items", "mean", "--min_item_events", "1", "--max_steps", "1", "--use_cpu", "--disable_tqdm"]
    assert main(words) == 0
    assert "Items of run: 15 known, 5 new, 5 retired\n" in capsys.readouterr().out
    assert load_run(tmp_path / "tuned")[1].item_ids == load_data(tmp_path / "tuned.data").item_ids.to_pylist()
    assert main([*words[:5], str(tmp_path / "other"), "--hidden_size", "8"]) == 2
    assert capsys.readouterr().err.endswith("run has 16; leave it out, or train without --model.\n")
