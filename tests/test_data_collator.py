"""The cloze against a naive loop, its shares, and what masks may depend on."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_bert4rec.data_collator import DataCollatorForCloze
from hf_bert4rec.randomness import uniform

PAD, MASK = 0, 1


def rows_of(lengths, epoch=0, first_row=0):
    """Features of rows whose tokens count up from 10."""
    return [
        {"input_ids": np.arange(10, 10 + length), "row": first_row + row, "epoch": epoch}
        for row, length in enumerate(lengths)
    ]


def naive_row(collator, feature):
    """Input and labels of one row without padding, one event at a time."""
    seed, epoch, row = collator.seed, feature["epoch"], feature["row"]
    tokens = list(feature["input_ids"])[-collator.max_length :] if collator.max_length else list(feature["input_ids"])
    if not tokens:
        return [], []
    only_last = uniform("last item", seed, epoch, row) < collator.last_item_probability
    count = int(len(tokens) * collator.mlm_probability + uniform("cloze count", seed, epoch, row))
    draws = [float(uniform("cloze", seed, epoch, row, position)) for position in range(len(tokens))]
    hidden = sorted(range(len(tokens)), key=draws.__getitem__)[: max(count, 1)]
    hidden = [len(tokens) - 1] if only_last else hidden
    inputs, labels = list(tokens), [-100] * len(tokens)
    for position in hidden:
        labels[position] = tokens[position]
        kind = uniform("replacement", seed, epoch, row, position)
        if only_last or kind < collator.mask_replace_prob:
            inputs[position] = MASK
        elif kind < collator.mask_replace_prob + collator.random_replace_prob:
            drawn = uniform("random item", seed, epoch, row, position)
            inputs[position] = 3 + int(drawn * (collator.vocab_size - 3))
    return inputs, labels


def without_padding(batch):
    """Input and labels of each row as lists."""
    is_event = batch["attention_mask"].bool()
    columns = zip(batch["input_ids"], batch["labels"], is_event, strict=True)
    return [(inputs[kept].tolist(), labels[kept].tolist()) for inputs, labels, kept in columns]


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=8),
    st.fixed_dictionaries(
        {
            "mlm_probability": st.sampled_from([0.0, 0.15, 0.5, 1.0]),
            "last_item_probability": st.sampled_from([0.0, 0.4, 1.0]),
            "mask_replace_prob": st.sampled_from([0.0, 0.5, 1.0]),
            "max_length": st.sampled_from([None, 1, 7]),
            "padding_side": st.sampled_from(["left", "right"]),
            "seed": st.integers(0, 3),
        }
    ),
    st.integers(0, 3),
)
def test_batches_equal_a_naive_loop(lengths, options, epoch):
    collator = DataCollatorForCloze(
        vocab_size=40, random_replace_prob=(1 - options["mask_replace_prob"]) / 2, **options
    )
    features = rows_of(lengths, epoch, first_row=5)
    batch = collator(features)
    longest = max(1, *(min(length, options["max_length"] or length) for length in [*lengths, 1]))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in batch.items()} == {
        name: (torch.int64, (len(lengths), longest)) for name in ("input_ids", "attention_mask", "labels")
    }
    assert without_padding(batch) == [naive_row(collator, feature) for feature in features]
    is_padding = batch["attention_mask"] == 0
    assert (batch["input_ids"][is_padding] == PAD).all()
    assert (batch["labels"][is_padding] == -100).all()
    at_start = is_padding[:, 0] if options["padding_side"] == "left" else is_padding[:, -1]
    assert (at_start == is_padding.any(1)).all()


@pytest.mark.parametrize("share", [0.2, 0.35, 0.6])
def test_the_share_is_met_on_average_and_missed_by_less_than_one_item(share):
    collator = DataCollatorForCloze(mlm_probability=share, last_item_probability=0.0)
    for length in (1, 3, 7, 20):
        hidden = (collator(rows_of([length] * 4000))["labels"] != -100).sum(1).numpy()
        low = max(1, int(np.floor(share * length)))
        high = max(1, int(np.ceil(share * length)))
        assert set(hidden) <= {low, high}
        assert hidden.mean() == pytest.approx(max(1, share * length), abs=0.03)


def test_every_event_is_hidden_equally_often():
    collator = DataCollatorForCloze(mlm_probability=0.3, last_item_probability=0.0)
    counts = (collator(rows_of([10] * 5000))["labels"] != -100).sum(0).numpy()
    assert ((counts - 1500) ** 2 / 1500).sum() < 9 + 5 * np.sqrt(2 * 9)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_of_samples_hides_only_the_last_item(share):
    collator = DataCollatorForCloze(mlm_probability=0.5, last_item_probability=share, mask_replace_prob=0.0)
    batch = collator(rows_of([20] * 4000))
    # With nothing replaced in the cloze, a [MASK] tells a sample of the last item.
    is_last_only = (batch["input_ids"] == MASK).any(1)
    assert is_last_only.float().mean().item() == pytest.approx(share, abs=0.02)
    labels = batch["labels"][is_last_only]
    assert (labels[:, -1] == 29).all()
    assert (labels[:, :-1] == -100).all()
    assert (batch["input_ids"][is_last_only][:, -1] == MASK).all()
    assert ((batch["labels"][~is_last_only] != -100).sum(1) == 10).all()


def test_hidden_items_are_all_masked_by_default_and_by_80_10_10_as_in_bert():
    features = rows_of([40] * 1000)
    plain = DataCollatorForCloze(mlm_probability=0.5)(features)
    assert (plain["input_ids"][plain["labels"] != -100] == MASK).all()
    options = {
        "mlm_probability": 0.5,
        "last_item_probability": 0.0,
        "mask_replace_prob": 0.8,
        "random_replace_prob": 0.1,
    }
    batch = DataCollatorForCloze(vocab_size=5003, **options)(features)
    hidden = batch["labels"] != -100
    inputs, labels = batch["input_ids"][hidden], batch["labels"][hidden]
    assert (inputs == MASK).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (inputs == labels).float().mean().item() == pytest.approx(0.1, abs=0.01)
    drawn = inputs[(inputs != MASK) & (inputs != labels)].numpy()
    assert len(drawn) / len(inputs) == pytest.approx(0.1, abs=0.01)
    assert drawn.min() >= 3
    assert drawn.max() < 5003
    counts = np.bincount((drawn - 3) // 500, minlength=10)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 9 + 5 * np.sqrt(2 * 9)
    everything = batch["input_ids"].numpy() == np.arange(10, 50)
    assert everything[~hidden.numpy()].all()


def test_the_side_of_the_padding_changes_nothing_else():
    lengths = [3, 0, 9, 1, 6]
    options = {"mlm_probability": 0.5, "mask_replace_prob": 0.5, "random_replace_prob": 0.5, "vocab_size": 30}
    left, right = (DataCollatorForCloze(padding_side=side, **options) for side in ("left", "right"))
    assert without_padding(left(rows_of(lengths))) == without_padding(right(rows_of(lengths)))
    assert left(rows_of(lengths))["attention_mask"][:, -1].tolist() == [1, 0, 1, 1, 1]
    assert right(rows_of(lengths))["attention_mask"][:, 0].tolist() == [1, 0, 1, 1, 1]
    histories, targets = [np.arange(5, 9), np.array([], int)], [3, 4]
    one, other = left.ranking_batch(histories, targets), right.ranking_batch(histories, targets)
    assert one["input_ids"].tolist() == [[5, 6, 7, 8, MASK], [PAD] * 4 + [MASK]]
    assert other["input_ids"].tolist() == [[5, 6, 7, 8, MASK], [MASK] + [PAD] * 4]
    assert one["seen_items"].sort().values.tolist() == other["seen_items"].sort().values.tolist()


def test_masks_depend_on_seed_epoch_and_row_and_nothing_else():
    collator = DataCollatorForCloze()
    features = rows_of([30] * 20)
    expected = without_padding(collator(features))
    order = np.random.default_rng(0).permutation(20)
    shuffled = without_padding(collator([features[row] for row in order]))
    assert [shuffled[place] for place in np.argsort(order)] == expected
    assert without_padding(collator(features[7:9] + rows_of([50])))[:2] == expected[7:9]
    assert without_padding(DataCollatorForCloze()(features)) == expected
    for other in (
        DataCollatorForCloze(seed=1)(features),
        collator(rows_of([30] * 20, epoch=1)),
        collator(rows_of([30] * 20, first_row=100)),
    ):
        same = np.mean([a == b for a, b in zip(without_padding(other), expected, strict=True)])
        assert same < 0.2  # two samples of the last item alone are equal


def test_without_row_and_epoch_masks_are_fresh_at_each_call_and_repeatable():
    features = [{"input_ids": list(range(10, 40))}] * 4
    collator = DataCollatorForCloze()
    first, second = (without_padding(collator(features)) for _ in range(2))
    assert first != second
    assert len({tuple(labels) for _, labels in first}) > 1
    again = DataCollatorForCloze()
    assert [without_padding(again(features)) for _ in range(2)] == [first, second]


def test_no_global_generator_is_touched_or_used():
    collator = DataCollatorForCloze(mask_replace_prob=0.5, random_replace_prob=0.5, vocab_size=30)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    batch = collator(rows_of([9, 4]))
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert torch.equal(collator(rows_of([9, 4]))["input_ids"], batch["input_ids"])


def test_an_empty_row_is_padding_without_a_label():
    batch = DataCollatorForCloze()([{"input_ids": np.empty(0, np.int64), "row": -1, "epoch": 0}])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[PAD]],
        "attention_mask": [[0]],
        "labels": [[-100]],
    }


def test_longer_sequences_keep_their_newest_events():
    batch = DataCollatorForCloze(max_length=4, last_item_probability=1.0)(rows_of([9, 2]))
    assert batch["input_ids"].tolist() == [[15, 16, 17, MASK], [10, MASK, PAD, PAD]]
    assert DataCollatorForCloze()(rows_of([9, 2]))["input_ids"].shape == (2, 9)


@pytest.mark.parametrize("max_length", [None, 9, 4, 1])
def test_a_ranking_batch_asks_behind_the_newest_events_and_names_all_seen_items(max_length):
    collator = DataCollatorForCloze(max_length=max_length)
    features = [{"input_ids": np.array(history), "target": 7} for history in ([11, 12, 13, 14, 15], [], [16, 17])]
    batch = collator(features)
    kept = 5 if max_length is None else min(5, max_length - 1)
    expected = [[*[11, 12, 13, 14, 15][5 - kept :], MASK], [MASK], [*[16, 17][max(2 - kept, 0) :], MASK]]
    for row, tokens in enumerate(expected):
        is_event = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][is_event].tolist() == tokens
        assert (batch["input_ids"][row][~is_event] == PAD).all()
    assert batch["logits_to_keep"].dtype == torch.bool
    assert torch.equal(batch["logits_to_keep"], batch["input_ids"] == MASK)
    assert torch.equal(batch["labels"], torch.where(batch["logits_to_keep"], 7, -100))
    assert batch["seen_items"].tolist() == [[11, 12, 13, 14, 15], [-100] * 5, [16, 17, -100, -100, -100]]
    assert set(collator.ranking_batch([[11, 12]])) == {"input_ids", "attention_mask", "logits_to_keep"}


def test_special_tokens_are_those_that_are_given():
    collator = DataCollatorForCloze(pad_token_id=2, mask_token_id=0, last_item_probability=1.0)
    assert collator(rows_of([3, 1]))["input_ids"].tolist() == [[10, 11, 0], [0, 2, 2]]
    assert collator.ranking_batch([[10], []])["input_ids"].tolist() == [[10, 0], [0, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlm_probability": 1.5}, "mlm_probability is 1.5; give a share between 0 and 1"),
        ({"last_item_probability": -0.1}, "last_item_probability is -0.1; give a share between 0 and 1"),
        ({"mask_replace_prob": float("nan")}, "mask_replace_prob is nan; give a share"),
        ({"random_replace_prob": 2}, "random_replace_prob is 2; give a share"),
        ({"mask_replace_prob": 0.75, "random_replace_prob": 0.5, "vocab_size": 9}, "add up to 1.25; give at most 1"),
        ({"mask_replace_prob": 0.8, "random_replace_prob": 0.1}, "random_replace_prob needs items to draw from"),
        ({"padding_side": "top"}, "padding_side is 'top'; choose 'left' or 'right'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataCollatorForCloze(**options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_causal_samples_hide_nothing_and_predict_every_item_but_the_first(side):
    collator = DataCollatorForCloze(causal_probability=0.4, padding_side=side)
    features = [{"input_ids": list(range(3, 4 + row % 7)), "row": row, "epoch": 0} for row in range(3000)]
    batch = collator(features)
    is_causal = batch["causal_rows"]
    assert is_causal.float().mean().item() == pytest.approx(0.4, abs=0.03)
    cloze = DataCollatorForCloze(padding_side=side)(features)
    assert "causal_rows" not in cloze
    for name in ("input_ids", "labels"):
        assert torch.equal(batch[name][~is_causal], cloze[name][~is_causal])
    for row in is_causal.nonzero().flatten().tolist():
        events = batch["attention_mask"][row].bool()
        tokens = features[row]["input_ids"]
        assert batch["input_ids"][row][events].tolist() == tokens
        assert batch["labels"][row][events].tolist() == [-100, *tokens[1:]]
        assert (batch["labels"][row][~events] == -100).all()
