"""Order, windows and evaluation sequences: every row once, nothing held out is ever trained on."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_bert4rec import sequences as module
from hf_bert4rec.configuration_bert4rec import FIRST_ITEM_TOKEN
from hf_bert4rec.interactions import prepare
from hf_bert4rec.sequences import EvaluationSequences, TrainingSequences, training_events

HELD_OUT = 1_000_000  # added to the items that may not be trained on, so that one that leaks is seen


def interaction_data(lengths, global_time=False):
    """
    Prepared data of users with the given numbers of events. The items of a user are numbered in order of time, 100 times
    the user and up. Held out are the last two events where there are at least three, or with `global_time` the second
    half, whose first event is the target of validation and whose last that of test.
    """
    lengths = np.array(lengths)
    has_targets = lengths >= 3
    train_end = np.where(has_targets, lengths // 2 if global_time else lengths - 2, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = [
        np.arange(length) + 100 * user + np.where(np.arange(length) >= end, HELD_OUT, 0)
        for user, (length, end) in enumerate(zip(lengths, train_end, strict=True))
    ]
    return SimpleNamespace(
        events=np.concatenate(events).astype(np.int32),
        offsets=offsets,
        train_end=train_end,
        validation_target=np.where(has_targets, train_end, -1),
        test_target=np.where(has_targets, lengths - 1, -1),
        num_users=len(lengths),
        num_items=2 * HELD_OUT,
        num_events=int(offsets[-1]),
        metadata={"split": "leave-one-out"},
    )


def training_sequences(lengths, **options):
    return TrainingSequences(interaction_data(lengths), **{"max_length": 10} | options)


def rows_of(sequences):
    return [sequences[index]["row"] for index in range(len(sequences))]


LENGTHS = np.random.default_rng(0).integers(1, 60, 101)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 3))
def test_every_user_comes_once_in_every_epoch(lengths, length_multiple, epoch):
    sequences = training_sequences(lengths, length_multiple=length_multiple)
    sequences.set_epoch(epoch)
    num_rows = -(-len(lengths) // length_multiple) * length_multiple
    assert len(sequences) == num_rows
    assert sorted(rows_of(sequences)[: len(lengths)]) == list(range(len(lengths)))
    fillers = [sequences[index] for index in range(len(lengths), num_rows)]
    assert all(filler["row"] == -1 and len(filler["input_ids"]) == 0 for filler in fillers)


def test_users_without_training_events_are_left_out():
    data = interaction_data([3, 5, 4, 2])
    data.train_end[1] = 0
    sequences = TrainingSequences(data, max_length=10)
    assert sorted(rows_of(sequences)) == [0, 2, 3]


def test_the_order_changes_with_epoch_and_seed_and_nothing_else():
    sequences = training_sequences(LENGTHS)
    first = rows_of(sequences)
    assert first == rows_of(training_sequences(LENGTHS))
    assert first != rows_of(training_sequences(LENGTHS, seed=1))
    sequences.set_epoch(1)
    assert first != rows_of(sequences)
    sequences.set_epoch(0)
    assert first == rows_of(sequences)


def test_workers_that_live_on_draw_every_epoch_anew():
    sequences = training_sequences(LENGTHS)
    loader = DataLoader(sequences, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 4, 1):
        sequences.set_epoch(epoch)
        found = [(row["row"], row["epoch"], row["input_ids"].tolist()) for row in loader]
        alone = training_sequences(LENGTHS)
        alone.set_epoch(epoch)
        rows = [alone[index] for index in range(len(alone))]
        assert found == [(row["row"], epoch, row["input_ids"].tolist()) for row in rows]


def test_users_of_all_lengths_come_together():
    # The mean length of a batch of rows drawn at random lies within a few standard errors of the mean of all.
    sequences = training_sequences(LENGTHS, max_length=60)
    lengths = np.array([len(sequences[index]["input_ids"]) for index in range(100)])
    means = lengths.reshape(-1, 10).mean(1)
    assert abs(means.std() / (lengths.std() / np.sqrt(10)) - 1) < 0.5


@pytest.mark.parametrize("num_processes", [2, 3])
def test_the_order_does_not_depend_on_how_a_step_is_split_among_processes(num_processes):
    one = training_sequences(LENGTHS)
    several = training_sequences(LENGTHS, length_multiple=num_processes * 2)
    assert len(several) % (num_processes * 2) == 0
    assert rows_of(several)[: len(one)] == rows_of(one)


@pytest.mark.parametrize("global_time", [False, True])
@pytest.mark.parametrize("window", ["random", "newest"])
def test_windows_are_runs_of_the_training_part_and_never_of_what_is_held_out(window, global_time):
    data = interaction_data(LENGTHS, global_time)
    sequences = TrainingSequences(data, max_length=10, window=window)
    for epoch in range(5):
        sequences.set_epoch(epoch)
        for index in range(len(sequences)):
            row = sequences[index]
            items = row["input_ids"] - FIRST_ITEM_TOKEN
            end = data.train_end[row["row"]]
            assert row["input_ids"].dtype == np.int64
            assert row["epoch"] == epoch
            assert (items < HELD_OUT).all()
            assert len(items) == min(end, 10)
            assert (np.diff(items) == 1).all()
            start = items[0] - 100 * row["row"]
            assert 0 <= start <= end - len(items)
            if window == "newest":
                assert start == end - len(items)


def test_random_windows_move_with_epoch_and_seed_and_reach_every_event_equally():
    starts = {}
    for epoch in range(300):
        sequences = training_sequences([25, 8], seed=epoch % 2)
        sequences.set_epoch(epoch)
        for index in range(2):
            row = sequences[index]
            starts.setdefault(row["row"], []).append(row["input_ids"][0] - FIRST_ITEM_TOKEN - 100 * row["row"])
    assert set(starts[1]) == {0}
    counts = np.bincount(starts[0], minlength=23 - 10 + 1)
    assert len(counts) == 23 - 10 + 1
    expected = 300 / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 13 + 4 * np.sqrt(2 * 13)


def test_a_row_is_windowed_alike_whatever_the_other_options():
    one, other = training_sequences([40] * 9), training_sequences([40] * 9, length_multiple=4)
    windows = {row["row"]: row["input_ids"].tolist() for row in map(one.__getitem__, range(9))}
    assert windows == {row["row"]: row["input_ids"].tolist() for row in map(other.__getitem__, range(9))}


@pytest.mark.parametrize("index", [-1, 3])
def test_a_row_that_does_not_exist_ends_iteration(index):
    sequences = training_sequences([3, 4, 5])
    with pytest.raises(IndexError, match=f"Row {index} of 3 does not exist"):
        sequences[index]
    assert len(list(sequences)) == 3


@pytest.mark.parametrize(
    ("split", "global_time"), [("validation", False), ("test", False), ("validation", True), ("test", True)]
)
def test_evaluation_sequences_hold_exactly_the_events_before_the_target(split, global_time):
    lengths = [5, 2, 9, 3, 1, 30]
    data = interaction_data(lengths, global_time)
    sequences = EvaluationSequences(data, split=split)
    assert sequences.split == split
    assert sorted(rows_of(sequences)) == [0, 2, 3, 5]
    sizes = []
    for index in range(len(sequences)):
        row = sequences[index]
        user = row["row"]
        history = data.events[data.offsets[user] : data.offsets[user + 1]] + FIRST_ITEM_TOKEN
        end = data.validation_target[user] if split == "validation" else lengths[user] - 1
        assert row["input_ids"].tolist() == history[:end].tolist()
        assert row["target"] == history[end]
        sizes.append(len(row["input_ids"]))
    assert sizes == sorted(sizes, reverse=True)


def test_prepared_data_give_the_histories_of_the_log(interaction_log, tmp_path):
    data = prepare(interaction_log, tmp_path / "data")

    def ring(user, start, stop):
        return [f"i{(int(data.user_ids[user].as_py()[1:]) + step) % 10}" for step in range(start, stop)]

    def items(tokens):
        return data.item_ids.take(tokens - FIRST_ITEM_TOKEN).to_pylist()

    for row in TrainingSequences(data, max_length=4, window="newest"):
        assert items(row["input_ids"]) == ring(row["row"], 1, 5)
    for split, place in (("validation", 5), ("test", 6)):
        for row in EvaluationSequences(data, split=split):
            assert items(np.append(row["input_ids"], row["target"])) == ring(row["row"], 0, place + 1)
    events, offsets = training_events(data)
    assert items(events[offsets[3] : offsets[4]]) == ring(3, 0, 5)


def test_training_events_are_the_training_part_of_each_history():
    for lengths, global_time in (
        ([5, 2, 9, 3, 1, 30], True),
        ([3] * 300, False),
        ([1, 4], False),
        ([5, 0, 0, 3, 0], False),
    ):
        data = interaction_data(lengths, global_time)
        data.train_end[0] = 0
        events, offsets = training_events(data)
        expected = [data.events[data.offsets[u] :][: data.train_end[u]].tolist() for u in range(len(lengths))]
        assert events.dtype == np.int32
        assert [(events[a:b] - FIRST_ITEM_TOKEN).tolist() for a, b in itertools.pairwise(offsets)] == expected
        assert offsets[-1] == len(events)
        assert (events < HELD_OUT).all()


def test_unknown_options_and_data_without_rows_are_refused():
    with pytest.raises(ValueError, match="The window is 'oldest'; choose 'random' or 'newest'"):
        training_sequences([3], window="oldest")
    data = interaction_data([3, 4])
    data.train_end[:] = 0
    with pytest.raises(ValueError, match="No history has an event to train on"):
        TrainingSequences(data, max_length=10)
    with pytest.raises(ValueError, match="The split is 'train'; choose 'validation' or 'test'"):
        EvaluationSequences(data, split="train")
    with pytest.raises(ValueError, match="No user has a test target"):
        EvaluationSequences(interaction_data([1, 2]), split="test")


@pytest.mark.parametrize("global_time", [False, True])
@pytest.mark.parametrize("users_at_once", [1, 2, 3, 7, 100])
def test_training_events_are_the_same_whatever_is_copied_at_a_time(monkeypatch, users_at_once, global_time):
    data = interaction_data([3, 1, 4, 2, 9, 5, 6], global_time)
    data.train_end[2] = 0
    monkeypatch.setattr(module, "USERS_AT_ONCE", users_at_once)
    events, offsets = training_events(data)
    expected = [data.events[start : start + end] for start, end in zip(data.offsets[:-1], data.train_end, strict=True)]
    assert events.tolist() == (np.concatenate(expected) + FIRST_ITEM_TOKEN).tolist()
    assert events.dtype == np.int32 and events.max() < HELD_OUT
    assert offsets.tolist() == [0, *np.cumsum([len(part) for part in expected])]
