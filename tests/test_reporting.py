"""What `report_to` names gets every figure that the run logs, once and without a network; what is missing is said at once."""

import importlib.util
import socket
import sys

import pytest

from hf_bert4rec import prepare, reporting, train
from hf_bert4rec.cli import main
from hf_bert4rec.run_folder import read_record

TINY = {"hidden_size": 16, "intermediate_size": 32, "use_cpu": True, "disable_tqdm": True, "num_train_epochs": 3}
AFTER_TRAINING = ("both_", "causal_", "masked_")  # readings are in the record
# The callback of trackio leaves out what is one number for the whole run.
OF_THE_WHOLE_RUN = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data", min_user_events=2)


@pytest.fixture
def asked(monkeypatch):
    """Addresses outside this machine that somebody wanted to talk to."""
    addresses, connect = [], socket.socket.connect

    def connected(self, address):
        if self.family != socket.AF_UNIX:
            addresses.append(address)
            raise OSError(f"no network in tests: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connected)
    return addresses


def logged(run):
    """What `Trainer` logged while it trained, each entry with its step; validation under `eval/`, the rest under `train/`."""
    entries = []
    for entry in read_record(run)["log_history"]:
        if not any(name.startswith(AFTER_TRAINING) for name in entry):
            values = {name: value for name, value in entry.items() if name != "step"}
            entries.append((entry["step"], values))
    assert (
        sum("eval_ndcg@10" in values for _, values in entries) == sum("loss" in values for _, values in entries) == 3
    )
    return entries


def tag(name):
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def test_tensorboard_has_every_figure_at_its_step(data, tmp_path, asked):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(data, tmp_path / "run", report_to="tensorboard", **TINY)
    (file,) = run.glob("runs/*/events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    found = {(event.step, name): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    expected = {(step, tag(name)): value for step, values in logged(run) for name, value in values.items()}
    assert found == pytest.approx(expected)
    assert {"eval/ndcg@10", "eval/recall@20", "train/loss", "train/learning_rate"} < {name for _, name in found}
    assert asked == []


def test_trackio_has_every_figure_of_one_run_in_a_local_project(data, tmp_path, asked, monkeypatch):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads TRACKIO_DIR when it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = train(data, tmp_path / "run", report_to="trackio", project="films", run_name="first", **TINY)
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (tracked,) = trackio.Api().runs("films")
    assert tracked.name == "first"
    assert tracked.config["hidden_size"] == 16
    found = [
        {name: value for name, value in entry.items() if name not in ("step", "timestamp")}
        for entry in SQLiteStorage.get_logs("films", "first", run_id=tracked.id)
    ]
    assert found == [
        {"train/global_step": step} | {tag(name): values[name] for name in values.keys() - OF_THE_WHOLE_RUN}
        for step, values in logged(run)
    ]
    assert (tmp_path / "trackio" / "films.db").exists()
    assert asked == []


@pytest.mark.parametrize(
    ("name", "extra"), [("codecarbon", "energy"), ("tensorboard", "report"), ("trackio", "report")]
)
def test_what_is_asked_for_and_not_installed_is_said_before_anything_is_made(
    tmp_path, monkeypatch, capsys, name, extra
):
    monkeypatch.setitem(reporting.REPORTERS, name, (lambda: False, reporting.REPORTERS[name][1]))
    output = ["--output_dir", str(tmp_path / "run"), "--report_to", name, "--use_cpu"]
    assert main(["train", str(tmp_path / "log.csv"), *output]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"hf-bert4rec train: report_to {name} needs {name}: pip install 'hf_bert4rec[{extra}]', or leave it out.\n"
    )
    assert list(tmp_path.iterdir()) == []
