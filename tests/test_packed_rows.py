"""Packed rows: every event once and no padding, and the loss and gradients of the batch as a whole."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
from hf_bert4rec.cpu_attention import CPU_BF16
from hf_bert4rec.packed_rows import TOKENS_AT_ONCE, can_be_packed, packed_parts
from hf_bert4rec.product_sizes import next_size

BLOCKS = [("bert", "post"), ("bert", "pre"), ("modernbert", "pre")]


def mask_of(lengths, longest, side="right"):
    columns = torch.arange(longest)
    lengths = torch.tensor(lengths)[:, None]
    return columns < lengths if side == "right" else columns >= longest - lengths


def tiny_model(**changes):
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 40}
    model = Bert4RecForMaskedLM(
        Bert4RecConfig(
            **sizes | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "is_decoder": False} | changes
        )
    )
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.train().double()


def batch_of(mask, share=0.4):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 60, mask.shape, generator=generator) * mask
    labels = tokens.masked_fill(~mask | (torch.rand(mask.shape, generator=generator) > share), -100)
    return {"input_ids": tokens, "attention_mask": mask.long(), "labels": labels}


def is_packed(model, batch, **inputs):
    return can_be_packed(model.bert4rec, batch["labels"] != -100, attention_mask=batch["attention_mask"], **inputs)


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def read_whole(monkeypatch):
    """After `read_whole()` a batch is read as one padded rectangle."""
    return lambda: monkeypatch.setattr("hf_bert4rec.modeling_bert4rec.can_be_read_in_parts", lambda *_, **__: False)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.sampled_from(["left", "right"]))
def test_parts_hold_every_event_once_row_by_row(row_lengths, side):
    mask = mask_of(row_lengths, 3000, side)
    rows, sizes = [], []
    for places, lengths in packed_parts(mask):
        assert len(places) == lengths.sum()
        assert len(places) <= TOKENS_AT_ONCE
        rows += [piece.tolist() for piece in places.split(lengths.tolist())]
        sizes += lengths.tolist()
    assert sizes == sorted((length for length in row_lengths if length), reverse=True)
    expected = [(row * 3000 + mask[row].nonzero()[:, 0]).tolist() for row, length in enumerate(row_lengths) if length]
    assert sorted(rows) == expected


def test_a_row_longer_than_a_cpu_reads_at_once_is_a_part_of_its_own():
    mask = mask_of([TOKENS_AT_ONCE + 1, 5, 7], TOKENS_AT_ONCE + 1)
    assert [lengths.tolist() for _, lengths in packed_parts(mask)] == [[TOKENS_AT_ONCE + 1], [7, 5]]


def test_a_part_is_as_large_as_a_cpu_reads_at_once():
    half = TOKENS_AT_ONCE // 2
    assert [lengths.tolist() for _, lengths in packed_parts(mask_of([half] * 3, half))] == [[half, half], [half]]


@pytest.mark.parametrize(("backbone", "norm_position"), BLOCKS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("causal_rows", [None, [True, False, False, True, False, True, False], [True] * 7])
@pytest.mark.parametrize("position_origin", ["oldest", "newest"])
def test_loss_and_gradients_are_those_of_the_batch_as_a_whole(
    read_whole, backbone, norm_position, *, side, causal_rows, position_origin
):
    model = tiny_model(backbone=backbone, norm_position=norm_position, position_origin=position_origin)
    batch = batch_of(mask_of([40, 3, 17, 39, 0, 2, 17], 40, side))
    if causal_rows is not None:
        batch["causal_rows"] = torch.tensor(causal_rows)
    loss, gradients = loss_and_gradients(model, batch)
    read_whole()
    expected_loss, expected = loss_and_gradients(model, batch)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=1e-9)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def test_several_parts_give_the_loss_of_one(monkeypatch):
    model, batch = tiny_model(), batch_of(mask_of([40, 3, 17, 39, 0, 2, 17], 40))
    loss, gradients = loss_and_gradients(model, batch)
    sizes = []
    model.bert4rec.embeddings.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[1].shape[1]))
    monkeypatch.setattr("hf_bert4rec.packed_rows.TOKENS_AT_ONCE", 60)
    in_parts, expected = loss_and_gradients(model, batch)
    assert sizes == [40, next_size(39), next_size(17 + 17 + 3 + 2)]
    torch.testing.assert_close(in_parts, loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)


def test_rows_without_a_label_are_not_read_and_items_are_embedded_once():
    model, batch = tiny_model(), batch_of(mask_of([40, 30, 20], 40))
    batch["labels"][1] = -100
    embedded, read = [], []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: embedded.append(len(inputs[0])))
    model.bert4rec.embeddings.register_forward_pre_hook(lambda module, inputs: read.append(tuple(inputs[1].shape)))
    model(**batch)
    assert embedded == [60]
    assert read == [(1, 60, 16)]


def test_tokens_behind_the_rows_are_of_items_that_are_read():
    model, batch = tiny_model(), batch_of(mask_of([40, 33, 20], 40))
    batch["labels"][0] = -100
    batch["input_ids"][0] = 59
    batch["input_ids"][1:].clamp_(max=58)
    embedded = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: embedded.append(inputs[0]))
    model(**batch)
    assert [len(tokens) for tokens in embedded] == [56]  # 33 and 20 are events
    assert 59 not in embedded[0]


@pytest.mark.parametrize("changes", [{}, {"scale_embedding": True}])
def test_a_step_makes_one_block_of_the_size_of_the_catalogue(changes):
    model, batch = tiny_model(vocab_size=20_003, **changes), batch_of(mask_of([9, 6], 9))
    size = model.get_input_embeddings().weight.numel() * 8
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        model(**batch).loss.backward()
    events = profile.function_events
    # The gradient by the output, to which that of the rows that were embedded is added.
    assert sum(event.cpu_memory_usage >= size for event in events if not event.cpu_children) == 1
    assert "aten::embedding_sparse_backward" in {event.name for event in events}
    assert model.get_input_embeddings().weight.grad.layout == torch.strided
    # Where no loss is, the gradient is whole as ever.
    model.zero_grad()
    model.bert4rec(batch["input_ids"]).last_hidden_state.sum().backward()
    assert model.get_input_embeddings().weight.grad.layout == torch.strided


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, {"training_loss": "gbce", "num_negatives": 5}])
def test_an_embedding_without_another_gradient_has_one_of_its_own(changes):
    model = tiny_model(**changes)
    model(**batch_of(mask_of([9, 6], 9))).loss.backward()
    assert model.get_input_embeddings().weight.grad.layout == torch.strided


@pytest.mark.parametrize(("backbone", "norm_position"), BLOCKS)
def test_the_last_block_is_computed_at_the_labels_alone(backbone, norm_position):
    model, batch = tiny_model(backbone=backbone, norm_position=norm_position), batch_of(mask_of([40, 30, 20], 40))
    layer = model.bert4rec.encoder.layer[-1]
    feed_forward = layer.mlp if backbone == "modernbert" else layer.intermediate
    shapes = []
    feed_forward.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    model(**batch)
    assert shapes == [(1, int(batch["labels"].ne(-100).sum()), 16)]


@pytest.mark.parametrize(("backbone", "norm_position"), BLOCKS)
def test_dropout_acts_on_the_weights_of_attention(backbone, norm_position):
    batch, losses = batch_of(mask_of([40, 30, 20], 40)), []
    for dropout in (0.0, 0.5):
        options = {"norm_position": norm_position, "attention_probs_dropout_prob": dropout}
        model = tiny_model(backbone=backbone, **options)
        losses.append([model(**batch).loss.item() for _ in range(2)])
    assert losses[0][0] == losses[0][1]
    assert len({losses[0][0], *losses[1]}) == 3


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize(("backbone", "norm_position"), BLOCKS)
def test_attention_that_could_drop_gives_the_same_where_it_drops_nothing(backbone, norm_position, is_decoder):
    batch, found = batch_of(mask_of([40, 40, 30, 20, 1], 40)), []
    for dropout in (0.0, 1e-9):
        options = {"norm_position": norm_position, "backbone": backbone, "is_decoder": is_decoder}
        model = tiny_model(attention_probs_dropout_prob=dropout, **options)
        assert is_packed(model, batch)
        found.append(loss_and_gradients(model, batch))
    torch.testing.assert_close(found[1], found[0])


def test_a_decoder_reads_causally(read_whole):
    model, batch = tiny_model(is_decoder=True), batch_of(mask_of([40, 30, 20], 40))
    loss, _ = loss_and_gradients(model, batch)
    read_whole()
    torch.testing.assert_close(loss, loss_and_gradients(model, batch)[0])
    assert (loss - loss_and_gradients(tiny_model(), batch)[0]).abs() > 1e-3


def test_histories_longer_than_the_window_are_read_from_its_start(read_whole):
    model, batch = tiny_model(max_position_embeddings=20), batch_of(mask_of([40, 30, 20], 40))
    batch["labels"][:, :20] = -100
    assert is_packed(model, batch)
    loss, _ = loss_and_gradients(model, batch)
    read_whole()
    torch.testing.assert_close(loss, loss_and_gradients(model, batch)[0])


def without_change(model, batch):
    pass


def set_eager(model, batch):
    model.set_attn_implementation("eager")


def set_half(model, batch):
    model.bfloat16()


def checkpoint(model, batch):
    model.activation_checkpointing_enable()


def hidden_hook(*_):
    return None


def watch(path, kind):
    def change(model, batch):
        module = model.bert4rec.get_submodule(path)
        {
            "forward": module.register_forward_hook,
            "before": module.register_forward_pre_hook,
            "backward": module.register_full_backward_hook,
        }[kind](hidden_hook)

    change.__name__ = f"watch_{kind}_{path or 'model'}"
    return change


def wrap_forward(model, batch):
    forward = model.bert4rec.forward
    model.bert4rec.forward = lambda *args, **kwargs: forward(*args, **kwargs)


def own_attention(model, batch):
    attention = model.bert4rec.encoder.layer[1].attention.self
    attention.__class__ = type("Own", (type(attention),), {})


def label_padding(model, batch):
    batch["labels"][2, 30] = 7


def label_beyond_window(model, batch):
    model.config.max_position_embeddings = 10
    batch["labels"][0, 0] = 7


def label_nothing(model, batch):
    batch["labels"][:] = -100


WATCHED = ["", "encoder", "encoder.layer.0", "encoder.layer.0.attention", "encoder.layer.1.attention.self"]
HOOKS = [watch(path, kind) for path in WATCHED for kind in ("forward", "before", "backward")]
CHANGES = [set_eager, set_half, checkpoint, wrap_forward, own_attention, *HOOKS]
BAD_LABELS = [label_padding, label_beyond_window, label_nothing]


@pytest.mark.filterwarnings("ignore:For backward hooks to be called")
@pytest.mark.parametrize("change", [without_change, *CHANGES, *BAD_LABELS], ids=lambda change: change.__name__)
def test_what_needs_the_blocks_as_they_are_is_not_packed(change):
    model, batch = tiny_model(), batch_of(mask_of([40, 30, 20], 40))
    change(model, batch)
    assert is_packed(model, batch) == (change is without_change)
    if change is not set_half:
        assert torch.isfinite(loss_and_gradients(model, batch)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_half_precision_are_packed_where_they_are_in_bfloat16(dtype):
    model, batch = tiny_model().float(), batch_of(mask_of([40, 30, 20], 40))
    with torch.autocast("cpu", dtype):
        assert is_packed(model, batch) == (dtype == torch.bfloat16)
    model.set_attn_implementation(CPU_BF16)
    assert is_packed(model, batch)


@pytest.mark.parametrize("changes", [{}, {"attention_probs_dropout_prob": 1e-9}], ids=["", "can_drop"])
@pytest.mark.parametrize("causal_rows", [None, [True] * 5])
@pytest.mark.parametrize(("backbone", "norm_position"), BLOCKS)
def test_in_bfloat16_loss_and_gradients_are_close_to_float32(
    monkeypatch, backbone, norm_position, *, causal_rows, changes
):
    monkeypatch.setattr("hf_bert4rec.packed_rows.TOKENS_AT_ONCE", 60)
    model = tiny_model(backbone=backbone, norm_position=norm_position, **changes).float()
    batch = batch_of(mask_of([40, 3, 17, 39, 17], 40))
    if causal_rows is not None:
        batch["causal_rows"] = torch.tensor(causal_rows)
    expected_loss, expected = loss_and_gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = loss_and_gradients(model, batch)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-2, atol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 0.05 * gradient.norm(), name


def test_in_bfloat16_products_have_few_numbers_of_rows(monkeypatch):
    model, batch = tiny_model().float(), batch_of(mask_of([40, 35, 3, 17, 39, 17, 11], 40))
    layers = [module for module in model.bert4rec.encoder.modules() if isinstance(module, torch.nn.Linear)]
    sizes = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert is_packed(model, batch)
        loss, gradients = loss_and_gradients(model, batch)
        assert sizes == [next_size(size) for size in sizes]
        assert max(sizes) == 176 > batch["attention_mask"].sum() == 162
        # Whatever the number of tokens behind the rows, they change nothing.
        monkeypatch.setattr("hf_bert4rec.packed_rows.next_size", lambda number: number + 30)
        other_loss, other = loss_and_gradients(model, batch)
    assert max(sizes) == 192
    torch.testing.assert_close(other_loss, loss, rtol=1e-3, atol=0)
    for name, gradient in gradients.items():
        assert (other[name] - gradient).norm() <= 0.02 * gradient.norm(), name


def test_what_packed_rows_do_not_know_reaches_the_blocks():
    model, batch = tiny_model(), batch_of(mask_of([40, 30, 20], 40))
    assert is_packed(model, batch, input_ids=batch["input_ids"], position_ids=None, is_causal=True, prunes=False)
    assert not is_packed(model, batch, scaling=1.0)
    with pytest.raises(TypeError, match="scaling"):
        model(**batch, scaling=1.0)


def test_a_hook_on_attention_acts_in_training_too():
    model, batch = tiny_model(), batch_of(mask_of([40, 30, 20], 40))
    before = model(**batch).loss
    attention = model.bert4rec.encoder.layer[0].attention
    attention.register_forward_hook(lambda module, inputs, output: (output[0] * 0, *output[1:]))
    assert (model(**batch).loss - before).abs() > 1e-3
