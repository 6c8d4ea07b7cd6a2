"""What the benchmark measures with: logs, environments, the clock, memory, the useful arithmetic, our own launchers."""

import dataclasses
import doctest
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the installed package

from benchmarks import arithmetic, datasets, histories, measurement, runner  # noqa: E402
from benchmarks.arithmetic import useful_operations  # noqa: E402
from benchmarks.histories import Histories  # noqa: E402
from benchmarks.launchers.ours import Ours, prepared_data  # noqa: E402
from benchmarks.launchers.quality import main as train_for_quality  # noqa: E402
from benchmarks.measurement import StepClock, TimedEnough, check_lists, matrix_rate  # noqa: E402
from benchmarks.runner import LauncherFailed, Options, launch, prepared_task  # noqa: E402
from benchmarks.systems import SYSTEMS, python_of  # noqa: E402
from benchmarks.task import WARMUP_STEPS, Task  # noqa: E402
from hf_bert4rec import load_data  # noqa: E402


def test_useful_operations_are_those_of_every_product_written_out():
    d, f, num_layers, vocab_size, rho = 8, 24, 3, 50, 0.2

    def product(rows, inner, columns):
        return 3 * 2 * rows * inner * columns  # forward, and one more product for each operand's gradient

    expected = 0.0
    for n in (1, 4, 10, 20):
        m = max(1.0, rho * n)
        for queries in [n] * (num_layers - 1) + [m]:
            expected += 2 * product(queries, d, d) + 2 * product(n, d, d)  # queries, output; keys, values
            expected += product(queries, d, n) + product(queries, n, d)  # scores of all heads; weighted values
            expected += product(queries, d, f) + product(queries, f, d)
        expected += product(m, d, d) + product(m, d, vocab_size)
    sizes = {"hidden_size": d, "intermediate_size": f, "num_hidden_layers": num_layers}
    found = useful_operations(np.array([1, 4, 10, 20]), vocab_size, mlm_probability=rho, **sizes)
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_clock_counts_the_steps_after_the_warm_up_and_stops_a_loop_without_end():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight])
    with pytest.raises(TimedEnough), StepClock(3) as clock:
        while True:
            weight.grad = torch.ones(1)
            optimizer.step()
    cpu, wall = clock.seconds()
    assert len(cpu) == len(wall) == 3 and min(wall) > 0
    optimizer.step()
    assert len(clock.times) == WARMUP_STEPS + 4  # the hook is gone
    with pytest.raises(ValueError, match="2 of them to warm up"), StepClock(3) as clock:
        clock.seconds()


def test_memory_and_rate_follow_what_the_process_does():
    # In a process of its own: in this one an earlier test may have peaked far above what it still holds.
    code = "before = peak_memory(); block = np.ones(2**23); print((peak_memory() - before) / block.nbytes)"
    code = f"import numpy as np; from benchmarks.measurement import peak_memory; {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < 2
    assert matrix_rate(torch.float32, repeats=3) > 1e8


def test_of_products_that_take_long_few_are_timed(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(measurement.time, "process_time", lambda: float(next(now)))
    assert matrix_rate(torch.float32) == 2 * measurement.MATRIX_SIZE**3  # a second each
    assert next(now) == 2 * measurement.MATRIX_SECONDS  # the clock was read before and after each


def test_lists_with_seen_unknown_or_too_few_items_are_refused():
    known = Histories(np.array([7]), np.arange(1, 41), np.array([0, 40]))
    users = np.array([0])
    good = list(range(1, 11))
    check_lists({7: good}, known, users, filters_seen=False)
    check_lists({7: [str(item) for item in good]}, known, users, filters_seen=False)
    for wrong, filters_seen, why in (
        (good, True, "seen before"),
        (good[:9], False, "not 10 different"),
        ([*good[:9], 1], False, "not 10 different"),
        ([*good[:9], 99], False, "not 10 different"),
    ):
        with pytest.raises(ValueError, match=why):
            check_lists({7: wrong}, known, users, filters_seen)
    with pytest.raises(ValueError, match="not 10 different"):
        check_lists({}, known, users, filters_seen=False)


def test_a_launcher_that_falls_says_why_in_one_line(tmp_path):
    with pytest.raises(LauncherFailed, match=r"^ModuleNotFoundError: No module named '\w+' \(the rest is in .*log\)$"):
        launch(Path(sys.executable), "rectools", Options(None, tmp_path), tmp_path / "log")


def test_the_commit_is_marked_where_what_runs_was_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    assert runner.commit() == "unknown"

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for path in ("hf_bert4rec/losses.py", "benchmarks/cli.py", "benchmarks/results/speed.json", "README.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1")
    git("init"), git("add", "."), git("commit", "-m", "Begin")
    head = git("rev-parse", "--short", "HEAD")
    for path in ("benchmarks/results/speed.json", "README.md"):
        (tmp_path / path).write_text("2")
    assert runner.commit() == head
    (tmp_path / "hf_bert4rec" / "new.py").write_text("3")
    assert runner.commit() == head + "+"
    (tmp_path / "hf_bert4rec" / "new.py").unlink()
    (tmp_path / "benchmarks" / "cli.py").write_text("4")
    assert runner.commit() == head + "+"


def test_an_environment_is_made_once_and_again_when_requirements_change(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("benchmarks.systems.subprocess.run", lambda command, **_: commands.append(command))
    (tmp_path / "recbole").mkdir()
    python = python_of(SYSTEMS["recbole"], tmp_path)
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert {"recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<3"} <= set(commands[1])
    assert python_of(SYSTEMS["recbole"], tmp_path) == python and len(commands) == 2
    (tmp_path / "recbole" / ".installed").write_text("recbole==1.0")
    python_of(SYSTEMS["recbole"], tmp_path)
    assert len(commands) == 4
    assert python_of(SYSTEMS["ours"], tmp_path) == Path(sys.executable)


def test_a_log_that_is_missing_or_another_one_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of logs was given; give --data"):
        datasets.prepared_histories("beauty", None, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no amazon-beauty/beauty\.txt\.gz"):
        datasets.prepared_histories("beauty", tmp_path, tmp_path)
    (tmp_path / "amazon-beauty").mkdir()
    np.savetxt(tmp_path / "amazon-beauty" / "beauty.txt.gz", np.ones((3, 2)), fmt="%d")
    with pytest.raises(ValueError, match=r"\(1, 1, 3\) users, items and events, expected \(40226, 54542, 353962\)"):
        datasets.prepared_histories("beauty", tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["ml-1m", "beauty"])
def test_histories_of_real_logs_are_in_the_papers_order(tmp_path, real_data, name):
    found = Histories.load(datasets.prepared_histories(name, real_data, tmp_path))
    assert (found.num_users, found.num_items, len(found.items)) == datasets.DATASETS[name].shape
    assert found.user_ids[0] == 1
    newest = {"ml-1m": 48, "beauty": 42}[name]  # the first user's last item
    assert found.items[found.offsets[1] - 1] == newest


def test_columns_hold_the_chosen_users_without_their_newest_events():
    known = Histories(np.array([7, 8, 9]), np.arange(1, 13), np.array([0, 3, 7, 12]))
    columns = known.columns(1, np.array([0, 2]))
    assert columns["user_id"].tolist() == [7, 7, 9, 9, 9, 9]
    assert columns["item_id"].tolist() == [1, 2, 8, 9, 10, 11]
    assert columns["time"].tolist() == [0, 1, 0, 1, 2, 3]
    assert known.sampled_users(2).tolist() == known.sampled_users(2).tolist() and len(known.sampled_users(2)) == 2
    assert known.sampled_users(99).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def generated_task(tmp_path_factory):
    """A task on the generated log, and its histories."""
    folder = tmp_path_factory.mktemp("generated")
    task = prepared_task("generated", Options(None, folder), 2, {"attention_dropout": 0.0, "bf16": False})
    return task, Histories.load(task.histories)


def test_the_variants_and_sizes_of_ours_reach_the_training(generated_task):
    task, known = generated_task
    for variant in ({"attention_dropout": 0.0, "bf16": True}, {"attention_dropout": 0.2, "bf16": False}):
        launcher = Ours(dataclasses.replace(task, variant=variant), known)
        launcher.train(3)
        config = json.loads((launcher.run / "config.json").read_text())
        record = json.loads((launcher.run / "run.json").read_text())
        assert config["attention_probs_dropout_prob"] == variant["attention_dropout"]
        assert record["training_arguments"]["bf16"] == variant["bf16"]
        assert (config["hidden_size"], config["intermediate_size"], config["hidden_dropout_prob"]) == (64, 256, 0.2)
        assert (config["num_hidden_layers"], config["num_attention_heads"]) == (2, 2)
        assert config["max_position_embeddings"] == datasets.DATASETS["generated"].max_length
        assert (record["sequence_options"]["mlm_probability"], record["global_step"]) == (0.2, 3)
        assert record["sequence_options"]["last_item_probability"] == 0
        assert record["training_arguments"]["per_device_train_batch_size"] == 128


def test_ours_reads_the_log_with_the_held_out_items_of_the_others(generated_task):
    task, known = generated_task
    data = load_data(prepared_data(task, known))
    assert (data.num_users, data.num_items, data.num_events) == datasets.DATASETS["generated"].shape
    trained_on = sum(len(part) for part in known.without_last(2))
    assert int(data.train_end.sum()) == trained_on == data.num_events - 2 * data.num_users


def test_a_short_training_for_quality_depends_on_seed_and_precision(generated_task, tmp_path, monkeypatch):
    task, _ = generated_task
    losses = []
    for seed, bf16 in ((0, False), (1, False), (0, True)):
        variant = {"seed": seed, "bf16": bf16, "epochs": 6}
        dataclasses.replace(task, variant=variant).write(tmp_path / "task.json")
        monkeypatch.setattr(sys, "argv", ["quality", str(tmp_path / "task.json"), str(tmp_path / "result.json")])
        train_for_quality()
        found = json.loads((tmp_path / "result.json").read_text())
        low, high = found["metrics"]["intervals"]["ndcg@10"]
        assert 0 <= low <= found["metrics"]["ndcg@10"] <= high <= 1 and found["cpu_seconds"] > 0
        losses.append(found["metrics"]["mrr"])
    assert len(set(losses)) == 3


def test_a_task_is_read_as_it_was_written(tmp_path):
    task = Task("h.npz", "folder", 50, num_steps=3, variant={"bf16": True})
    task.write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == task
    assert task.steps_of(1000) == 3
    assert Task("h.npz", "folder", 50).steps_of(1000) == 8  # 1000 / 128, the small last batch too


@pytest.mark.parametrize("module", [arithmetic, histories], ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
