"""A row of the results table is reproduced from its recipe by one command, and made of nothing that other options made."""

import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_bert4rec import InteractionOptions
from hf_bert4rec.model_card import CardOptions
from hf_bert4rec.protocols import PROTOCOLS
from hf_bert4rec.reproduction import prepared_data, read_recipe
from hf_bert4rec.training import option_fields

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "04_reproduce.py"
RECIPES = sorted((ROOT / "examples" / "recipes").iterdir())
FOLDERS = ("--data_dir", "logs", "--output_dir", "runs", "--cards_dir", "cards")


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def row(tmp_path):
    """A recipe of the size of a test: twelve users of one line each, around a ring of six items."""
    (tmp_path / "logs").mkdir()
    with gzip.open(tmp_path / "logs" / "ring.txt.gz", "wt") as log:
        for user in range(12):
            log.write(" ".join(str(number) for number in (user, *((user + step) % 6 for step in range(6)))) + "\n")
    recipe = {
        "log": "ring.txt.gz",
        "one_user_a_line": True,
        "prepare": {"min_user_events": 1, "min_item_events": 1},
        "train": {"hidden_size": 16, "intermediate_size": 32, "num_train_epochs": 2, "disable_tqdm": True},
        "protocols": ["full-catalogue", "popularity-100"],
        "seeds": [1, 2],
        "card": {"title": "BERT4Rec on a ring", "limits": "It is a toy."},
    }
    (tmp_path / "ring.json").write_text(json.dumps(recipe))
    return recipe


def reproduce(folder, *more):
    return run(folder, "ring.json", *FOLDERS, *more)


def test_a_row_is_reproduced_from_its_recipe_and_what_is_finished_is_not_made_again(tmp_path, row):
    done = reproduce(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    card = (tmp_path / "cards" / "ring.md").read_text()
    assert "# BERT4Rec on a ring\n" in card
    assert "python examples/04_reproduce.py ring.json --data_dir LOGS --output_dir RUNS\n" in card
    assert "### popularity-100, test" in card
    assert "## Coverage of the catalogue\n\nUnder full-catalogue, test." in card
    assert "| mean ± standard deviation |" in card
    facts = json.loads((tmp_path / "cards" / "ring.json").read_text())
    assert facts["recipe"] == row
    assert [found["seed"] for found in facts["runs"]] == [1, 2]
    assert [found["protocol"] for found in facts["metrics"]] == row["protocols"] * 2
    assert facts["runs"][0]["data"]["num_events"] == 72
    assert str(tmp_path) not in json.dumps(facts)
    runs = tmp_path / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    assert reproduce(tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    assert (tmp_path / "cards" / "ring.md").read_text() == card
    for file in (tmp_path / "logs").iterdir():
        file.unlink()
    (tmp_path / "ring.json").write_text(json.dumps(row | {"data_hash": "0" * 64}))
    done = reproduce(tmp_path, "--seeds", "1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "runs/ring.data holds other data (" in done.stderr


def test_the_models_of_a_row_learn_from_those_of_its_teacher_seeds(tmp_path, row):
    row |= {"teacher_seeds": [1, 2], "seeds": [1], "student": {"teacher_weight": 0.8}, "protocols": ["full-catalogue"]}
    (tmp_path / "ring.json").write_text(json.dumps(row))
    done = reproduce(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = tmp_path / "runs"
    record, teacher = (json.loads((runs / name / "run.json").read_text()) for name in ("ring-1", "ring-teacher"))
    assert [member["seed"] for member in teacher["members"]] == [1, 2]
    assert record["teacher"]["model"] == "ring-teacher"
    assert "| teacher | ring-teacher, 80% of the loss, itself" in (tmp_path / "cards" / "ring.md").read_text()
    assert len(json.loads((tmp_path / "cards" / "ring.json").read_text())["metrics"]) == 1
    for member in runs.glob("ring-teacher-*"):  # what it was made of is needed no more
        shutil.rmtree(member)
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    assert reproduce(tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"num_train_epochs": 3}}, "runs/ring-1 was made with num_train_epochs 2, and should be with 3"),
        (
            {"train": {"norm_position": "post"}},
            "runs/ring-1 was made with norm_position None, and should be with 'post'",
        ),
        ({"prepare": {"min_user_events": 2}}, "runs/ring.data was made with min_user_events 1, and should be with 2"),
    ],
)
def test_a_row_is_not_made_of_what_another_recipe_made(tmp_path, row, changes, message):
    (tmp_path / "ring.json").write_text(json.dumps(row | {"seeds": [1], "protocols": ["full-catalogue"]}))
    assert reproduce(tmp_path).returncode == 0
    card = (tmp_path / "cards" / "ring.md").read_bytes()
    changed = row | {name: row[name] | values for name, values in changes.items()}
    (tmp_path / "ring.json").write_text(json.dumps(changed))
    done = reproduce(tmp_path, "--seeds", "1")
    assert (done.returncode, done.stderr) == (1, f"{message}; remove it, or give another --output_dir.\n")
    assert (tmp_path / "cards" / "ring.md").read_bytes() == card


def test_a_row_is_not_made_of_what_was_given_more_options(tmp_path, row):
    once = {"seeds": [1], "protocols": ["full-catalogue"]}
    more = {"train": row["train"] | {"weight_decay": 0.5}, "prepare": row["prepare"] | {"repeats": "collapse"}}
    (tmp_path / "ring.json").write_text(json.dumps(row | once | {"train": more["train"]}))
    assert reproduce(tmp_path).returncode == 0
    (tmp_path / "ring.json").write_text(json.dumps(row | once))
    assert reproduce(tmp_path).stderr.startswith(
        "runs/ring-1 was made with weight_decay 0.5, and should be with None;"
    )
    (tmp_path / "ring.json").write_text(json.dumps(row | once | more))
    assert reproduce(tmp_path).stderr.startswith("runs/ring.data was made with repeats 'keep', and should be with")


def test_metrics_of_weights_that_are_gone_are_measured_anew(tmp_path, row):
    (tmp_path / "ring.json").write_text(json.dumps(row | {"seeds": [1], "protocols": ["full-catalogue"]}))
    assert reproduce(tmp_path).returncode == 0
    file = tmp_path / "runs" / "ring-1-full-catalogue.json"
    expected = file.read_text()
    for wrong in ({"run": {"weights_hash": "of others"}}, {"run": {}}, {"split": "validation"}):
        file.write_text(json.dumps(json.loads(expected) | wrong | {"num_users": 1}))
        assert reproduce(tmp_path).returncode == 0
        assert file.read_text() == expected


def test_a_teacher_of_other_seeds_is_not_taken(tmp_path, row):
    row |= {"teacher_seeds": [1, 2], "seeds": [3], "student": {"teacher_weight": 0.8}, "protocols": ["full-catalogue"]}
    (tmp_path / "ring.json").write_text(json.dumps(row))
    assert reproduce(tmp_path).returncode == 0
    (tmp_path / "ring.json").write_text(json.dumps(row | {"teacher_seeds": [1, 4]}))
    message = "runs/ring-teacher was made with seeds [1, 2], and should be with [1, 4]"
    assert reproduce(tmp_path).stderr.startswith(message)
    shutil.rmtree(tmp_path / "runs" / "ring-teacher")  # as it is told
    done = reproduce(tmp_path)
    assert "runs/ring-3 was made with teacher '" in done.stderr  # the hash of another one's weights
    (tmp_path / "ring.json").write_text(
        json.dumps(row | {"teacher_seeds": [1, 4], "student": {"teacher_weight": 0.7}})
    )
    done = reproduce(tmp_path)
    assert done.stderr.startswith("runs/ring-3 was made with teacher_weight 0.8, and should be with 0.7")
    plain = {name: value for name, value in row.items() if name not in ("teacher_seeds", "student")}
    (tmp_path / "ring.json").write_text(json.dumps(plain))
    assert "runs/ring-3 was made with teacher" in reproduce(tmp_path).stderr


def test_a_row_that_adjusts_another_takes_its_recipe_and_its_runs(tmp_path, row):
    other = {"adjusts": "ring", "tau": 0.5, "seeds": [1], "card": {"title": "Adjusted"}}
    (tmp_path / "less.json").write_text(json.dumps(other))
    done = run(tmp_path, "less.json", *FOLDERS)
    assert done.returncode == 0, done.stderr[-2000:]
    made = {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()}
    assert made == {"ring.data", "ring-1", "less-1"}
    assert {path.name for path in (tmp_path / "runs").glob("*-*.json")} == {
        f"less-1-{protocol}.json" for protocol in row["protocols"]
    }
    facts = json.loads((tmp_path / "cards" / "less.json").read_text())
    assert facts["recipe"] == row | other
    assert (
        facts["runs"][0]["commands"][-1] == "hf-bert4rec adjust ring-1 --data ring.data --tau 0.5 --output_dir less-1"
    )
    assert "| adjusted | 0.5 log(1 + training events" in (tmp_path / "cards" / "less.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert run(tmp_path, "less.json", *FOLDERS).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before
    (tmp_path / "less.json").write_text(json.dumps(other | {"tau": 0.25}))
    assert run(tmp_path, "less.json", *FOLDERS).stderr.startswith(
        "runs/less-1 was made with tau 0.5, and should be with"
    )
    (tmp_path / "less.json").write_text(json.dumps(other))
    weights = tmp_path / "runs" / "ring-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\1\1\1")
    assert "runs/less-1 was made with weights '" in run(tmp_path, "less.json", *FOLDERS).stderr
    shutil.rmtree(tmp_path / "runs" / "ring-1")  # needed no more
    assert run(tmp_path, "less.json", *FOLDERS).returncode == 0
    assert not (tmp_path / "runs" / "ring-1").exists()


def test_a_row_of_a_row_that_takes_runs_itself_is_refused(tmp_path, row):
    (tmp_path / "both.json").write_text(json.dumps({"joins": "ring"}))
    for recipe in ({"adjusts": "both", "tau": 1}, {"adjusts": "ring", "joins": "ring", "tau": 1}):
        (tmp_path / "less.json").write_text(json.dumps(recipe))
        done = run(tmp_path, "less.json", *FOLDERS)
        message = "less.json adjusts or joins what is adjusted or joined already; name a recipe that trains.\n"
        assert (done.returncode, done.stderr) == (1, message)


def test_a_row_that_joins_another_is_one_model_of_its_seeds(tmp_path, row):
    (tmp_path / "both.json").write_text(json.dumps({"joins": "ring", "card": {"title": "Both"}}))
    done = run(tmp_path, "both.json", *FOLDERS)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = tmp_path / "runs"
    assert {path.name for path in runs.iterdir() if path.is_dir()} == {"ring.data", "ring-1", "ring-2", "both"}
    facts = json.loads((tmp_path / "cards" / "both.json").read_text())
    assert [found["run"]["seeds"] for found in facts["metrics"]] == [[1, 2]] * len(row["protocols"])
    assert "an ensemble: 2 models" in " ".join((tmp_path / "cards" / "both.md").read_text().split())
    for member in runs.glob("ring-?"):
        shutil.rmtree(member)
    assert run(tmp_path, "both.json", *FOLDERS).returncode == 0
    assert not list(runs.glob("ring-?"))
    done = run(tmp_path, "both.json", *FOLDERS, "--seeds", "1", "3")
    assert done.stderr.startswith("runs/both was made with seeds [1, 2], and should be with [1, 3]; remove it")


def test_a_row_without_log_or_recipe_says_so_in_one_line(tmp_path, row):
    (tmp_path / "logs" / "ring.txt.gz").unlink()
    done = reproduce(tmp_path)
    assert done.stderr == "logs has no ring.txt.gz; give --data_dir with the folder that holds it.\n"
    done = run(tmp_path, "nothing", *FOLDERS)
    assert done.stderr.startswith("There is no recipe ")
    assert done.stderr.endswith(f"choose of {', '.join(sorted(path.stem for path in RECIPES))}.\n")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_gives_options_that_there_are(path):
    recipe = read_recipe(path)
    known = {"log", "one_user_a_line", "data_hash", "prepare", "train", "protocols", "seeds", "card"}
    assert recipe.keys() - known in (set(), {"teacher_seeds", "student"}, {"adjusts", "tau"}, {"joins"})
    assert "joins" not in recipe or len(recipe["seeds"]) > 1
    InteractionOptions(**recipe["prepare"])
    CardOptions(**recipe["card"])
    options = {name for fields in option_fields().values() for name in fields}
    options -= {field.name for field in dataclasses.fields(InteractionOptions)}
    assert recipe["train"].keys() | recipe.get("student", {}).keys() <= options - {"seed", "teacher"}
    # A student has its own start, and an ensemble at least two members.
    assert not set(recipe.get("teacher_seeds", [])) & set(recipe["seeds"])
    assert len(recipe.get("teacher_seeds", "two")) > 1
    assert recipe["protocols"] and set(recipe["protocols"]) <= PROTOCOLS.keys()
    assert recipe["seeds"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_for_the_log_that_it_names(path, real_data, tmp_path):
    recipe = read_recipe(path)
    assert len(recipe["data_hash"]) == 64
    assert prepared_data(recipe, real_data, tmp_path / "data").content_hash() == recipe["data_hash"]
