"""Every example runs in its short form, as a person starts it, and stays short."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, cli, prepare
from hf_bert4rec.embedding import write_vectors
from hf_bert4rec.run_folder import load_run

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# A new example gets its short form, and what it must print, in a test below.
TESTED = {"01_quickstart.py", "02_movielens.py", "03_sharded_items.py", "04_reproduce.py", "05_fine_tune.py"}
TESTED |= {"06_user_attributes.py", "07_features.py", "08_plain_trainer.py", "09_search.py"}


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
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    options = ("--data", data.folder, "--model", tmp_path / "run", "--output_dir", tmp_path / "sharded")
    done = run("03_sharded_items.py", tmp_path, *options, launcher=launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{-(-config.vocab_size // 2)} of {config.vocab_size} rows in the first process" in done.stdout
    model, tokenizer = load_run(tmp_path / "sharded")  # as every command does
    assert model.config.vocab_size == config.vocab_size
    assert tokenizer.item_ids == data.item_ids.to_pylist()


def test_a_model_is_continued_on_the_later_half_and_nothing_is_trained_twice(tmp_path):
    events = [
        (user, (user % 3 + step) % 9 + user // 6, 3, 100 * user + step) for user in range(12) for step in range(8)
    ]
    (tmp_path / "u.data").write_text("".join("\t".join(map(str, event)) + "\n" for event in events))
    options = ("--path", "u.data", "--output_dir", "halves", "--num_train_epochs", "1")
    done = run("05_fine_tune.py", tmp_path, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "6 test targets, 2 of them new items\n" in done.stdout
    starts = ("neighbours", "mean", "random")
    for row in ("markov", "early", "anew", "anew on both halves", *(f"fine-tuned, {start}" for start in starts)):
        assert f"\n| {row} | " in done.stdout
    assert "\nfine-tuned, neighbours, is better than anew by " in done.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "halves").rglob("*")}
    assert done.stdout.endswith(run("05_fine_tune.py", tmp_path, *options).stdout)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "halves").rglob("*")} == before


@pytest.fixture
def two_tastes(tmp_path):
    """A log in which women take even items and men odd ones, their attributes, and a model of these items."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed; pip install 'hf_bert4rec[examples]'")
    rows = [(user, (user * step) % 10 * 2 + user % 2) for user in range(1, 121) for step in range(1, 8)]
    pd.DataFrame(rows, columns=["user_id", "item_id"]).to_parquet(tmp_path / "log.parquet")
    lines = [f"{user}::{'FM'[user % 2]}::{25 + 10 * (user % 3)}::4::02139\n" for user in range(1, 121)]
    (tmp_path / "users.dat").write_text("".join(lines))
    config = Bert4RecConfig(vocab_size=23, max_position_embeddings=5, linear_initializer="xavier", norm_position="pre")
    Bert4RecForMaskedLM(config).save_pretrained(tmp_path / "run")
    Bert4RecTokenizer.from_items(list(range(20))).save_pretrained(tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize("more", [(), ("--from_scratch", "--attribute", "age")], ids=["fine-tuned", "from scratch"])
def test_attributes_of_users_are_learned_by_a_head(two_tastes, more):
    files = ("--log", "log.parquet", "--users", "users.dat", "--model", "run")
    done = run("06_user_attributes.py", two_tastes, *files, "--num_train_epochs", "4", *more)
    assert done.returncode == 0, done.stderr[-2000:]
    name = "BERT4Rec from scratch" if more else "BERT4Rec"
    found = re.findall(
        rf"^({name}|logistic regression|majority class) +(accuracy|AUC) +([\d.]+) \[", done.stdout, re.M
    )
    values = {words[:2]: float(words[2]) for words in found}
    assert len(values) == 6
    assert values["majority class", "AUC"] == 0.5
    assert ("newly initialized" in done.stderr) and ("cls.predictions" in done.stderr)
    if not more:
        assert values[name, "accuracy"] > 0.9 and values["logistic regression", "accuracy"] > 0.9


def test_vectors_are_features_of_other_models(two_tastes):
    data = prepare(two_tastes / "log.parquet", two_tastes / "data", vocabulary=list(map(str, range(20))))
    write_vectors(*load_run(two_tastes / "run"), two_tastes / "vectors", data=data)
    files = ("--vectors", "vectors", "--log", "log.parquet", "--users", "users.dat", "--num_items", "3")
    done = run("07_features.py", two_tastes, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    majority, by_user, by_items, *alike = done.stdout.splitlines()
    assert majority == "majority class: accuracy 0.500"
    assert re.fullmatch(r"user vector: accuracy [\d.]+, AUC [\d.]+", by_user)
    assert by_items == "mean of the user's item vectors: accuracy 1.000, AUC 1.000"
    assert [line.split(" is like ")[0] for line in alike] == ["0", "1", "2"]
    assert all(len(set(line.replace(" is like", ",").split(", "))) == 4 for line in alike)


def test_the_plain_trainer_trains_what_the_package_loads(tmp_path, interaction_log):
    data = prepare(interaction_log, tmp_path / "data")
    done = run(
        "08_plain_trainer.py", tmp_path, "--data", data.folder, "--output_dir", "run", "--num_train_epochs", "2"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^test NDCG@10 0\.\d+, Recall@10 [01]\.\d+$", done.stdout, re.M)
    model, tokenizer = load_run(tmp_path / "run")
    assert model.config.vocab_size == len(tokenizer) == 13


@pytest.fixture
def searched(tmp_path, interaction_log, monkeypatch, capsys):
    """Runs the search on a tiny log, in this process; gives its table and what it printed."""
    pytest.importorskip("optuna", reason="Optuna is not installed; pip install 'hf_bert4rec[search]'")
    prepare(interaction_log, tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def search(folder, *more):
        options = ("--data", "data", "--output_dir", folder, "--num_train_epochs", "3", *more)
        monkeypatch.setattr(sys, "argv", ["09_search.py", *options])
        runpy.run_path(str(ROOT / "examples" / "09_search.py"), run_name="__main__")
        return pd.read_csv(tmp_path / folder / "search.csv"), capsys.readouterr().out

    return search


def test_a_search_goes_on_prunes_and_names_the_command_of_its_best_trial(searched, tmp_path):
    import optuna

    first, _ = searched("first", "--n_trials", "1")
    study = optuna.load_study(study_name=None, storage="sqlite:///search.db")
    study.ask()  # what a search that is killed leaves behind
    table, printed = searched("whole", "--n_trials", "2")
    assert table[table.trial == 0].reset_index(drop=True).equals(first)
    assert table.state.tolist() == ["complete"] * 2 and (table.epochs == 3).all()
    assert (tmp_path / "whole" / "search.md").read_text() in printed
    # The same from a fresh database, without a stop in between.
    again, _ = searched("again", "--n_trials", "2", "--storage", "sqlite:///again.db")
    assert again.equals(table)
    command = shlex.split(re.search(r"^The best again: hf-bert4rec (train .*)$", printed, re.M).group(1))
    cli.main([*command, "--disable_tqdm"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best_metric"] == table["ndcg@10"].max()
    # Beside five trials that no other can match, the next one is pruned after its first epoch.
    done = study.trials[0]
    perfect = dict.fromkeys(done.intermediate_values, 2.0)
    for _ in range(5):
        study.add_trial(
            optuna.trial.create_trial(
                params=done.params, distributions=done.distributions, value=2.0, intermediate_values=perfect
            )
        )
    table, _ = searched("pruned", "--n_trials", "8")
    assert table[table.trial == 7][["state", "epochs"]].values.tolist() == [["pruned", 1]]


def test_a_search_without_optuna_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=re.escape("Optuna is missing; pip install 'hf_bert4rec[search]'")):
        runpy.run_path(str(ROOT / "examples" / "09_search.py"), run_name="__main__")
