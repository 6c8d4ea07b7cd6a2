"""What a card says of ids of any letters, and of a catalogue too small for a protocol."""

import ast
import json
import re

import pandas as pd
import pytest

from hf_bert4rec import comparability, evaluate_run, prepare, train, write_model_card
from hf_bert4rec.cli import main
from hf_bert4rec.recipes import RECIPES

LETTERS = ["😀1", "日本", "Ünï çode"]
ITEMS = ["😀1", "Ünï çode", 'say "no"', "back\\slash", "日本", "<b>&'"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    rows = [(f"u{user}", ITEMS[(user + step) % 6], step) for user in range(12) for step in range(4)]
    rows += [
        (f"v{user}", item, step) for user in range(3) for step, item in enumerate(LETTERS)
    ]  # the most popular ones
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    data = prepare(log, folder / "data", min_user_events=1, min_item_events=1)
    options = {"hidden_size": 16, "intermediate_size": 24, "max_steps": 2, "use_cpu": True, "disable_tqdm": True}
    return data, train(data, folder / "run", **options)


def written(world, tmp_path, protocol):
    data, run = world
    file = tmp_path / f"{protocol}.json"
    file.write_text(json.dumps(evaluate_run(run, data, protocol=protocol)))
    return " ".join(write_model_card(run, [file])[0].read_text("utf-8").split()), json.loads(file.read_text())


def test_ids_of_any_letters_stand_on_the_card_as_python_reads_them(world, tmp_path):
    text, _ = written(world, tmp_path, "full-catalogue")
    literal = re.search(r"answer = recommend\((\[.*?\]), top_k=5\)", text)[1]
    assert sorted(ast.literal_eval(literal)) == sorted(LETTERS)
    assert "\\u" not in literal


def test_fewer_items_than_a_protocol_draws_are_said_to_be_fewer(world, tmp_path, capsys):
    data, run = world
    text, found = written(world, tmp_path, "uniform-100")
    # Six items, of which twelve users have three and the target, three two and the target.
    assert (found["fewest_negatives"], found["mean_negatives"]) == (2, pytest.approx((12 * 2 + 3 * 3) / 15))
    sentence = (
        "Not every user has 100 such items: there were 2 at least and 2.2 on average, "
        "against which a target is found more easily."
    )
    assert sentence in text
    assert "are far higher than those of the whole catalogue" not in text
    assert main(["evaluate", str(run), "--data", str(data.folder), "--protocol", "uniform-100"]) == 0
    assert f"\n{sentence}\n" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--data", str(data.folder)]) == 0
    assert "Not every user has" not in capsys.readouterr().out
    assert "fewest_negatives" not in written(world, tmp_path, "full-catalogue")[1]
    more = found | {"mean_negatives": 100.0}
    assert comparability(found, more) == ["items drawn for a user, on average: 2.2 against 100.0"]
    assert comparability(found, found) == []


def test_runs_that_differ_in_what_they_show_or_spell_out_alone_are_the_same_training(world, tmp_path):
    data, run = world  # by the recipe for sparse logs, as it has few events
    options = {"hidden_size": 16, "intermediate_size": 24, "max_steps": 2, "use_cpu": True}
    changes = {
        "other": {"seed": 7},
        "named": {"seed": 8, "recipe": "sparse", "mlm_probability": RECIPES["sparse"]["mlm_probability"]},
        "rho": {"seed": 9, "mlm_probability": 0.5},
        "paper": {"seed": 9, "recipe": "paper"},
    }
    runs = {"run": run} | {name: train(data, tmp_path / name, **options | given) for name, given in changes.items()}
    files = {name: tmp_path / f"{name}.json" for name in runs}
    for name, file in files.items():
        file.write_text(json.dumps(evaluate_run(runs[name], data)))
    card = write_model_card(run, [files["run"], files["other"], files["named"]])[0].read_text("utf-8")
    assert re.findall(r"\| (\d+) \|", card[card.index("The same training with other seeds:") :])[:3] == [
        "42",
        "7",
        "8",
    ]
    for name, wrong in (("rho", "mlm_probability"), ("paper", "recipe")):
        with pytest.raises(ValueError, match=f"of a run with another {wrong}, not"):
            write_model_card(run, [files["run"], files[name]])
