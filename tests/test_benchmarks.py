"""The benchmark's table says what was measured, and one system's fall takes no other along."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the installed package

from benchmarks import cli, quality  # noqa: E402
from benchmarks.ratios import TARGETS, ratios  # noqa: E402
from benchmarks.results import Results  # noqa: E402
from benchmarks.runner import LauncherFailed  # noqa: E402
from benchmarks.systems import SYSTEMS  # noqa: E402
from benchmarks.table import speed_report  # noqa: E402


def figures(system, dataset="ml-1m", **changes):
    """A row with round numbers: 10 s a pass, 100 users/s, 300 MB above the import, 1 GFLOP/s."""
    row = {
        "dataset": dataset,
        "system": system,
        "threads": 1,
        "hardware": {"cpu": "abacus", "cpu_count": 1, "memory_gib": 1},
        "commit": "c0ffee",
        "date": "2001-01-01",
        "versions": {"torch": "2"},
        "command": f"python -m benchmarks speed --systems {system} --datasets {dataset}",
        "cpu_seconds_per_pass": 10.0,
        "wall_seconds_per_pass": 11.0,
        "step_cpu_seconds": [1.0, 1.0],
        "users_per_cpu_second": 100.0,
        "filters_seen": True,
        "peak_bytes": 400e6,
        "peak_training_bytes": 390e6,
        "import_bytes": 100e6,
        "matrix_rate": {"float32": 1e9, "bfloat16": 2e9},
        "useful_operations": 4e9,
    }
    return row | changes


def cells(report, title):
    """The cells of the first line of a report that begins with a title."""
    line = next(line for line in report.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """Ours and the plain model on the generated log, as a person starts it."""
    folder = tmp_path_factory.mktemp("benchmark")
    options = ["--datasets", "generated", "--systems", "ours", "plain", "--steps", "2", "--users", "20"]
    folders = ["--peers_dir", str(folder / "peers"), "--output_dir", str(folder / "results")]
    command = [sys.executable, "-m", "benchmarks", "speed", *options, *folders]
    environment = {name: value for name, value in os.environ.items() if name != "BERT4REC_DATA"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results", json.loads((folder / "results" / "speed.json").read_text())


def test_the_short_form_stores_each_figure_with_what_it_takes_to_repeat_it(short_run):
    _, rows = short_run
    assert [row["system"] for row in rows] == ["ours", "plain"]
    for row in rows:
        words = shlex.split(row["command"])
        assert words[:3] == ["python", "-m", "benchmarks"]
        again = cli.build_parser().parse_args(words[3:])
        assert (again.systems, again.datasets) == ([row["system"]], ["generated"])
        assert (again.steps, again.users, again.threads) == (2, 20, 1)
        assert {"torch", "numpy", "transformers"} <= set(row["versions"])
        assert row["commit"] and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", row["date"])
        assert row["hardware"]["cpu"] and row["hardware"]["memory_gib"] > 0 and row["threads"] == 1


def test_the_short_form_measures_steps_memory_and_lists(short_run):
    _, rows = short_run
    for row in rows:
        assert len(row["step_cpu_seconds"]) == 2
        assert row["cpu_seconds_per_pass"] == pytest.approx(np.mean(row["step_cpu_seconds"]) * 300 / 128, abs=1e-4)
        assert row["import_bytes"] > 100e6  # torch and transformers are in it
        assert row["import_bytes"] < row["peak_training_bytes"] <= row["peak_bytes"]
        assert row["num_users"] == 20 and row["users_per_cpu_second"] > 0
        assert 1e8 < row["matrix_rate"]["float32"] < 1e14
        assert row["useful_operations"] == rows[0]["useful_operations"] > 0


def test_the_table_of_the_short_form_says_what_the_figures_say(short_run):
    folder, rows = short_run
    report = (folder / "speed.md").read_text()
    for row in rows:
        found = cells(report, SYSTEMS[row["system"]].title)
        memory = (row["peak_bytes"] - row["import_bytes"]) / 1e6
        assert float(found[1]) == pytest.approx(row["cpu_seconds_per_pass"], rel=1e-3)
        assert found[3] == "2"
        assert float(found[4].replace(",", "")) == pytest.approx(row["users_per_cpu_second"], abs=0.6)
        assert float(found[5].replace(",", "")) == pytest.approx(memory, abs=0.6)
        assert f"`{row['command']}`: {row['date']}" in report
    ratio = rows[1]["cpu_seconds_per_pass"] / rows[0]["cpu_seconds_per_pass"]
    found = cells(report, TARGETS["plain"].name)
    assert float(found[2]) == pytest.approx(ratio, abs=0.006)
    assert found[3:] == ["plain", "reported"]
    assert cells(report, TARGETS["peer"].name)[1:] == ["-", "-", "-", "not measured"]


def test_each_ratio_is_held_against_the_best_of_the_others():
    rows = {
        "ours": figures("ours", cpu_seconds_per_pass=8.0, users_per_cpu_second=500.0, peak_bytes=190e6),
        "ours-bf16": figures("ours-bf16", cpu_seconds_per_pass=5.0),
        "plain": figures("plain", cpu_seconds_per_pass=88.0, users_per_cpu_second=250.0, peak_bytes=110e6),
        "rectools": figures("rectools", cpu_seconds_per_pass=40.0, users_per_cpu_second=200.0, peak_bytes=400e6),
        "recbole": figures("recbole", cpu_seconds_per_pass=24.0, users_per_cpu_second=125.0, peak_bytes=500e6),
        "replay": figures("replay", error="fell"),
    }
    assert ratios(rows) == {
        "plain": (88 / 8, "plain"),
        "peer": (24 / 8, "recbole"),
        "memory": (90e6 / 300e6, "rectools"),  # the plain model is no peer
        "top_k": (500 / 250, "plain"),
        "useful": (4e9 / 8 / 1e9, "matrix product"),
        "bf16": None,
    }
    assert ratios(rows, "ours-bf16")["bf16"] == (8 / 5, "ours")
    assert set(ratios({"plain": rows["plain"]}).values()) == {None}


def test_the_report_judges_by_the_targets_of_the_data_set():
    rows = [
        figures("ours", cpu_seconds_per_pass=10.0, peak_bytes=220e6),
        figures("plain", cpu_seconds_per_pass=80.0),
        figures("recbole", cpu_seconds_per_pass=34.9, filters_seen=False),
    ]
    report = speed_report(rows)
    assert cells(report, TARGETS["plain"].name)[1:] == ["at least 8", "8.00", "plain", "reached"]
    assert cells(report, TARGETS["peer"].name)[1:] == ["at least 3.5", "3.49", "recbole", "missed"]
    assert cells(report, TARGETS["memory"].name)[1:] == ["at most 0.5", "0.40", "recbole", "reached"]
    assert "- RecBole cannot leave out seen items" in report
    beauty = speed_report([row | {"dataset": "beauty"} for row in rows])
    assert cells(beauty, TARGETS["plain"].name)[1:] == ["at least 50", "8.00", "plain", "missed"]
    assert cells(beauty, TARGETS["useful"].name)[-1] == "reported"


def test_rows_of_different_machines_and_threads_are_never_held_against_each_other():
    other = {"cpu": "abacus", "instructions": "beads", "cpu_count": 1, "memory_gib": 1}
    report = speed_report([figures("ours"), figures("plain", threads=2), figures("plain", hardware=other)])
    assert report.count("\n## abacus") == 3
    assert "\n## abacus (beads), 1 CPUs, 1 GiB, 1 thread\n" in report
    assert "not measured" in cells(report, TARGETS["plain"].name)


def fake_measure(calls, falls=(), stops_at=None):
    def measure(dataset, name, options):
        calls.append(name)
        if name == stops_at:
            raise KeyboardInterrupt
        if name in falls:
            raise LauncherFailed("MemoryError (the rest is in a log)")
        return figures(name, dataset)

    return measure


def test_the_fall_of_one_system_does_not_take_the_others_along(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cli, "measure", fake_measure(calls, falls=("plain",)))
    monkeypatch.setattr("benchmarks.runner.hardware", lambda: figures("ours")["hardware"])
    command = ["speed", "--datasets", "ml-1m", "--systems", "ours", "plain", "recbole", "--output_dir", str(tmp_path)]
    assert cli.main(command) == 1
    assert capsys.readouterr().err.startswith("ml-1m plain failed: MemoryError (the rest is in a log)\n")
    report = (tmp_path / "speed.md").read_text()
    assert "- plain BertForMaskedLM + Trainer failed: MemoryError" in report
    assert cells(report, TARGETS["peer"].name)[2] == "1.00"
    assert cells(report, TARGETS["plain"].name)[-1] == "not measured"


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    command = ["speed", "--datasets", "ml-1m", "--systems", "ours", "plain", "--output_dir", str(tmp_path)]
    calls = []
    monkeypatch.setattr(cli, "measure", fake_measure(calls, stops_at="plain"))
    with pytest.raises(KeyboardInterrupt):
        cli.main(command)
    assert not (tmp_path / "speed.json").exists()
    monkeypatch.setattr(cli, "measure", fake_measure(calls))
    assert cli.main([*command, "--steps", "5"]) == 0  # another run: nothing of the stopped one is taken over
    assert calls == ["ours", "plain", "ours", "plain"]
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(cli, "measure", fake_measure(calls, stops_at="plain"))
        cli.main(command)
    monkeypatch.setattr(cli, "measure", fake_measure(calls))
    assert cli.main(command) == 0
    assert calls[4:] == ["ours", "plain", "plain"]
    assert [path.name for path in tmp_path.glob("*.partial.json")] == []


def test_a_new_figure_takes_the_place_of_the_old_one_and_leaves_the_others(tmp_path):
    def run(*rows):
        results = Results(tmp_path, "speed", {})
        for row in rows:
            results.add(row)
        return results.finish()

    run(figures("ours"), figures("plain"))
    rows = run(figures("ours", cpu_seconds_per_pass=5.0), figures("ours", threads=2))
    found = [(row["system"], row["threads"], row["cpu_seconds_per_pass"]) for row in rows]
    assert found == [("ours", 1, 5.0), ("plain", 1, 10.0), ("ours", 2, 10.0)]


def test_an_environment_that_cannot_be_made_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def no_index(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="looking\nERROR: no index\n")

    monkeypatch.setattr("benchmarks.systems.subprocess.run", no_index)
    command = ["speed", "--datasets", "generated", "--systems", "rectools", "--output_dir", str(tmp_path)]
    assert cli.main([*command, "--peers_dir", str(tmp_path / "peers")]) == 1
    assert "generated rectools failed: its environment cannot be made: ERROR: no index\n" in capsys.readouterr().err


def test_the_report_on_bf16_says_who_lies_inside_the_interval():
    def row(system, seed, value):
        metrics = {"ndcg@10": value, "intervals": {"ndcg@10": [value - 0.01, value + 0.01]}}
        changes = {"command": f"python -m benchmarks quality --seeds {seed}", "epochs": 3, "seed": seed}
        return figures(system, **changes, metrics=metrics, cpu_seconds=5.0)

    rows = [row("ours", 0, 0.1), row("ours-bf16", 0, 0.109), row("ours", 1, 0.2), row("ours-bf16", 1, 0.189)]
    rows += [row("ours", 2, 0.3), row("ours-bf16", 2, 0.311)]
    report = quality.quality_report([*rows, row("ours", 3, 0.9)])
    assert cells(report, "0")[2:5] == ["0.1000 [0.0900, 0.1100]", "0.1090", "yes"]
    assert cells(report, "1")[2:5] == ["0.2000 [0.1900, 0.2100]", "0.1890", "no"]
    assert cells(report, "2")[2:5] == ["0.3000 [0.2900, 0.3100]", "0.3110", "no"]
    assert report.count("\n- `python -m benchmarks") == 4  # one for each seed
    assert "Mean over 3 seeds: float32 0.2000, bf16 0.2030." in report


def test_plots_are_drawn_for_each_data_set(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.plots import plot_speed

    rows = [figures("ours"), figures("plain"), figures("ours", "beauty"), figures("plain", "beauty", error="fell")]
    written = plot_speed([*rows, figures("ours", threads=2)], tmp_path)
    assert [path.name for path in written] == ["speed-ml-1m.png", "speed-beauty.png", "speed-ml-1m-2.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written)


def test_plots_that_cannot_be_drawn_do_not_cost_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(cli, "measure", fake_measure([]))
    assert cli.main(["speed", "--datasets", "ml-1m", "--systems", "ours", "--output_dir", str(tmp_path)]) == 0
    assert "pip install 'hf_bert4rec[plots]'" in capsys.readouterr().err
    assert (tmp_path / "speed.md").exists()


def test_the_commands_of_the_readme_parse():
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    commands = [
        shlex.split(line, comments=True) for line in re.findall(r"^python -m benchmarks .*", text, re.MULTILINE)
    ]
    assert {words[3] for words in commands} == {"speed", "quality", "table"}
    for words in commands:
        cli.build_parser().parse_args(words[3:])
