"""Every example runs in its short form, as a person starts it, and stays short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, prepare

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# A new example gets its short form, and what it must print, in a test below.
TESTED = {"01_quickstart.py", "02_movielens.py", "03_sharded_items.py"}


def run(name, folder, *arguments, launcher=()):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_example_has_a_short_form_here():
    assert {path.name for path in EXAMPLES} == TESTED


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_has_at_most_eighty_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 80


def test_the_quickstart_runs(tmp_path):
    done = run("01_quickstart.py", tmp_path, "--num_train_epochs", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ("popularity", "markov", "model"):
        assert f"\n{words}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_movielens_runs_to_titles(tmp_path, real_data):
    options = ("--path", real_data.resolve() / "ml-100k", "--num_train_epochs", "1", "--output_dir", tmp_path / "out")
    done = run("02_movielens.py", tmp_path, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"markov": 0.' in done.stdout
    titles = done.stdout.rsplit("After the three Star Wars films: ", 1)[1]
    assert titles.count("(19") == 5  # five films of the twentieth century, by title and year
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "model"]


def test_movielens_with_a_wrong_path_says_so_in_one_line(tmp_path):
    done = run("02_movielens.py", tmp_path, "--path", "nowhere", "--num_train_epochs", "1", "--output_dir", "out")
    assert done.returncode != 0
    assert done.stderr == "nowhere has no u.data; give --path with the unpacked folder of MovieLens-100K.\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_two_processes_train_with_half_of_the_items_each(tmp_path, interaction_log):
    data = prepare(interaction_log, tmp_path / "data", min_user_events=1, min_item_events=1)
    config = Bert4RecConfig(vocab_size=data.num_items + 3, max_position_embeddings=10)
    Bert4RecForMaskedLM(config).save_pretrained(tmp_path / "run")
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29627")
    options = ("--data", data.folder, "--model", tmp_path / "run", "--output_dir", tmp_path / "sharded")
    done = run("03_sharded_items.py", tmp_path, *options, launcher=launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{-(-config.vocab_size // 2)} of {config.vocab_size} rows in the first process" in done.stdout
    assert Bert4RecForMaskedLM.from_pretrained(tmp_path / "sharded").config.vocab_size == config.vocab_size
