"""Recipes by name: every value is an option, each differs from the default, and options given beside a recipe win."""

import json

import pandas as pd
import pytest

from hf_bert4rec import prepare, train
from hf_bert4rec.recipes import RECIPES, recipe_for
from hf_bert4rec.run_folder import load_run
from hf_bert4rec.training import option_fields

TINY = {
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "max_steps": 2,
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_what_is_given_beside_it_wins(name, interaction_log, tmp_path):
    data = prepare(interaction_log, tmp_path / "data")
    options = {"use_cpu": True, "disable_tqdm": True, **TINY}
    model, _ = load_run(train(data, tmp_path / "run", recipe=name, **options))
    config = model.config
    assert (config.hidden_size, config.num_attention_heads) == (16, 2)
    for field in ("norm_position", "position_origin", "hidden_dropout_prob", "embedding_layer_norm"):
        assert getattr(config, field) == RECIPES[name][field]


def test_every_value_of_a_recipe_is_an_option_and_no_two_recipes_are_equal():
    known = {name for fields in option_fields().values() for name in fields}
    for name, recipe in RECIPES.items():
        assert set(recipe) <= known, name
    values = list(RECIPES.values())
    assert all(one != other for place, one in enumerate(values) for other in values[place + 1 :])


@pytest.mark.parametrize(
    ("num_items", "small", "expected"), [(2, 40, "default"), (2, 41, "small"), (40, 41, "sparse"), (40, 40, "sparse")]
)
def test_a_run_that_names_no_recipe_takes_the_one_that_suits_its_log(
    num_items, small, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("hf_bert4rec.recipes.SMALL_NUM_USERS", small)
    # Forty users of four events each train on eighty events: forty for each of two items, two for each of forty.
    events = [(user, (user + step) % num_items, step) for user in range(40) for step in range(4)]
    log = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"])
    data = prepare(log, tmp_path / "data", min_user_events=1, min_item_events=1)
    assert data.num_items == num_items and recipe_for(data) == expected
    for given in ({}, {"recipe": "auto"}, {"head_transform": True}):
        run = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        train(data, run, use_cpu=True, disable_tqdm=True, **TINY, **given)
        config, record = load_run(run)[0].config, json.loads((run / "run.json").read_text())
        assert record["sequence_options"]["recipe"] == expected
        assert record["training_arguments"]["learning_rate"] == RECIPES[expected]["learning_rate"]
        assert config.value_initializer == ("identity" if expected == "sparse" else "linear")
        assert config.backbone == ("modernbert" if expected == "small" else "bert")
        assert config.head_transform == given.get("head_transform", False)


def test_an_unknown_recipe_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(
        ValueError, match="There is no recipe 'papre'; choose one of auto, default, small, sparse, paper"
    ):
        train(tmp_path / "log.csv", tmp_path / "run", recipe="papre")
