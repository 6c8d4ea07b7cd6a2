"""The catalogue's benchmark, as a person starts it: each figure with its command, tables and plot from the figures."""

import json
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the installed package

from benchmarks import catalogue  # noqa: E402


def run(folder, *options):
    folders = ["--output_dir", str(folder / "results"), "--peers_dir", str(folder / "peers")]
    return catalogue.main([*options, *folders])


def test_steps_memory_and_validation_are_measured_in_a_process_of_their_own(tmp_path):
    options = ["--num_items", "500", "--losses", "gbce", "--steps", "2", "--users", "3"]
    assert run(tmp_path, "scale", *options) == 0
    (row,) = json.loads((tmp_path / "results" / "catalogue-scale.json").read_text())
    assert (row["dataset"], row["system"], len(row["step_cpu_seconds"])) == (500, "gbce", 2)
    assert 100e6 < row["import_bytes"] < row["peak_training_bytes"] <= row["peak_bytes"]
    assert row["validation_cpu_seconds_per_user"] > 0
    words = shlex.split(row["command"])
    assert words[:3] == ["python", "-m", "benchmarks.catalogue"]
    again = catalogue.build_parser().parse_args(words[3:])
    assert (again.num_items, again.losses, again.steps, again.users) == ([500], ["gbce"], 2, 3)
    report = (tmp_path / "results" / "catalogue-scale.md").read_text()
    assert "| 500, gbce |" in report and f"`{row['command']}`: {row['date']}" in report


def test_quality_is_that_of_the_best_validation(tmp_path):
    assert run(tmp_path, "quality", "--dataset", "generated", "--losses", "bce", "--epochs", "2") == 0
    (row,) = json.loads((tmp_path / "results" / "catalogue-quality.json").read_text())
    assert row["metrics"]["ndcg@10"] == max(value for _, value in row["curve"])
    assert len(row["curve"]) == 2 and row["cpu_seconds"] > 0
    assert f"| {row['metrics']['ndcg@10']:.4f} |" in (tmp_path / "results" / "catalogue-quality.md").read_text()


def test_a_loss_that_no_machine_of_ours_holds_is_left_out_and_said(tmp_path, capsys):
    assert run(tmp_path, "scale", "--num_items", "10000000", "--losses", "softmax") == 0
    assert "10,000,000 items, softmax: left out, it takes more than 20 GB" in capsys.readouterr().out


def test_a_missing_log_costs_one_line(tmp_path, capsys):
    assert run(tmp_path, "quality", "--data", str(tmp_path), "--losses", "bce") == 1
    assert "beauty: " in capsys.readouterr().err


def test_the_plot_has_a_line_for_each_loss(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"dataset": items, "system": loss, "step_cpu_seconds": [0.1], "peak_training_bytes": 1e9}
        for items in (10, 100)
        for loss in ("softmax", "gbce")
    ]
    assert catalogue.plot_scale(rows, tmp_path / "plot.png").stat().st_size > 1000
