"""The model against BERT and against the paper's equations; what may not change a score, and what must."""

import copy
import itertools
import math

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM

SIZES = {"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 10, "hidden_dropout_prob": 0.0}
HISTORIES = [[4], [9, 3, 7, 1], [5, 5, 8, 20, 11, 1, 6]]
VARIANTS = [
    pytest.param({"norm_position": n, "position_origin": origin, "is_decoder": causal}, id=f"{n}-{origin}-{causal}")
    for n, origin, causal in itertools.product(("post", "pre"), ("oldest", "newest"), (False, True))
] + [pytest.param({"norm_position": "pre", "final_layer_norm": False}, id="pre-without-final-norm")]
# What holds for BERT's blocks holds for ModernBERT's too; what those compute is in test_encoders.
MODERN = {"backbone": "modernbert", "norm_position": "pre", "embedding_layer_norm": False}
BLOCKS = [{"norm_position": "post"}, {"norm_position": "pre"}, MODERN]
ALL_VARIANTS = VARIANTS + [pytest.param(MODERN | {"is_decoder": c}, id=f"modernbert-{c}") for c in (False, True)]


def tiny_model(dtype=torch.float64, attn_implementation="sdpa", **changes):
    """A model in evaluation mode with random numbers in every parameter, so that none of them is without effect."""
    model = Bert4RecForMaskedLM(Bert4RecConfig(**SIZES | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.set_attn_implementation(attn_implementation)
    return model.eval().to(dtype)


def padded(histories, side):
    """Tokens, and the mask of events; 12 columns; the padding stands on the right, the left or on both sides."""
    tokens = torch.zeros(len(histories), 12, dtype=torch.long)
    for row, history in enumerate(histories):
        spare = 12 - len(history)
        start = {"right": 0, "left": spare, "both": spare // 2}[side]
        tokens[row, start : start + len(history)] = torch.tensor(history)
    return tokens, tokens != 0


def labelled(tokens, share=0.4):
    """Labels for about a share of the events, among them the last column's."""
    is_label = (torch.rand(tokens.shape) < share) & (tokens != 0)
    return torch.where(is_label, torch.randint(3, 23, tokens.shape), -100)


def gradients(model, **inputs):
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def naive_logits(model, history):
    """Scores at each position of one history, by the paper's equations, one head at a time."""
    config, weights = model.config, model.state_dict()
    is_pre_norm = config.norm_position == "pre"

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + config.layer_norm_eps).sqrt()
        return x * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]

    def gelu(x):
        return x * (1 + (x / math.sqrt(2)).erf()) / 2

    def attention(x, name):
        heads = []
        for columns in torch.arange(16).split(8):
            query, key, value = (linear(x, f"{name}.{part}")[:, columns] for part in ("query", "key", "value"))
            scores = query @ key.T / math.sqrt(8)
            if config.is_decoder:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ value)
        return torch.cat(heads, -1)

    positions = torch.arange(len(history))
    positions = positions.flip(0) if config.position_origin == "newest" else positions
    items, places = (weights[f"bert4rec.embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
    scale = config.hidden_size**0.5 if config.scale_embedding else 1
    x = scale * items[torch.tensor(history)] + places[positions]
    x = norm(x, "bert4rec.embeddings") if config.embedding_layer_norm else x
    for layer in (f"bert4rec.encoder.layer.{index}" for index in range(config.num_hidden_layers)):
        inputs = norm(x, f"{layer}.attention") if is_pre_norm else x
        x = x + linear(attention(inputs, f"{layer}.attention.self"), f"{layer}.attention.output.dense")
        x = x if is_pre_norm else norm(x, f"{layer}.attention.output")
        inputs = norm(x, f"{layer}.intermediate") if is_pre_norm else x
        x = x + linear(gelu(linear(inputs, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
        x = x if is_pre_norm else norm(x, f"{layer}.output")
    x = norm(x, "bert4rec") if is_pre_norm and config.final_layer_norm else x
    x = gelu(linear(x, "cls.predictions.transform.dense"))
    x = norm(x, "cls.predictions.transform") if config.head_layer_norm else x
    return linear(x, "cls.predictions.decoder")


def test_scores_equal_those_of_bert_without_segments_on_the_same_weights(tmp_path):
    sizes = SIZES | {"initializer_range": 0.5, "attention_probs_dropout_prob": 0.0}
    bert = BertForMaskedLM(BertConfig(**sizes)).eval()
    for parameter in bert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.zeros_(bert.bert.embeddings.token_type_embeddings.weight)
    bert.save_pretrained(tmp_path)
    model, report = Bert4RecForMaskedLM.from_pretrained(
        tmp_path, config=Bert4RecConfig(**sizes), key_mapping={r"^bert\.": "bert4rec."}, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert report["unexpected_keys"] == {"bert4rec.embeddings.token_type_embeddings.weight"}
    tokens, mask = padded([HISTORIES[1], HISTORIES[2]], "right")
    tokens, mask = tokens[:, :10], mask[:, :10]
    expected = bert(tokens, attention_mask=mask).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(model(tokens, mask).logits[mask], expected[mask], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("head_norm", "embedding_norm"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_equal_the_equations_of_the_paper(variant, head_norm, embedding_norm, scale):
    model = tiny_model(
        **variant, head_layer_norm=head_norm, embedding_layer_norm=embedding_norm, scale_embedding=scale
    )
    assert ("cls.predictions.transform.LayerNorm.weight" in model.state_dict()) == head_norm
    assert ("bert4rec.embeddings.LayerNorm.weight" in model.state_dict()) == embedding_norm
    for history in HISTORIES:
        torch.testing.assert_close(model(torch.tensor([history])).logits[0], naive_logits(model, history))


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_neither_padding_nor_the_other_rows_of_a_batch_change_a_score(variant, attn_implementation):
    model = tiny_model(attn_implementation=attn_implementation, **variant)
    model.to(torch.float32 if "backbone" in variant else torch.float64)  # ModernBERT's softmax is in single precision
    alone = torch.cat([model(torch.tensor([history])).logits[0] for history in HISTORIES])
    # A row of padding only must leave the others alone, too.
    for side, mates in itertools.product(("right", "left", "both"), ([], [[]], [[8] * 10])):
        tokens, mask = padded(HISTORIES + mates, side)
        mine = torch.tensor([True] * len(HISTORIES) + [False] * len(mates))
        for attention_mask in (mask, mask.long(), None):
            logits = model(tokens, attention_mask).logits
            assert logits.isfinite().all()
            torch.testing.assert_close(logits[mine][mask[mine]], alone)
            kept = model(tokens, attention_mask, logits_to_keep=mask).logits
            torch.testing.assert_close(kept[: len(alone)], alone)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_only_the_newest_max_position_embeddings_events_are_read(variant):
    model = tiny_model(**variant)
    history = torch.randint(3, 23, (1, 15))
    expected = model(history[:, -10:]).logits
    zeros = torch.zeros(1, 3, dtype=torch.long)
    vectors = model.get_input_embeddings()
    for left, right in itertools.product((zeros[:, :0], zeros), repeat=2):
        tokens = torch.cat([left, history, right], 1)
        mask = tokens != 0
        newest = slice(left.shape[1] + 5, left.shape[1] + 15)
        for inputs in (
            {"input_ids": tokens},
            {"input_ids": tokens, "attention_mask": mask.long()},
            {"inputs_embeds": vectors(tokens), "attention_mask": mask},
        ):
            torch.testing.assert_close(model(**inputs).logits[:, newest], expected)
    torch.testing.assert_close(model(inputs_embeds=vectors(history)).logits[:, -10:], expected)


def test_a_masked_event_is_as_if_it_had_never_happened():
    model = tiny_model()
    mask = torch.tensor([[1, 0, 1, 1]])
    logits = model(torch.tensor([[9, 13, 3, 1]]), mask).logits
    torch.testing.assert_close(logits[:, [0, 2, 3]], model(torch.tensor([[9, 3, 1]])).logits)


def test_positions_that_are_given_count():
    model, tokens = tiny_model(), torch.tensor([HISTORIES[2]])
    by_default = model(tokens).logits
    torch.testing.assert_close(model(tokens, position_ids=torch.arange(7)[None]).logits, by_default)
    assert (model(tokens, position_ids=torch.arange(7).flip(0)[None]).logits - by_default).abs().max() > 0.01


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_a_later_event_changes_an_earlier_output_only_without_a_causal_mask(variant, attn_implementation):
    model = tiny_model(attn_implementation=attn_implementation, **variant)
    vectors = model.get_input_embeddings()(torch.tensor([HISTORIES[2]])).detach().requires_grad_()
    for place in range(7):
        keep = torch.arange(7)[None] == place
        everything, kept = model(inputs_embeds=vectors), model(inputs_embeds=vectors, logits_to_keep=keep)
        for logits in (everything.logits[:, place], kept.logits):
            (influence,) = torch.autograd.grad(logits.square().sum(), vectors)
            reached = influence[0].abs().amax(1) > 0
            expected = torch.arange(7) <= place if model.config.is_decoder else torch.ones(7, dtype=torch.bool)
            assert reached.tolist() == expected.tolist()


@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_causal_model_gives_a_beginning_the_same_outputs_whatever_follows(blocks):
    model, tokens = tiny_model(**blocks, is_decoder=True), torch.tensor([HISTORIES[2]])
    everything = model(tokens).logits
    for length in range(1, 7):
        torch.testing.assert_close(model(tokens[:, :length]).logits, everything[:, :length])


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_sdpa_and_eager_attention_agree(variant):
    model = tiny_model(torch.float32, **variant)
    tokens, mask = padded(HISTORIES, "both")
    expected = model(tokens, mask).logits[mask]
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(tokens, mask).logits[mask], expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask", "ignore:flex_attention called without")
@pytest.mark.parametrize("is_decoder", [False, True])
def test_flex_attention_agrees_where_no_gradient_is_needed(is_decoder):
    model = tiny_model(torch.float32, is_decoder=is_decoder)
    tokens, mask = padded(HISTORIES, "both")
    expected = model(tokens, mask).logits
    model.set_attn_implementation("flex_attention")
    # Transformers compiles its kernel, which takes half a minute and tests the compiler, not the model.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(model(tokens, mask).logits[mask], expected[mask], rtol=0, atol=1e-5)
        kept = model(tokens, mask, logits_to_keep=tokens == 1).logits
    torch.testing.assert_close(kept, expected[tokens == 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_the_loss_is_the_same_in_training_and_evaluation_and_equals_plain_cross_entropy(variant):
    model = tiny_model(**variant)
    tokens, mask = padded(HISTORIES, "left")
    labels = labelled(tokens)
    outputs = model(tokens, mask, labels=labels)
    expected = torch.nn.functional.cross_entropy(outputs.logits[labels != -100], labels[labels != -100])
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    training = model.train()(tokens, mask, labels=labels)
    assert training.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert training.logits is None


@pytest.mark.parametrize("training", [True, False])
def test_the_summed_loss_is_divided_by_the_labels_of_all_batches(training):
    model = tiny_model().train(training)
    tokens, mask = padded(HISTORIES, "right")
    labels = torch.where(mask, 5, -100)
    mean = model(tokens, mask, labels=labels).loss
    for num_items in (24, torch.tensor(24)):
        loss = model(tokens, mask, labels=labels, num_items_in_batch=num_items).loss
        assert loss.item() == pytest.approx(mean.item() * 12 / 24, rel=1e-5)


def test_accumulated_batches_give_the_gradient_of_the_whole_batch():
    model = tiny_model().train()
    tokens, mask = padded(HISTORIES, "right")
    labels = torch.where(mask, tokens, -100)
    whole = gradients(model, input_ids=tokens, labels=labels)
    parts = [gradients(model, input_ids=tokens[r], labels=labels[r], num_items_in_batch=12) for r in ([0, 2], [1])]
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_every_parameter_gets_a_gradient_and_a_batch_without_a_label_gives_zeros(blocks, tie_word_embeddings):
    model = tiny_model(**blocks, tie_word_embeddings=tie_word_embeddings).train()
    tokens, _ = padded(HISTORIES, "right")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model(tokens, labels=labelled(tokens)).loss.backward()
    # Distributed training waits for ever for a parameter without a gradient.
    assert all(parameter.grad is not None for parameter in trained)
    model.zero_grad()
    loss = model(tokens, labels=torch.full_like(tokens, -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert all((parameter.grad == 0).all() for parameter in trained)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_gradient_checkpointing_gives_the_same_gradients(blocks):
    model = tiny_model(**blocks).train()
    tokens, _ = padded(HISTORIES, "right")
    inputs = {"input_ids": tokens, "labels": labelled(tokens)}
    counted = []
    _, part, *_ = model.bert4rec.encoder.layer[0].children()
    part.register_forward_hook(lambda *_: counted.append(1))
    plain = gradients(model, **inputs)
    assert len(counted) == 1
    model.activation_checkpointing_enable()
    checkpointed = gradients(model, **inputs)
    assert len(counted) == 1 + 2  # forward, and again on the way back
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_half_precision_stays_close_to_single(blocks):
    model = tiny_model(torch.float32, **blocks)
    tokens, mask = padded(HISTORIES, "right")
    labels = labelled(tokens)
    expected = model(tokens, mask, labels=labels)
    half = copy.deepcopy(model).bfloat16()
    outputs = half(tokens, mask, labels=labels)
    assert outputs.logits.dtype == torch.bfloat16
    assert (outputs.logits - expected.logits)[mask].abs().mean() < 0.05 * expected.logits[mask].abs().mean()
    assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=0.05)
    for gradient in gradients(half.train(), input_ids=tokens, labels=labels).values():
        assert gradient.dtype == torch.bfloat16
        assert gradient.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(tokens, mask, labels=labels).loss
    assert loss.item() == pytest.approx(expected.loss.item(), rel=0.05)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler imports torch.jit
@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_compiler_traces_the_whole_model(is_decoder):
    model = tiny_model(is_decoder=is_decoder, num_hidden_layers=1)
    tokens, mask = padded(HISTORIES, "right")
    labels = labelled(tokens)
    # The backend that traces but makes no code: no compiler is needed, and no half minute.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, mask).logits, model(tokens, mask).logits)
    expected = gradients(model.train(), input_ids=tokens, attention_mask=mask, labels=labels)
    found = gradients(compiled, input_ids=tokens, attention_mask=mask, labels=labels)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[f"_orig_mod.{name}"], gradient, rtol=1e-4, atol=1e-6)


def test_hidden_states_and_attentions_are_recorded():
    model = tiny_model(attn_implementation="eager")
    tokens, mask = padded(HISTORIES, "right")
    outputs = model(tokens, mask, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(3, 12, 16)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(3, 2, 12, 12)] * 2
    torch.testing.assert_close(model.cls(outputs.hidden_states[-1]), outputs.logits)
    assert (outputs.attentions[0][2, :, :, ~mask[2]] == 0).all()
    assert model(tokens, mask, return_dict=False)[0].shape == (3, 12, 23)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 4},
        {"hidden_act": "relu"},
        {"hidden_dropout_prob": 0.5},
        {"attention_probs_dropout_prob": 0.5},
        {"layer_norm_eps": 0.1},
        {"norm_position": "pre"},
        {"position_origin": "newest"},
        {"embedding_layer_norm": False},
        {"scale_embedding": True},
        {"head_layer_norm": False},
        {"is_decoder": True},
        {"pad_token_id": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_that_leaves_the_weights_alone_changes_the_scores(change):
    model, changed = tiny_model().train(), tiny_model(**change).train()
    changed.load_state_dict(model.state_dict(), strict=False)
    tokens = torch.tensor([HISTORIES[1]])
    assert (model(tokens).logits - changed(tokens).logits)[0, -1].abs().max() > 1e-3


def test_dropout_is_for_training_only():
    model, tokens = tiny_model(hidden_dropout_prob=0.5), torch.tensor([HISTORIES[1]])
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    assert not torch.equal(model.train()(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_the_product_of_user_and_item_vectors_is_the_score(variant, side):
    model = tiny_model(**variant, mask_token_id=2)
    tokens, mask = padded([[2], [4, 2], [9, 3, 7, 2, 5], [*range(3, 14), 2]], side)
    vectors = model.user_vectors(tokens, mask)
    assert vectors.shape == (4, 16)
    head = model.get_output_embeddings()
    torch.testing.assert_close(vectors @ head.weight.T + head.bias, model(tokens, mask).logits[tokens == 2])


@pytest.mark.parametrize(("history", "count"), [([4, 5], 0), ([1, 5, 1], 2)])
def test_a_user_vector_needs_exactly_one_mask(history, count):
    with pytest.raises(ValueError, match=rf"needs exactly one \[MASK\]; found \[{count}\] in a row"):
        tiny_model().user_vectors(torch.tensor([history]))


def test_inputs_that_cannot_be_read_are_refused():
    tokens, vectors = torch.full((1, 11), 5), torch.zeros(1, 11, 16)
    for inputs in ({}, {"input_ids": tokens, "inputs_embeds": vectors}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds; found both or neither"):
            tiny_model()(**inputs)
    with pytest.raises(ValueError, match="11 events are more than the 10 of max_position_embeddings"):
        tiny_model()(tokens, torch.ones(1, 1, 11, 11, dtype=torch.bool))
