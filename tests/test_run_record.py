"""What a run leaves in run.json: enough to repeat it, its time over all starts, and no path of the machine it ran on."""

import json
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file

from hf_bert4rec import prepare, run_record, train
from hf_bert4rec.cli import main
from hf_bert4rec.run_folder import read_record
from hf_bert4rec.run_record import RunClock, checkout_commit, hardware, peak_memory, train_command

TINY = {"hidden_size": 16, "intermediate_size": 32, "use_cpu": True, "disable_tqdm": True}
STEPS = {"num_train_epochs": 4, "per_device_train_batch_size": 4, "eval_steps": 2, "save_steps": 2, "logging_steps": 2}


@pytest.fixture
def log(interaction_log, tmp_path):
    (tmp_path / "logs").mkdir()
    interaction_log.to_csv(tmp_path / "logs" / "log.csv", index=False)
    return tmp_path / "logs" / "log.csv"


@pytest.fixture
def data(log, tmp_path):
    return prepare(log, tmp_path / "data", min_user_events=2)


def test_the_record_names_everything_that_a_repetition_needs(data, tmp_path):
    record = read_record(train(data, tmp_path / "run", seed=7, max_steps=2, **TINY))
    assert record["options"] == TINY | {"seed": 7, "max_steps": 2}
    assert record["seed"] == 7
    assert record["data_hash"] == data.content_hash()
    assert record["hardware"] == hardware()
    assert {"python", "torch", "transformers", "accelerate", "numpy"} <= record["versions"].keys()
    assert record["versions"]["torch"] == torch.__version__
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert record["num_parameters"] == sum(tensor.numel() for tensor in weights.values())
    (session,) = record["sessions"]
    assert (session["first_step"], session["last_step"]) == (0, 2)
    assert session["threads"] == torch.get_num_threads()
    assert session["accelerators"] == []
    assert record["wall_seconds"] == session["wall_seconds"] > 0
    assert record["cpu_seconds"] == session["cpu_seconds"] > 0
    assert session["peak_memory_bytes"] == pytest.approx(peak_memory(), rel=0.5)


def test_no_path_of_the_machine_is_in_the_record(log, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\ni1,One\n")
    run = train(log, tmp_path / "run", max_steps=1, items_file=str(tmp_path / "items.csv"), **TINY)
    text = (run / "run.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["data"]["report"]["log"] == "log.csv"
    assert json.loads(text)["training_arguments"]["output_dir"] == "run"


def test_the_recorded_commands_make_the_same_run_again(log, tmp_path, monkeypatch):
    options = {"causal_probability": 0.25, "lr_scheduler_kwargs": {}, "head_layer_norm": False, "max_steps": 2}
    run = train(prepare(log, tmp_path / "data", min_user_events=2), tmp_path / "run", **TINY, **options)
    commands = read_record(run)["commands"]
    assert commands[0] == "hf-bert4rec prepare log.csv --output_dir data --min_user_events 2"
    again = tmp_path / "again"
    again.mkdir()
    (again / "log.csv").write_bytes(log.read_bytes())
    monkeypatch.chdir(again)
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert read_record("run")["data_hash"] == read_record(run)["data_hash"]
    one, other = load_file(run / "model.safetensors"), load_file("run/model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_options_of_the_log_are_not_options_of_the_training_command(data):
    options = {"min_user_events": 2, "bf16": True, "report_to": ["none"], "recipe": "paper"}
    command = train_command(data, "run", options)
    assert command == "hf-bert4rec train data --output_dir run --bf16 --report_to '[\"none\"]' --recipe paper"


def test_time_is_added_up_over_the_starts_of_a_run(data, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    after_step = transformers.Trainer._maybe_log_save_evaluate

    def stop(self, *args, **kwargs):
        after_step(self, *args, **kwargs)
        if self.state.global_step == 5:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "_maybe_log_save_evaluate", stop)
        with pytest.raises(Stopped):
            train(data, tmp_path / "run", **TINY, **STEPS)
    left = json.loads((tmp_path / "run.partial" / "sessions.json").read_text())
    assert [(session["first_step"], session["last_step"]) for session in left] == [(0, 4)]
    record = read_record(train(data, tmp_path / "run", **TINY, **STEPS))
    assert [(session["first_step"], session["last_step"]) for session in record["sessions"]] == [(0, 4), (4, 12)]
    assert record["sessions"][0] == left[0]
    for name in ("wall_seconds", "cpu_seconds"):
        assert record[name] == pytest.approx(sum(session[name] for session in record["sessions"]))
    assert not (tmp_path / "run" / "sessions.json").exists()


def test_an_accelerator_is_named_and_processes_other_than_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Abacus {device.index}")
    arguments = SimpleNamespace(device=torch.device("cuda", 0), world_size=2)
    for is_first in (False, True):
        clock = RunClock(tmp_path / "sessions.json")
        clock.on_train_begin(arguments, SimpleNamespace(global_step=0, is_world_process_zero=is_first), None)
        assert clock.session["accelerators"] == ["Abacus 0", "Abacus 0"]
        assert (tmp_path / "sessions.json").exists() == is_first


def test_a_folder_inside_another_repository_does_not_have_its_commit(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "module.py").write_text("1")
    git("init"), git("add", "."), git("commit", "-m", "Begin")
    head = git("rev-parse", "--short", "HEAD")
    assert checkout_commit(tmp_path, "inside") == head
    assert checkout_commit(tmp_path / "inside", ".") is None
    (tmp_path / "inside" / "module.py").write_text("2")
    assert checkout_commit(tmp_path, "inside") == head + "+"
    assert checkout_commit(tmp_path, "elsewhere") == head


def test_what_a_system_does_not_tell_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(run_record, "Path", lambda name: tmp_path / "none")
    monkeypatch.setattr("os.sysconf_names", {})
    assert hardware()["memory_gib"] is None
    assert hardware()["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert peak_memory() is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, r"has no run\.json; give the folder of a run of hf-bert4rec train"),
        ("{", ValueError, r"run\.json cannot be read"),
        ("[]", ValueError, "is not the record of a run"),
        ('{"format": "other"}', ValueError, "is not the record of a run"),
    ],
)
def test_a_record_that_is_none_is_refused_in_one_line(tmp_path, text, error, message):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(error, match=message) as caught:
        read_record(Path(tmp_path))
    assert "\n" not in str(caught.value)
