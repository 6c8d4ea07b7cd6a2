"""Recipes by name: every value is an option, each differs from the default, and options given beside a recipe win."""

import pytest

from hf_bert4rec import prepare, train
from hf_bert4rec.recipes import RECIPES
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


def test_an_unknown_recipe_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match="There is no recipe 'papre'; choose one of default, paper, klenitskiy"):
        train(tmp_path / "log.csv", tmp_path / "run", recipe="papre")
