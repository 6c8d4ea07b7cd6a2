"""One run: the same weights however it is cut, stopped or spread; whole or absent; nothing held out is trained on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from hf_bert4rec import compare, load_data, prepare, train
from hf_bert4rec.run_folder import load_run

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "use_cpu": True,
    "disable_tqdm": True,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "learning_rate": 0.01, "warmup_steps": 0, "early_stopping_patience": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """67 users around a ring of 30 items with random steps: a prime number, so that batches never come out even."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(67):
        item = random.integers(30)
        for time in range(random.integers(3, 25)):
            item = (item + random.integers(1, 4)) % 30
            rows.append((f"u{user}", f"i{item}", time))
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return prepare(log, tmp_path_factory.mktemp("log") / "data", min_user_events=1, min_item_events=1)


def weights(run):
    return load_file(Path(run) / "model.safetensors")


def losses(run):
    history = json.loads((Path(run) / "run.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def validation(run):
    history = json.loads((Path(run) / "run.json").read_text())["log_history"]
    return [entry["eval_ndcg@10"] for entry in history if "eval_ndcg@10" in entry]


def largest_difference(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def in_a_process(data, output_dir, options, launcher=(), stop_at=None):
    """Train in a process of its own, which dies without a word after step `stop_at`."""
    # As many threads as here: another number adds up in another order.
    script = f"""
import os, sys
import transformers
from hf_bert4rec import train
if {stop_at!r}:
    after_step = transformers.Trainer._maybe_log_save_evaluate
    def stop(self, *args, **kwargs):
        after_step(self, *args, **kwargs)
        if self.state.global_step == {stop_at!r}:
            os.kill(os.getpid(), 9)
    transformers.Trainer._maybe_log_save_evaluate = stop
train({str(data.folder)!r}, {str(output_dir)!r}, **{options!r})
"""
    file = output_dir.with_suffix(".py")
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run([sys.executable, *launcher, str(file)], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("causal_probability", [0.0, 0.5, 1.0])
def test_four_accumulated_batches_are_one_batch_of_four_times_the_size(data, tmp_path, causal_probability):
    options = TINY | NO_DROPOUT | {"num_train_epochs": 2, "load_best_model_at_end": False}
    # Adam makes whole steps of gradients that are nothing but rounding: at a usual rate they stay below the bound.
    options |= {"causal_probability": causal_probability, "learning_rate": 1e-3}
    train(data, tmp_path / "whole", per_device_train_batch_size=16, **options)
    train(data, tmp_path / "parts", per_device_train_batch_size=4, gradient_accumulation_steps=4, **options)
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-5
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "parts"), abs=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "gbce"])
def test_two_processes_train_and_validate_like_one(data, tmp_path, loss):
    options = TINY | NO_DROPOUT | {"training_loss": loss} | {"num_train_epochs": 2, "load_best_model_at_end": False}
    # The mean over more negatives would make gradients of gBCE so small that Adam steps by their rounding too.
    options["num_negatives"] = 256
    train(data, tmp_path / "one", per_device_train_batch_size=16, **options)
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    options["per_device_train_batch_size"] = 8
    done = in_a_process(data, tmp_path / "two", options, launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["num_processes"] == 2
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-5
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-5)
    assert validation(tmp_path / "one") == pytest.approx(validation(tmp_path / "two"), abs=1e-9)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_a_run_killed_within_an_epoch_resumes_to_the_same_weights_bit_for_bit(data, tmp_path, loss):
    options = (
        TINY
        | {"training_loss": loss, "num_negatives": 5}
        | {"num_train_epochs": 3, "per_device_train_batch_size": 16, "save_steps": 3, "eval_steps": 3}
    )
    options |= {"attention_probs_dropout_prob": 0.1, "learning_rate": 0.01, "early_stopping_patience": 3}
    train(data, tmp_path / "whole", **options)
    killed = in_a_process(data, tmp_path / "stopped", options, stop_at=8)  # an epoch has five steps
    assert killed.returncode == -signal.SIGKILL
    partial = tmp_path / "stopped.partial"
    assert (partial / "checkpoint-6").is_dir()
    assert not (tmp_path / "stopped").exists()
    # A checkpoint that was being written: everything but the file that is written last.
    unfinished = partial / "checkpoint-9"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes((partial / "checkpoint-6" / "model.safetensors").read_bytes())
    train(data, tmp_path / "stopped", **options)
    assert largest_difference(tmp_path / "whole", tmp_path / "stopped") == 0
    assert validation(tmp_path / "whole") == validation(tmp_path / "stopped")
    assert not partial.exists()


def test_a_sampled_loss_leaves_the_rows_alone_that_a_step_does_not_touch(data, tmp_path):
    options = TINY | {"training_loss": "gbce", "num_negatives": 1, "max_steps": 1, "per_device_train_batch_size": 1}
    items = []
    for weight_decay in (0.0, 0.5):
        run = train(data, tmp_path / str(weight_decay), **options, warmup_steps=0, weight_decay=weight_decay)
        items.append(weights(run)["bert4rec.embeddings.word_embeddings.weight"][3:])
    is_untouched = (items[0] == items[1]).all(1)
    assert is_untouched.any() and not is_untouched.all()


def test_validation_holds_a_bounded_number_of_scores_and_its_ranks_do_not_depend_on_it(data, tmp_path, monkeypatch):
    options = TINY | {"max_steps": 1, "per_device_train_batch_size": 16}

    def batch_size(run):
        record = json.loads((tmp_path / run / "run.json").read_text())
        return record["training_arguments"]["per_device_eval_batch_size"]

    train(data, tmp_path / "default", **options)
    monkeypatch.setattr("hf_bert4rec.training.SCORES_AT_ONCE", 4 * (data.num_items + 3))
    train(data, tmp_path / "bounded", **options)
    train(data, tmp_path / "given", **options, per_device_eval_batch_size=5)
    assert [batch_size(run) for run in ("default", "bounded", "given")] == [256, 4, 5]
    assert validation(tmp_path / "default") == pytest.approx(validation(tmp_path / "bounded"))


def test_the_best_weights_are_kept_not_the_last(data, tmp_path):
    steps = {"num_train_epochs": 6, "per_device_train_batch_size": 16, "learning_rate": 0.3, "recipe": "default"}
    options = TINY | NO_DROPOUT | steps | {"lr_scheduler_type": "constant"}
    train(data, tmp_path / "best", **options)
    train(data, tmp_path / "last", **options, load_best_model_at_end=False)
    scores = validation(tmp_path / "best")
    assert max(scores) > scores[-1], "the run must get worse at the end for this test to say something"
    assert json.loads((tmp_path / "best" / "run.json").read_text())["best_metric"] == pytest.approx(max(scores))
    assert largest_difference(tmp_path / "best", tmp_path / "last") > 0


def test_training_stops_early_when_validation_gets_no_better(data, tmp_path):
    options = TINY | {"num_train_epochs": 12, "per_device_train_batch_size": 16, "learning_rate": 0.05}
    train(data, tmp_path / "patient", **options, early_stopping_patience=0)
    train(data, tmp_path / "hasty", **options, early_stopping_patience=1)
    assert len(validation(tmp_path / "hasty")) < len(validation(tmp_path / "patient")) == 12


@pytest.mark.parametrize(
    "change",
    [
        {"mlm_probability": 0.6},
        {"last_item_probability": 0.9},
        {"mask_replace_prob": 0.5},
        {"mask_replace_prob": 0.5, "random_replace_prob": 0.5},
        {"window": "newest"},
        {"causal_probability": 0.0},
        {"causal_probability": 1.0},
        {"norm_position": "post"},
        {"position_origin": "oldest"},
        {"learning_rate": 0.004},
        {"seed": 1},
        {"bf16": True},
        {"training_loss": "bce"},
    ],
    ids=str,
)
def test_every_kind_of_option_reaches_the_run(data, tmp_path, change):
    options = TINY | {"max_steps": 2, "per_device_train_batch_size": 16, "max_position_embeddings": 5}
    train(data, tmp_path / "default", **options)
    train(data, tmp_path / "changed", **(options | change))
    one, other = weights(tmp_path / "default"), weights(tmp_path / "changed")
    same_names = one.keys() & other.keys()
    assert any(one[name].shape != other[name].shape or not torch.equal(one[name], other[name]) for name in same_names)


def test_the_folder_loads_with_the_auto_classes_and_holds_no_pickle(data, tmp_path):
    run = train(data, tmp_path / "run", max_steps=1, **TINY)
    assert {path.name for path in run.iterdir()} - {"validation.png"} == {  # a picture where there is matplotlib
        "config.json", "model.safetensors", "run.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert type(AutoModelForMaskedLM.from_pretrained(run)).__name__ == "Bert4RecForMaskedLM"
    assert type(AutoModel.from_pretrained(run)).__name__ == "Bert4RecModel"
    assert AutoTokenizer.from_pretrained(run).item_ids == data.item_ids.to_pylist()


def test_a_log_is_prepared_and_trained_in_one_call_and_integers_stay_integers(interaction_log, tmp_path):
    log = interaction_log.assign(item_id=interaction_log.item_id.str[1:].astype(int))
    run = train(log, tmp_path / "run", max_steps=1, min_user_events=2, **TINY)
    assert (tmp_path / "run.data" / "data.json").exists()
    assert sorted(load_run(run)[1].item_ids) == list(range(10))


def test_users_without_a_target_are_trained_on_and_the_last_weights_kept(tmp_path, caplog):
    log = pd.DataFrame({"user_id": list("aabbcc"), "item_id": list("xyyzzx"), "timestamp": range(6)})
    with caplog.at_level("WARNING"):
        run = train(log, tmp_path / "run", max_steps=1, min_user_events=1, min_item_events=1, **TINY)
    assert "nothing to validate on" in caplog.text
    assert json.loads((run / "run.json").read_text())["best_metric"] is None


def test_an_existing_run_is_refused_untouched_or_replaced_on_demand(data, tmp_path):
    run = train(data, tmp_path / "run", max_steps=1, **TINY)
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"run exists; give another folder, or --overwrite_output_dir"):
        train(data, run, max_steps=2, **TINY)
    assert (run / "model.safetensors").read_bytes() == before
    train(data, run, max_steps=1, overwrite=True, seed=1, **TINY)
    assert (run / "model.safetensors").read_bytes() != before


def test_data_and_folders_of_others_are_never_replaced_by_a_run(data, tmp_path):
    letter = tmp_path / "home" / "letters" / "letter.txt"
    letter.parent.mkdir(parents=True)
    letter.write_text("mine")
    for folder in (data.folder, tmp_path / "home", letter):
        with pytest.raises(
            FileExistsError, match=r"is no earlier output of this command .* stays; give another folder"
        ):
            train(data, folder, max_steps=1, overwrite=True, **TINY)
    assert (data.folder / "data.json").exists()
    assert letter.read_text() == "mine"
    train(data, letter.parent, max_steps=1, overwrite=True, **TINY)  # a file alone does not protect its folder
    assert (letter.parent / "run.json").exists() and not letter.exists()


def test_a_run_that_holds_its_data_is_not_replaced(data, tmp_path):
    run = train(data, tmp_path / "run", max_steps=1, **TINY)
    shutil.copytree(data.folder, run / "data")
    log = run / "log.csv"
    log.write_text("user_id,item_id,timestamp\na,x,1\n")
    for inside in (run / "data", load_data(run / "data"), log):
        with pytest.raises(FileExistsError, match=r"run holds .*, which would be deleted with it, and stays"):
            train(inside, run, max_steps=1, overwrite=True, **TINY)
    vectors = run / "vectors.parquet"
    pd.DataFrame({"item_id": ["new"], "vector": [np.zeros(16)]}).to_parquet(vectors)
    with pytest.raises(FileExistsError, match=r"run holds .*vectors\.parquet, which would be deleted"):
        train(data, run, max_steps=1, overwrite=True, model=run, new_items=vectors)
    assert (run / "data" / "data.json").exists() and log.exists() and vectors.exists()
    train(data, run, max_steps=1, overwrite=True, **TINY)
    assert not log.exists()


def test_a_partial_run_with_other_options_is_not_resumed_by_mistake(data, tmp_path):
    options = TINY | {"max_steps": 4, "save_steps": 1, "eval_steps": 1, "per_device_train_batch_size": 16}
    assert in_a_process(data, tmp_path / "run", options, stop_at=2).returncode == -signal.SIGKILL
    with pytest.raises(ValueError, match=r"was begun with learning_rate by default, now it is 0\.5; repeat the same"):
        train(data, tmp_path / "run", learning_rate=0.5, **options)
    assert (tmp_path / "run.partial" / "checkpoint-2").is_dir()


def test_a_misspelt_option_names_the_closest_one(data, tmp_path):
    with pytest.raises(ValueError, match="no option 'mlm_probabilty'; did you mean 'mlm_probability'"):
        train(data, tmp_path / "run", mlm_probabilty=0.3)


@pytest.mark.parametrize(("name", "value"), [("train_sampling_strategy", "random"), ("fsdp", "full_shard")])
def test_an_option_that_would_break_a_run_is_refused(data, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is '{value}', but order, metrics or weights need"):
        train(data, tmp_path / "run", **{name: value})


def test_options_of_a_log_are_refused_for_prepared_data(data, tmp_path):
    with pytest.raises(ValueError, match="is prepared already; min_rating can only be given with a log"):
        train(data.folder, tmp_path / "run", min_rating=3)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda run: None, None, None),
        (lambda run: (run / "model.safetensors").unlink(), FileNotFoundError, "has no model.safetensors"),
        (lambda run: (run / "tokenizer.json").unlink(), FileNotFoundError, "has no tokenizer.json"),
        (lambda run: (run / "config.json").write_text("{"), ValueError, "config.json cannot be read"),
        (
            lambda run: (run / "config.json").write_text('{"model_type": "bert"}'),
            ValueError,
            "type 'bert', not 'bert4rec'",
        ),
        (lambda run: (run / "model.safetensors").write_bytes(b"\0" * 9), ValueError, "model.safetensors is damaged"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_in_one_line(data, tmp_path, damage, error, message):
    run = train(data, tmp_path / "run", max_steps=1, **TINY)
    damage(run)
    if error is None:
        assert load_run(run)[0].config.vocab_size == data.num_items + 3
        return
    with pytest.raises(error, match=message) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_points_to_the_unfinished_run_beside_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"There is no folder {tmp_path / 'run'}; check the path")):
        load_run(tmp_path / "run")
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "options.json").touch()
    with pytest.raises(ValueError, match="is an unfinished run"):
        load_run(tmp_path / "run.partial")
    with pytest.raises(FileNotFoundError, match=r"run\.partial is an unfinished run: repeat its command"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("causal_probability", "model_class", "reading"),
    [
        (0.0, "Bert4RecForMaskedLM", "masked"),
        (1.0, "Bert4RecForCausalLM", "causal"),
    ],
)
def test_a_model_is_ranked_by_what_it_was_trained_on(data, tmp_path, causal_probability, model_class, reading):
    folder = train(data, tmp_path / "run", causal_probability=causal_probability, **TINY)
    model, _ = load_run(folder)
    assert (model.config.architectures, model.config.reading) == ([model_class], reading)
    record = json.loads((folder / "run.json").read_text())
    result = compare(model, data, split="validation")["model"]
    assert result["ndcg@10"] == pytest.approx(record["best_metric"], abs=1e-6)
    assert record["readings"] == {}


def test_a_model_of_both_objectives_is_read_as_validation_says_unless_the_user_says_how(data, tmp_path):
    record = json.loads((train(data, tmp_path / "run", causal_probability=0.5, **TINY) / "run.json").read_text())
    model, _ = load_run(tmp_path / "run")
    found = {}
    for reading in ("both", "causal", "masked"):
        chosen, model.config.reading = model.config.reading, reading
        found[reading] = compare(model, data, split="validation")["model"]["ndcg@10"]
        model.config.reading = chosen
    assert record["readings"] == pytest.approx(found, abs=1e-6)
    assert len(set(found.values())) == 3
    assert model.config.reading == max(found, key=found.get)
    assert found["both"] == pytest.approx(record["best_metric"], abs=1e-6)

    train(data, tmp_path / "loss", causal_probability=0.5, metric_for_best_model="eval_loss", **TINY)
    record = json.loads((tmp_path / "loss" / "run.json").read_text())
    assert load_run(tmp_path / "loss")[0].config.reading == min(record["readings"], key=record["readings"].get)
    assert record["best_metric"] == min(e["eval_loss"] for e in record["log_history"] if "eval_loss" in e)

    train(data, tmp_path / "given", causal_probability=0.5, reading="both", **TINY)
    assert load_run(tmp_path / "given")[0].config.reading == "both"
