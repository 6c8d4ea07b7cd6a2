"""The generated world: fixed by its seed, with a best possible score that is exact and that simple rules stay far below."""

import numpy as np
import pytest
import torch

from hf_bert4rec import prepare
from hf_bert4rec.baselines import Popularity
from hf_bert4rec.comparison import compare
from hf_bert4rec.synthetic import SyntheticWorld


def test_the_seed_fixes_everything():
    assert SyntheticWorld(num_users=20).generate().equals(SyntheticWorld(num_users=20).generate())
    assert not SyntheticWorld(num_users=20).generate().equals(SyntheticWorld(num_users=20, seed=1).generate())


def test_the_log_is_in_order_of_time_and_nobody_sees_a_film_twice():
    log = SyntheticWorld(num_users=200).generate()
    assert log.timestamp.is_monotonic_increasing
    assert not log.duplicated(["user_id", "item_id"]).any()
    lengths = log.groupby("user_id").size()
    assert lengths.min() >= 6
    assert lengths.max() <= 10
    assert (log.groupby("user_id").timestamp.diff().dropna() > 0).all()


def test_every_film_has_a_title_of_its_own():
    world = SyntheticWorld()
    assert len(set(world.titles.values())) == world.num_items == len(world.item_ids)


def test_the_best_possible_scores_are_the_formula_of_the_docstring():
    world = SyntheticWorld(num_users=1)
    history = [4, 17, 80]
    scores = world.best_possible()(None, [np.array(history) + 3])(3, world.num_items + 3)[0].double().numpy()
    expected = np.zeros(world.num_items)
    for film in set(range(world.num_items)) - set(history):
        shares = []
        for kinds, memory in ((world._theme, 0.99), (world._mood, 0.97)):
            interest = [memory**age for age in range(len(history))]
            same = [kinds[seen] == kinds[film] for seen in reversed(history)]
            shares.append(sum(i for i, is_same in zip(interest, same, strict=True) if is_same) / sum(interest))
        expected[film] = world._popularity[film] * (0.1 / 8 + 0.9 * shares[0]) * (0.5 / 5 + 0.5 * shares[1])
    assert scores == pytest.approx(expected / expected.sum(), abs=1e-6)
    assert scores[history].tolist() == [0, 0, 0]


def test_films_are_drawn_with_the_probability_that_the_best_scorer_gives_them():
    """The second film of many users, given the first: counted against what was expected, for the commonest first film."""
    world = SyntheticWorld(num_users=40_000)
    log = world.generate().sort_values(["user_id", "timestamp"])
    index = {item_id: number for number, item_id in enumerate(world.item_ids)}
    first_two = log.groupby("user_id").head(2).item_id.map(index).to_numpy().reshape(-1, 2)
    first = np.bincount(first_two[:, 0]).argmax()
    followers = first_two[first_two[:, 0] == first, 1]
    probabilities = world.best_possible()(None, [np.array([first + 3])])(3, world.num_items + 3)[0].numpy()
    observed, expected = np.bincount(followers, minlength=world.num_items), probabilities * len(followers)
    common = expected > 20
    chi_square = ((observed[common] - expected[common]) ** 2 / expected[common]).sum()
    assert common.sum() > 15
    assert chi_square < common.sum() + 4 * np.sqrt(2 * common.sum())


def test_tokens_follow_the_order_of_the_given_ids():
    world = SyntheticWorld(num_users=1)
    history = [np.array([3, 4])]
    scores = world.best_possible()(None, history)(3, world.num_items + 3)
    reversed_ids = world.item_ids[::-1]
    turned = world.best_possible(reversed_ids)(None, [world.num_items + 5 - history[0]])(3, world.num_items + 3)
    torch.testing.assert_close(turned.flip(1), scores)


def test_neither_popularity_nor_markov_counts_come_near_the_best_possible(tmp_path):
    world = SyntheticWorld()
    data = prepare(world.generate(), tmp_path / "data")
    assert data.num_users > 0.99 * world.num_users
    best = world.best_possible(data.item_ids.to_pylist())
    found = compare(best, data)
    best_ndcg = found["model"]["ndcg@10"]
    assert found["popularity"]["ndcg@10"] < 0.4 * best_ndcg
    assert found["markov"]["ndcg@10"] < 0.75 * best_ndcg
    counts = Popularity(np.repeat(np.arange(3, 123), 1), 123)
    assert compare(counts, data)["model"]["ndcg@10"] < best_ndcg


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_users": 0}, "num_users is 0"), ({"num_items": 19}, "num_items is 19: give at least 20")],
)
def test_a_world_without_people_or_films_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticWorld(**options)


def test_foreign_and_repeated_ids_are_refused():
    world = SyntheticWorld(num_users=1)
    with pytest.raises(ValueError, match="'x' is no item of this world"):
        world.best_possible(["x"])
    with pytest.raises(ValueError, match="give each id once"):
        world.best_possible([world.item_ids[0]] * 2)
