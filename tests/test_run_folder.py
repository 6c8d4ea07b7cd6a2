"""What a run leaves on disk when it is stopped at the worst moment: the newest whole checkpoint, the old run or the new."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer
from hf_bert4rec.run_folder import begin, data_of_run, finish, last_checkpoint, load_run

DATA = SimpleNamespace(content_hash=lambda: "a")
OTHER_DATA = SimpleNamespace(content_hash=lambda: "b")
OPTIONS = {"learning_rate": 0.01, "betas": (0.9, 0.98), "logging_dir": Path("logs")}


def add_checkpoint(partial, number, state="{}"):
    folder = partial / f"checkpoint-{number}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


@pytest.fixture
def partial(tmp_path):
    """A run that has come to its end: begun, with a checkpoint, model and record written."""
    folder = tmp_path / "run.partial"
    begin(folder, OPTIONS, DATA, overwrite=False)
    add_checkpoint(folder, 5)
    (folder / "model.safetensors").write_text("new")
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def old_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_text("old")
    (folder / "of_the_old_run").touch()
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "none") is None


def test_the_newest_checkpoint_is_the_highest_number_not_the_last_in_the_alphabet(tmp_path):
    for number in (9, 100, 10):
        add_checkpoint(tmp_path, number)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-100", "checkpoint-9"]  # whole ones stay


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1'], ids=["no", "an empty", "half a"])
def test_a_checkpoint_with_a_broken_state_is_passed_over_and_removed(tmp_path, state):
    whole = add_checkpoint(tmp_path, 9)
    add_checkpoint(tmp_path, 10, state)
    assert last_checkpoint(tmp_path) == str(whole)
    assert names(tmp_path) == ["checkpoint-9"]
    shutil.rmtree(whole)
    add_checkpoint(tmp_path, 11, state)
    assert last_checkpoint(tmp_path) is None
    assert names(tmp_path) == []


def test_a_new_run_makes_its_folder_and_the_same_options_resume_it(tmp_path):
    partial = tmp_path / "deep" / "run.partial"
    begin(partial, OPTIONS, DATA, overwrite=False)
    checkpoint = add_checkpoint(partial, 1)
    for overwrite in (False, True):  # a killed run that overwrites another resumes too
        begin(partial, OPTIONS, DATA, overwrite=overwrite)
        assert last_checkpoint(partial) == str(checkpoint)


REFUSED = [
    (OPTIONS | {"learning_rate": 0.5}, DATA, r"was begun with learning_rate 0\.01, now it is 0\.5; repeat the same"),
    (
        OPTIONS | {"seed": 1},
        DATA,
        "was begun with seed by default, now it is 1; repeat the same options and data to resume",
    ),
    ({"learning_rate": 0.01, "betas": (0.9, 0.98)}, DATA, "begun with logging_dir logs, now it is by default"),
    (OPTIONS, OTHER_DATA, "was begun on other data; repeat the same .* or give --overwrite_output_dir"),
]


@pytest.mark.parametrize(("options", "data", "message"), REFUSED)
def test_other_options_or_data_are_refused_or_begin_anew_on_demand(tmp_path, options, data, message):
    partial = tmp_path / "run.partial"
    begin(partial, OPTIONS, DATA, overwrite=False)
    checkpoint = add_checkpoint(partial, 1)
    with pytest.raises(ValueError, match=message):
        begin(partial, options, data, overwrite=False)
    assert checkpoint.is_dir()
    begin(partial, options, data, overwrite=True)
    assert last_checkpoint(partial) is None
    begin(partial, options, data, overwrite=False)  # what was begun anew is now what resumes


@pytest.mark.parametrize(("options", "data", "_"), REFUSED)
def test_a_run_that_never_came_to_a_checkpoint_is_begun_anew(tmp_path, options, data, _):
    partial = tmp_path / "run.partial"
    begin(partial, OPTIONS, DATA, overwrite=False)
    begin(partial, options, data, overwrite=False)
    add_checkpoint(partial, 1)
    begin(partial, options, data, overwrite=False)
    assert last_checkpoint(partial) is not None


def log_of(items):
    rows = [(user, item, time) for user in range(5) for time, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def test_a_log_is_prepared_beside_the_run_by_its_first_process(tmp_path):
    options = {"min_user_events": 1, "min_item_events": 1}
    found = data_of_run(log_of("abc"), tmp_path / "run", options, overwrite=False, is_first=True)
    assert (names(tmp_path), list(found.item_ids.to_pylist())) == (["run.data"], ["a", "b", "c"])
    for same in (log_of("abc"), found, found.folder, str(found.folder)):
        again = data_of_run(same, tmp_path / "run", {}, overwrite=False, is_first=False)
        assert again.content_hash() == found.content_hash()
    with pytest.raises(
        ValueError, match=r"run\.data is prepared already; min_user_events, min_item_events can only be"
    ):
        data_of_run(found.folder, tmp_path / "run", options, overwrite=False, is_first=True)


def test_a_stopped_run_goes_on_with_its_own_log_alone(tmp_path):
    options, run = {"min_user_events": 1, "min_item_events": 1}, tmp_path / "run"

    def of_run(items, overwrite=False):
        data = data_of_run(log_of(items), run, options, overwrite=overwrite, is_first=True)
        return "".join(sorted(data.item_ids.to_pylist()))

    of_run("abc")
    (tmp_path / "run.partial").mkdir()
    assert of_run("abd") == "abd"  # nothing was learned yet
    add_checkpoint(tmp_path / "run.partial", 1)
    assert of_run("abd") == "abd"
    for other in ("abc", "adb"):  # another item, another order
        with pytest.raises(
            ValueError, match=r"run\.partial was begun with other events than this log gives; repeat the same"
        ):
            of_run(other)
    assert of_run("abd") == "abd"
    assert names(tmp_path) == ["run.data", "run.partial"]
    assert of_run("abc", overwrite=True) == "abc"


def test_a_finished_run_is_renamed_whole_without_what_only_resuming_needs(partial, tmp_path):
    add_checkpoint(partial, 10)
    finish(partial, tmp_path / "run")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["model.safetensors", "run.json"]


def test_a_finished_run_replaces_the_old_one_whole(partial, old_run, tmp_path):
    finish(partial, old_run)
    assert names(tmp_path) == ["run"]
    assert names(old_run) == ["model.safetensors", "run.json"]
    assert (old_run / "model.safetensors").read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_crash_between_the_renames_leaves_the_old_run(partial, old_run, monkeypatch, error):
    rename = Path.rename

    def fail_for_the_new_run(path, target):
        if path == partial:
            raise error("stopped")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_run)
    with pytest.raises(error):
        finish(partial, old_run)
    assert old_run.is_dir(), "the old run is lost"
    assert names(old_run) == ["model.safetensors", "of_the_old_run"]


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    config = Bert4RecConfig(vocab_size=6, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    Bert4RecForMaskedLM(config).save_pretrained(folder)
    Bert4RecTokenizer.from_items(["a", "b", "c"]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"num_hidden_layers": 3}, r"not those of its config.json \(\d+ missing, such as bert4rec.encoder.layer.2"),
        ({"num_hidden_layers": 1}, r"not those of its config.json \(\d+ unexpected, such as bert4rec.encoder.layer.1"),
        (
            {"max_position_embeddings": 20},
            r"not those of its config.json \(1 mismatched, such as .*position_embeddings",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused_and_never_drawn_at_random(model_folder, changed, match):
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ValueError, match=match):
        load_run(model_folder)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", "[1]", "holds a model of type None, not 'bert4rec'"),
        ("tokenizer.json", "", "The tokenizer in .*model cannot be read .*; copy the model again"),
        ("tokenizer.json", "[1]", "The tokenizer in .*model cannot be read"),
        ("tokenizer.json", "{}", "The tokenizer in .*model cannot be read"),
        ("tokenizer_config.json", "[1]", "The tokenizer in .*model cannot be read"),
    ],
)
def test_a_damaged_file_of_a_model_is_one_line_that_names_the_folder(model_folder, name, content, match):
    assert load_run(model_folder)[1].item_ids == ["a", "b", "c"]
    (model_folder / name).write_text(content)
    with pytest.raises(ValueError, match=match) as caught:
        load_run(model_folder)
    assert "\n" not in str(caught.value)


def test_the_tokenizer_of_another_model_is_refused(model_folder):
    Bert4RecTokenizer.from_items(["a", "b", "c", "d"]).save_pretrained(model_folder)
    with pytest.raises(ValueError, match="model has 3 items, its tokenizer 4; copy the two that belong together"):
        load_run(model_folder)
