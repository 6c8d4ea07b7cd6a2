"""The heads over histories and events against naive loops; what may not change a logit; losses; one folder for all heads."""

import logging

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForMaskedLM,
    Bert4RecForSequenceClassification,
    Bert4RecForTokenClassification,
    Bert4RecModel,
    Bert4RecTokenizer,
)

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 5,
    "hidden_dropout_prob": 0.0,
    "num_labels": 3,
}
HISTORIES = [[4], [9, 3, 7], [5, 5, 8, 20, 11, 6, 13]]  # the last one is longer than the window
HEADS = [Bert4RecForSequenceClassification, Bert4RecForTokenClassification]
VARIANTS = [
    {"norm_position": "post"},
    {"norm_position": "pre", "position_origin": "newest", "embedding_layer_norm": False},
    {"is_decoder": True},
    {"reading": "causal", "position_origin": "newest"},
]


def tiny_model(head, attn_implementation="sdpa", **changes):
    model = head(Bert4RecConfig(**SIZES | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.set_attn_implementation(attn_implementation)
    return model.eval().double()


def padded(histories, side, columns=9):
    tokens = torch.zeros(len(histories), columns, dtype=torch.long)
    for row, history in enumerate(histories):
        spare = columns - len(history)
        start = {"right": 0, "left": spare, "both": spare // 2}[side]
        tokens[row, start : start + len(history)] = torch.tensor(history, dtype=torch.long)
    return tokens


def naive_logits(model, history):
    """Of one history alone, without padding or mask: those of its events, `(events, labels)`, and those of their mean."""
    is_causal = model.config.is_decoder or model.config.reading == "causal"
    newest = torch.tensor([history[-model.config.max_position_embeddings :]])
    vectors = model.bert4rec(newest, is_causal=is_causal).last_hidden_state[0]
    weight, bias = model.classifier.weight, model.classifier.bias
    return vectors @ weight.T + bias, sum(vectors) / len(vectors) @ weight.T + bias


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left", "both"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_neither_padding_nor_batch_mates_nor_what_left_the_window_change_a_logit(variant, side, attn_implementation):
    tokens = padded(HISTORIES, side)
    model = tiny_model(Bert4RecForSequenceClassification, attn_implementation, **variant)
    expected = torch.stack([naive_logits(model, history)[1] for history in HISTORIES])
    embeds = {"inputs_embeds": model.get_input_embeddings()(tokens), "attention_mask": tokens != 0}
    for inputs in ({"input_ids": tokens}, {"input_ids": tokens, "attention_mask": (tokens != 0).long()}, embeds):
        torch.testing.assert_close(model(**inputs).logits, expected)
    model = tiny_model(Bert4RecForTokenClassification, attn_implementation, **variant)
    logits = model(tokens).logits
    for row, history in enumerate(HISTORIES):
        expected = naive_logits(model, history)[0]
        torch.testing.assert_close(logits[row, tokens[row] != 0][-len(expected) :], expected)


@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
def test_an_event_sees_later_ones_unless_the_model_was_trained_causally(reading):
    model = tiny_model(Bert4RecForTokenClassification, reading=reading)
    before, after = model(torch.tensor([[9, 3, 7], [9, 3, 8]])).logits
    is_same = torch.isclose(before, after).all(1).tolist()
    assert is_same == ([True, True, False] if reading == "causal" else [False] * 3)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_history_without_events_gets_the_bias(dtype, attn_implementation):
    model = tiny_model(Bert4RecForSequenceClassification, attn_implementation).to(dtype)
    for tokens in (padded([[], [4]], "right", columns=3), torch.empty(1, 0)):
        outputs = model(tokens, labels=torch.ones(len(tokens), dtype=torch.long))
        assert torch.equal(outputs.logits[0], model.classifier.bias)
        assert outputs.logits.isfinite().all() and outputs.loss.isfinite()
    assert tiny_model(Bert4RecForTokenClassification)(torch.empty(2, 0)).logits.shape == (2, 0, 3)


def test_a_four_dimensional_mask_says_who_sees_whom_and_the_padding_token_what_is_averaged():
    model = tiny_model(Bert4RecForSequenceClassification)
    tokens = padded(HISTORIES[:2], "right", columns=5)
    mask = (tokens != 0)[:, None, None, :].expand(-1, 1, 5, -1)
    positions = torch.arange(5)[None]
    torch.testing.assert_close(model(tokens, mask, positions).logits, model(tokens).logits)


LOSSES = {
    "single_label_classification": (torch.tensor([2, 0, 1]), torch.nn.functional.cross_entropy),
    "multi_label_classification": (
        torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]]),
        torch.nn.functional.binary_cross_entropy_with_logits,
    ),
    "regression": (torch.tensor([[0.5, 3, -1], [2, 2, 0], [1, 0, 0]]), torch.nn.functional.mse_loss),
}


@pytest.mark.parametrize("num_items_in_batch", [None, 60, torch.tensor(60)])
@pytest.mark.parametrize("problem_type", LOSSES)
def test_the_loss_is_that_of_the_problem_type_over_what_the_trainer_counts(problem_type, num_items_in_batch):
    labels, loss_of = LOSSES[problem_type]
    model = tiny_model(Bert4RecForSequenceClassification, problem_type=problem_type).float()
    outputs = model(padded(HISTORIES, "right"), labels=labels, num_items_in_batch=num_items_in_batch)
    expected = loss_of(outputs.logits, labels) * (1 if num_items_in_batch is None else labels.numel() / 60)
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_what_kind_of_problem_it_is_is_read_from_the_labels(dtype):
    tokens = padded(HISTORIES, "right")
    model = tiny_model(Bert4RecForSequenceClassification).float()
    labels = torch.tensor([2, 0, 1]) if dtype == torch.long else torch.eye(3)
    model(tokens, labels=labels)
    kind = "single" if dtype == torch.long else "multi"
    assert model.config.problem_type == f"{kind}_label_classification"
    model = tiny_model(Bert4RecForSequenceClassification, num_labels=1).float()
    outputs = model(tokens, labels=torch.tensor([18, 25, 56], dtype=dtype))
    assert model.config.problem_type == "regression"
    expected = sum((outputs.logits[:, 0] - torch.tensor([18.0, 25, 56])) ** 2) / 3
    torch.testing.assert_close(outputs.loss, expected)


def test_several_labels_may_be_whole_numbers_where_the_problem_type_says_so():
    labels, loss_of = LOSSES["multi_label_classification"]
    model = tiny_model(Bert4RecForSequenceClassification, problem_type="multi_label_classification").float()
    outputs = model(padded(HISTORIES, "right"), labels=labels.long())
    torch.testing.assert_close(outputs.loss, loss_of(outputs.logits, labels))


@pytest.mark.parametrize("num_items_in_batch", [None, 60])
def test_events_without_a_label_or_outside_the_window_and_padding_have_no_loss(num_items_in_batch):
    model = tiny_model(Bert4RecForTokenClassification).float()
    tokens = padded(HISTORIES, "left")
    labels = torch.randint(3, tokens.shape)  # of padding and old events too
    labels[1, -1] = -100
    outputs = model(tokens, labels=labels, num_items_in_batch=num_items_in_batch)
    counted = [(0, -1), (1, -3), (1, -2), *((2, place) for place in range(-5, 0))]
    total = sum(-outputs.logits[at].log_softmax(0)[labels[at]] for at in counted)
    torch.testing.assert_close(outputs.loss, total / (num_items_in_batch or len(counted)))


@pytest.mark.parametrize("head", HEADS)
def test_the_encoder_of_a_masked_model_is_taken_over_and_the_layer_drawn_anew(tmp_path, head, caplog):
    trained = Bert4RecForMaskedLM(Bert4RecConfig(**SIZES | {"num_labels": 2}, initializer_range=0.1))
    trained.save_pretrained(tmp_path)
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.WARNING)  # other tests run the command line, which keeps it quiet
    logger.addHandler(caplog.handler)
    names = {"id2label": {0: "F", 1: "M"}, "label2id": {"F": 0, "M": 1}}
    try:
        model, report = head.from_pretrained(tmp_path, num_labels=2, **names, output_loading_info=True)
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert report["unexpected_keys"] and all(name.startswith("cls.") for name in report["unexpected_keys"])
    assert "newly initialized" in caplog.text
    assert (model.classifier.bias == 0).all() and 0.05 < model.classifier.weight.std() < 0.15
    tokens = padded(HISTORIES, "right")
    expected = trained.eval().bert4rec(tokens).last_hidden_state
    assert torch.equal(model.eval().bert4rec(tokens).last_hidden_state, expected)
    model.save_pretrained(tmp_path / "head")
    auto = {HEADS[0]: AutoModelForSequenceClassification, HEADS[1]: AutoModelForTokenClassification}[head]
    loaded = auto.from_pretrained(tmp_path / "head")
    assert type(loaded) is head and loaded.config.id2label == names["id2label"]
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert torch.equal(Bert4RecModel.from_pretrained(tmp_path / "head")(tokens).last_hidden_state, expected)


@pytest.mark.parametrize("head", HEADS)
def test_dropout_before_the_layer_is_that_of_the_blocks(head):
    assert head(Bert4RecConfig(**SIZES | {"hidden_dropout_prob": 0.3})).dropout.p == 0.3
    model, tokens = tiny_model(head), padded(HISTORIES, "right")
    model.dropout.p = 0.5
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    assert not torch.equal(model.train()(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("head", HEADS)
def test_checkpointed_blocks_give_the_same_gradients_and_every_parameter_has_one(head):
    model, tokens = tiny_model(head).float().train(), padded(HISTORIES, "right")
    labels = torch.randint(3, tokens.shape[:1] if head is HEADS[0] else tokens.shape)
    found = []
    for checkpoints in (False, True):
        if checkpoints:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(tokens, labels=labels).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.parametrize("head", HEADS)
def test_hidden_states_attentions_and_tuples_come_as_in_transformers(head):
    model, tokens = tiny_model(head, "eager"), padded(HISTORIES, "right")
    outputs = model(tokens, output_hidden_states=True, output_attentions=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(3, 9, 16)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(3, 2, 9, 9)] * 2
    (logits,) = model(tokens, return_dict=False)
    assert torch.equal(logits, outputs.logits)


# Users of even items and users of odd ones; each event is of an even or an odd item, after one of them or not.
def parity_rows(tokenizer, num_rows=64):
    rows = []
    for row in range(num_rows):
        items = [2 * int(number) + row % 2 for number in torch.randint(10, (3 + row % 4,))]
        rows.append(dict(tokenizer([f"i{item}" for item in items], is_split_into_words=True)) | {"labels": row % 2})
    return rows


def trainer_of(model, rows, collator, folder, **options):
    options = {"per_device_train_batch_size": 16, "learning_rate": 1e-2, "num_train_epochs": 6} | options
    arguments = TrainingArguments(
        folder, save_strategy="no", disable_tqdm=True, use_cpu=True, logging_strategy="no", **options
    )
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator)


def test_the_stock_trainer_teaches_both_heads_and_pipelines_answer(tmp_path):
    tokenizer = Bert4RecTokenizer.from_items([f"i{item}" for item in range(20)])
    rows, names = parity_rows(tokenizer), {0: "even", 1: "odd"}
    config = Bert4RecConfig(**SIZES | {"num_labels": 2}, id2label=names, norm_position="pre")
    model = Bert4RecForSequenceClassification(config)
    trainer = trainer_of(model, rows, DataCollatorWithPadding(tokenizer), tmp_path)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.1
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert [answer["label"] for answer in classify(["i3 i5 i9 i1", "i2 i4"])] == ["odd", "even"]

    mixed = [{**row, "labels": [(token - 3) % 2 for token in row["input_ids"]]} for row in rows]
    model = Bert4RecForTokenClassification(config)
    trainer = trainer_of(model, mixed, DataCollatorForTokenClassification(tokenizer), tmp_path)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.1
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer)
    assert [answer["entity"] for answer in tag("i3 i4 i9")] == ["odd", "even", "odd"]


@pytest.mark.parametrize("kind", [*LOSSES, "tokens"])
def test_four_accumulated_batches_step_as_one_of_four_times_the_size(tmp_path, kind):
    tokenizer = Bert4RecTokenizer.from_items([f"i{item}" for item in range(20)])
    head, collator = Bert4RecForSequenceClassification, DataCollatorWithPadding(tokenizer)
    rows = parity_rows(tokenizer, num_rows=16)
    for row in rows:
        if kind == "multi_label_classification":
            row["labels"] = [float(row["labels"]), 1.0, 0.0]
        elif kind == "regression":
            row["labels"] = [float(len(row["input_ids"])), 0.5, -1.0]
        elif kind == "tokens":
            row["labels"] = [(token - 3) % 3 for token in row["input_ids"]]
            head, collator = Bert4RecForTokenClassification, DataCollatorForTokenClassification(tokenizer)
    weights = []
    for size in (16, 4):
        torch.manual_seed(0)
        model = head(Bert4RecConfig(**SIZES, problem_type=None if kind == "tokens" else kind))
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 16 // size, "max_steps": 1}
        trainer_of(model, rows, collator, tmp_path, **options, optim="sgd", max_grad_norm=0).train()
        weights.append(model.classifier.weight.detach().clone())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-6)
