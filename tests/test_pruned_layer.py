"""The last block at chosen positions gives what the whole block gives there, in value and in gradient."""

import itertools

import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, pruned_layer
from hf_bert4rec.encoders import position_inputs
from hf_bert4rec.pruned_layer import can_be_taken_apart, layer_at_columns, layer_at_positions, layer_everywhere

BLOCKS = {
    "post": {"norm_position": "post"},
    "pre": {"norm_position": "pre"},
    "modernbert": {"backbone": "modernbert", "norm_position": "pre"},
}
VARIANTS = [
    pytest.param(
        {**BLOCKS[block], "is_decoder": causal, "attn_implementation": attention}, id=f"{block}-{causal}-{attention}"
    )
    for block, causal, attention in itertools.product(BLOCKS, (False, True), ("sdpa", "eager"))
]
TOKENS = torch.tensor([[4, 0, 0, 0, 0, 0], [0, 9, 3, 7, 12, 0], [5, 5, 8, 20, 11, 6], [0, 0, 0, 0, 0, 0]])
# One label in the first row, several in the others, none in the last.
LABELS = torch.tensor([[7, *[-100] * 5], [-100, 3, -100, -100, 9, -100], [-100, 4, 8, -100, 8, 21], [-100] * 6])


def tiny_model(attn_implementation="sdpa", **changes):
    """A model in double precision, where it can, with random numbers in every parameter."""
    sizes = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 10}
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes | {"hidden_dropout_prob": 0.0} | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.set_attn_implementation(attn_implementation)
    # ModernBERT's own softmax is in single precision: of a row whose scores are all the lowest double it is NaN.
    needs_single = attn_implementation == "eager" and changes.get("backbone") == "modernbert"
    return model.eval().to(torch.float32 if needs_single else torch.float64)


def angles(model, num_rows=1):
    """What the model's blocks take besides states and mask: angles of places alike in all rows, or of each row's own."""
    return position_inputs(model.config, torch.arange(6) * torch.arange(1, num_rows + 1)[:, None])


def feed_forward_of(layer):
    return getattr(layer, "mlp", None) or layer.intermediate


@pytest.fixture
def num_computed():
    """Counts the positions whose feed-forward the last block computes: `count = num_computed(model)`."""

    def watch(model):
        counts = []
        layer = feed_forward_of(model.bert4rec.encoder.layer[-1])
        layer.register_forward_hook(lambda module, inputs, output: counts.append(inputs[0][..., 0].numel()))
        return counts

    return watch


def loss_and_gradients(model, **inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def block_mask(is_decoder, additive=False):
    """Two users in one row, in blocks of 2 and 4 events; a user sees no event of the other's."""
    blocks = torch.tensor([0, 0, 1, 1, 1, 1])
    mask = (blocks[:, None] == blocks[None, :]).expand(4, 1, 6, 6)
    mask = mask & torch.ones(6, 6).tril().bool() if is_decoder else mask
    return torch.where(mask, 0.0, -1e9).double() if additive else mask


@pytest.mark.parametrize("kind", ["tokens", "mask", "full rows", "vectors", "vectors and mask", "block mask"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_computes_labelled_positions_only_with_the_same_loss_and_gradients(variant, kind, num_computed):
    model = tiny_model(**variant).train()
    vectors = model.get_input_embeddings()(TOKENS).detach()
    inputs = {
        "tokens": {"input_ids": TOKENS},
        "mask": {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long()},
        "full rows": {"input_ids": TOKENS.clamp(min=3)},
        "vectors": {"inputs_embeds": vectors},
        "vectors and mask": {"inputs_embeds": vectors, "attention_mask": TOKENS != 0},
        "block mask": {
            "input_ids": TOKENS.clamp(min=3),
            "attention_mask": block_mask(variant["is_decoder"], additive=variant["attn_implementation"] == "eager"),
            "position_ids": torch.tensor([[0, 1, 0, 1, 2, 3]]),
        },
    }[kind]
    counts = num_computed(model)
    pruned = loss_and_gradients(model, labels=LABELS, **inputs)
    full = loss_and_gradients(model, labels=LABELS, **inputs, output_hidden_states=True)
    # Without a mask only a causal kernel knows which event is older than which: it needs every query.
    needs_all = variant["is_decoder"] and kind in ("full rows", "vectors") and variant["attn_implementation"] == "sdpa"
    # Packed rows are those with a label, without padding; causally they are not cut.
    is_packed = variant["is_decoder"] and kind == "mask" and variant["attn_implementation"] == "sdpa"
    assert counts == [24 if needs_all else 11 if is_packed else 7, 24]
    rtol, atol = (1e-10, 1e-10) if model.dtype == torch.float64 else (1e-5, 1e-5)
    for name, value in full.items():
        torch.testing.assert_close(
            pruned[name], value, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_boolean_logits_to_keep_gives_the_rows_of_all_logits_in_order(variant, num_computed):
    model = tiny_model(**variant)
    everything = model(TOKENS).logits
    counts = num_computed(model)
    is_event = TOKENS != 0
    for keep in (LABELS != -100, is_event, TOKENS == 5, TOKENS == 22, torch.ones_like(is_event)):
        logits = model(TOKENS, logits_to_keep=keep).logits
        assert logits.shape == (int(keep.sum()), 23)
        torch.testing.assert_close(logits[is_event[keep]], everything[keep & is_event])
        assert counts.pop() == keep.sum()


def test_logits_to_keep_takes_numbers_too():
    model = tiny_model()
    everything = model(TOKENS).logits
    for keep, columns in ((0, slice(None)), (2, slice(-2, None)), (torch.tensor([1, 3]), [1, 3])):
        torch.testing.assert_close(model(TOKENS, logits_to_keep=keep).logits, everything[:, columns])


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_may_ask_for_other_positions_than_the_labelled_ones(variant, num_computed):
    model = tiny_model(**variant)
    expected = model(TOKENS, labels=LABELS)
    counts = num_computed(model)
    keep = TOKENS == 5  # two positions, one of which is labelled
    outputs = model(TOKENS, labels=LABELS, logits_to_keep=keep)
    assert counts == [int((keep | (LABELS != -100)).sum())]
    torch.testing.assert_close(outputs.loss, expected.loss)
    torch.testing.assert_close(outputs.logits, expected.logits[keep])


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("in_configuration", [True, False])
def test_the_whole_block_runs_where_somebody_wants_to_look_at_it(name, training, in_configuration, num_computed):
    model = tiny_model("eager", **({name: True} if in_configuration else {})).train(training)
    counts = num_computed(model)
    wanted = {} if in_configuration else {name: True}
    outputs = model(TOKENS, labels=LABELS, logits_to_keep=LABELS != -100, **wanted)
    assert counts == [24]
    states = outputs.hidden_states if name == "output_hidden_states" else outputs.attentions
    shape = (4, 6, 16) if name == "output_hidden_states" else (4, 2, 6, 6)
    assert {tuple(state.shape) for state in states} == {shape}
    model.config.output_hidden_states = model.config.output_attentions = False
    model(TOKENS, labels=LABELS, logits_to_keep=LABELS != -100)
    assert counts == [24, 7]


@pytest.mark.parametrize("block", BLOCKS)
def test_hooks_on_the_block_are_called(block, num_computed):
    model = tiny_model(**BLOCKS[block]).train()
    layer = model.bert4rec.encoder.layer[-1]
    assert can_be_taken_apart(layer)
    called = []
    handle = layer.register_forward_pre_hook(lambda *_: called.append(1))
    assert not can_be_taken_apart(layer)
    counts = num_computed(model)
    model(TOKENS, labels=LABELS)
    handle.remove()
    model(TOKENS, labels=LABELS)
    assert called == [1]
    assert counts == [24, 7]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_is_applied_in_the_pruned_block(block, name):
    model = tiny_model(**BLOCKS[block] | {name: 0.5})
    layer = model.bert4rec.encoder.layer[-1]
    states, positions = torch.randn(4, 6, 16, dtype=torch.float64), LABELS != -100
    first, again = (layer_at_positions(layer, positions, states, None, **angles(model)) for _ in range(2))
    assert torch.equal(first, again)
    layer.train()
    first, again = (layer_at_positions(layer, positions, states, None, **angles(model)) for _ in range(2))
    assert not torch.equal(first, again)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_pruned_block_calls_every_part_that_the_whole_one_drops_in(block):
    model = tiny_model(**BLOCKS[block] | {"hidden_dropout_prob": 0.5})
    layer, states = model.bert4rec.encoder.layer[-1], torch.randn(4, 6, 16, dtype=torch.float64)
    called = []
    for name, module in layer.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    layer(states, None, **angles(model))
    expected = called.copy()
    called.clear()
    layer_at_positions(layer, LABELS != -100, states, None, **angles(model))
    assert called == expected
    assert len(called) == 2  # behind attention and in the feed-forward layer


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("num_rows", [1, 6])
@pytest.mark.parametrize("num_places", [1, 4])
def test_one_row_of_a_mask_and_of_places_stands_for_all(block, num_rows, num_places):
    model = tiny_model(**BLOCKS[block])
    layer, rotations = model.bert4rec.encoder.layer[-1], angles(model, num_places)
    states, positions = torch.randn(4, 6, 16, dtype=torch.float64), LABELS != -100
    mask = (TOKENS.clamp(max=3) != 0)[:, None, None, :].expand(4, 1, num_rows, 6)
    expected = layer(states, mask.expand(4, 1, 6, 6), **rotations)[positions]
    found = layer_at_positions(layer, positions, states, mask, **rotations)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_columns_give_what_positions_give(block):
    model = tiny_model(**BLOCKS[block])
    rotations = angles(model, 4)
    layer, states, columns = (
        model.bert4rec.encoder.layer[-1],
        torch.randn(4, 6, 16).double(),
        torch.tensor([2, 0, 5, 3]),
    )
    mask = (torch.rand(4, 1, 1, 6) < 0.5) | (torch.arange(6) == columns[:, None, None, None])
    expected = layer_at_positions(layer, torch.arange(6) == columns[:, None], states, mask, **rotations)
    torch.testing.assert_close(one_column_of(layer, states, columns, mask, **rotations), expected)
    both = layer_at_columns(layer, torch.stack([columns, columns * 0], 1), states, mask, **rotations)
    torch.testing.assert_close(both[:, 0], expected)
    torch.testing.assert_close(both[:, 1], one_column_of(layer, states, columns * 0, mask, **rotations))


def one_column_of(layer, states, columns, mask, **rotations):
    return layer_at_columns(layer, columns[:, None], states, mask, **rotations)[:, 0]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", ["none", "true and false", "added to the scores"])
def test_one_query_of_a_row_is_answered_without_values(block, kind, monkeypatch):
    model = tiny_model(**BLOCKS[block])
    layer, rotations = model.bert4rec.encoder.layer[-1], angles(model, 4)
    states, columns = torch.randn(4, 6, 16).double(), torch.tensor([2, 0, 5, 3])
    is_seen = (torch.rand(4, 1, 1, 6) < 0.5) | (torch.arange(6) == columns[:, None, None, None])
    added = torch.zeros(4, 1, 1, 6).double().masked_fill(~is_seen, -1e9)
    mask = {"none": None, "true and false": is_seen, "added to the scores": added}[kind]
    expected = layer(states, mask, **rotations)[torch.arange(4), columns]
    monkeypatch.setattr(pruned_layer, "_attention_of_some", None)  # it would compute them
    torch.testing.assert_close(one_column_of(layer, states, columns, mask, **rotations), expected)


@pytest.mark.parametrize("name", ["query", "key", "value", "Wqkv"])
@pytest.mark.parametrize("training", [True, False])
def test_what_stands_in_for_a_projection_is_called(name, training):
    """As adapters (peft) and quantisation do it."""

    class Doubled(torch.nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    model = tiny_model(attention_probs_dropout_prob=0.0, **BLOCKS["modernbert" if name == "Wqkv" else "post"])
    layer, rotations = model.train(training).bert4rec.encoder.layer[-1], angles(model, 4)
    states, columns = torch.randn(4, 6, 16).double(), torch.tensor([2, 0, 5, 3])
    projection = dict(layer.named_modules())["attn.Wqkv" if name == "Wqkv" else f"attention.self.{name}"]
    calls = []
    handle = projection.register_forward_hook(lambda *_: calls.append(1))
    one_column_of(layer, states, columns, None, **rotations)
    handle.remove()
    assert calls == [1]
    projection.__class__ = Doubled
    expected = layer(states, None, **rotations)[torch.arange(4), columns]
    torch.testing.assert_close(one_column_of(layer, states, columns, None, **rotations), expected)


@pytest.fixture
def piece_sizes(monkeypatch):
    """Pieces of seven tokens; tells how many each call of a block's feed-forward takes: `sizes = piece_sizes(layer)`."""
    monkeypatch.setattr(pruned_layer, "FEED_FORWARD_TOKENS", 7)

    def watch(layer):
        sizes = []
        feed_forward = feed_forward_of(layer)
        feed_forward.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0][..., 0].numel()))
        return sizes

    return watch


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_whole_block_in_pieces_gives_what_its_call_gives(variant, piece_sizes):
    model = tiny_model(**variant)
    layer, states = model.bert4rec.encoder.layer[0], torch.randn(4, 6, 16, dtype=model.dtype)
    sizes = piece_sizes(layer)
    with torch.no_grad():
        found = layer_everywhere(layer, states, None, **angles(model))
        assert sizes == [7, 7, 7, 3]
        torch.testing.assert_close(found, layer(states, None, **angles(model)))


def test_a_block_is_called_whole_where_gradients_or_hooks_want_it(piece_sizes):
    layer, states, seen = tiny_model().bert4rec.encoder.layer[0], torch.randn(4, 6, 16).double(), []
    sizes = piece_sizes(layer)
    layer_everywhere(layer, states, None)
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        found = layer_everywhere(layer, states, None)
    hook.remove()
    assert sizes == [24, 24]
    torch.testing.assert_close(found, seen[0])


@pytest.mark.parametrize("block", BLOCKS)
def test_ranking_reads_all_blocks_but_the_last_in_pieces(block, piece_sizes):
    model = tiny_model(**BLOCKS[block])
    sizes = piece_sizes(model.bert4rec.encoder.layer[0])
    histories = torch.tensor([[4, 9, 3, 7, 12, 1], [5, 5, 8, 20, 11, 1]])
    with torch.no_grad():
        found = model.user_vectors(histories)
        assert sizes == [7, 5]
        whole = model(histories, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(found, model.cls.predictions.transform(whole[:, -1]))
