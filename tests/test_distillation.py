"""A run with a teacher: its loss, what it learns and records, that its batches may be split, and teachers that are refused."""

import copy
import json
import re
import shutil

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Teacher,
    evaluate_run,
    prepare,
    train,
    write_model_card,
)
from hf_bert4rec.cli import main
from hf_bert4rec.run_folder import load_run, weights_hash

KEEP_ALL = {"min_user_events": 1, "min_item_events": 1}
TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "use_cpu": True,
    "disable_tqdm": True,
}
QUICK = TINY | {"max_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distillation")


@pytest.fixture(scope="module")
def data(folder):
    rows = [(f"u{user}", f"i{(user + step) % 12}", step) for user in range(24) for step in range(4 + user % 5)]
    lines = ["user_id,item_id,timestamp", *(",".join(map(str, row)) for row in rows)]
    (folder / "log.csv").write_text("\n".join(lines))
    return prepare(folder / "log.csv", folder / "data", **KEEP_ALL)


@pytest.fixture(scope="module")
def teacher(folder, data):
    """It knows the ring well."""
    options = TINY | {"num_train_epochs": 40, "learning_rate": 1e-2, "per_device_train_batch_size": 8}
    return train(data, folder / "teacher", hidden_dropout_prob=0.3, **options)


def record(run):
    return json.loads((run / "run.json").read_text())


def first_loss(run):
    return record(run)["log_history"][0]["loss"]


def log_shares(model, inputs, labels, is_causal):
    """Of all tokens at each label, read from both sides or from the events before it; and the labels."""
    config = copy.deepcopy(model.config)
    config.reading = "masked"
    reader = (Bert4RecForCausalLM if is_causal else Bert4RecForMaskedLM)(config).eval()
    reader.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = reader(**inputs).logits
    places = labels.ne(-100)
    if is_causal:  # the event before predicts; the first one of a row is predicted by none
        places = places & inputs["attention_mask"].cumsum(1).gt(1)
        return logits.roll(1, 1)[places].log_softmax(1), labels[places]
    return logits[places].log_softmax(1), labels[places]


def padded(rows, value, side):
    rows = [torch.tensor(row) for row in rows]
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("causal_rows", [[False] * 4, [True, False, False, True], [True] * 4])
def test_the_loss_of_a_step_is_that_of_the_definition(teacher, side, causal_rows):
    torch.manual_seed(5)
    # Causal rows alone are those of the causal class.
    model_class = Bert4RecForCausalLM if all(causal_rows) else Bert4RecForMaskedLM
    config = {"vocab_size": 15, "hidden_size": 16, "max_position_embeddings": 20, "hidden_dropout_prob": 0.0}
    student = model_class(Bert4RecConfig(**config))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    Teacher(teacher, 0.25).teach(student.train())
    histories = [[5, 6, 7, 8, 9], [4, 10, 6], [12, 13, 14, 3], [7, 8]]
    pairs = list(zip(histories, causal_rows, strict=True))
    read = [row if causal else [row[0], 1, *row[2:]] for row, causal in pairs]
    asked = [row if causal else [-100, row[1], *[-100] * len(row[2:])] for row, causal in pairs]
    tokens, labels = padded(read, 0, side), padded(asked, -100, side)
    inputs, is_causal = {"input_ids": tokens, "attention_mask": tokens.ne(0).long()}, torch.tensor(causal_rows)
    more = {} if all(causal_rows) else {"causal_rows": is_causal}
    found = student(**inputs, labels=labels, num_items_in_batch=10, **more).loss
    expected = 0
    for causal in (False, True):
        part = {name: value[is_causal == causal] for name, value in inputs.items()}
        of = labels[is_causal == causal]
        if len(of):
            own, targets = log_shares(student, part, of, causal)
            others, _ = log_shares(load_run(teacher)[0], part, of, causal)
            expected -= 0.75 * own.gather(1, targets[:, None]).sum() + 0.25 * (others.exp() * own).sum()
    torch.testing.assert_close(found, expected / 10)


def test_accumulated_batches_with_a_teacher_are_one_large_batch(data, teacher, tmp_path):
    options = TINY | {"num_train_epochs": 2, "load_best_model_at_end": False, "hidden_dropout_prob": 0.0}
    options |= {"learning_rate": 1e-3, "teacher": teacher, "teacher_weight": 0.7}
    whole = train(data, tmp_path / "whole", per_device_train_batch_size=12, **options)
    parts = train(data, tmp_path / "parts", per_device_train_batch_size=4, gradient_accumulation_steps=3, **options)
    one, other = (load_run(run)[0].state_dict() for run in (whole, parts))
    assert max((one[name] - other[name]).abs().max() for name in one) < 1e-5


def test_a_student_takes_over_what_the_log_does_not_say(data, teacher, tmp_path):
    """The teacher likes some items more than the log does; of the same few steps those with it end closer to it."""
    options = TINY | {"max_steps": 60, "learning_rate": 1e-2, "warmup_steps": 0, "load_best_model_at_end": False}
    shutil.copytree(teacher, tmp_path / "teacher")
    teacher, (model, _) = tmp_path / "teacher", load_run(teacher)
    with torch.no_grad():
        model.get_output_embeddings().bias[3:9] += 4
    model.save_pretrained(teacher)
    taught = train(data, tmp_path / "taught", teacher=str(teacher), teacher_weight=1.0, **options)
    alone = train(data, tmp_path / "alone", **options)
    history = torch.tensor([[token, token + 1, 1] for token in range(3, 13)])

    def log_shares(run):
        with torch.no_grad():
            return load_run(run)[0](history, logits_to_keep=history == 1).logits.log_softmax(1)

    expected = log_shares(teacher)
    distances = [(expected.exp() * (expected - log_shares(run))).sum(1).mean() for run in (taught, alone)]
    assert distances[0] < 0.3 * distances[1], distances


def test_the_record_names_the_teacher_and_the_command_repeats_the_run(data, teacher, tmp_path, capsys):
    assert (
        main(["train", str(data.folder), "--output_dir", str(tmp_path / "run"), "--teacher", str(teacher), *FLAGS])
        == 0
    )
    found = record(tmp_path / "run")
    spent = {kind: record(teacher)[kind] for kind in ("wall_seconds", "cpu_seconds")}
    assert found["teacher"] == {"model": "teacher", "weights_hash": weights_hash(teacher)} | spent
    assert "--teacher teacher " in found["commands"][1]
    assert str(teacher) not in json.dumps(found)
    assert "Teacher was teacher" in capsys.readouterr().out
    (tmp_path / "metrics.json").write_text(json.dumps(evaluate_run(tmp_path / "run", data)))
    card, *_ = write_model_card(tmp_path / "run", [tmp_path / "metrics.json"])
    minutes = f"{spent['cpu_seconds'] / 60:.1f}"
    assert f"| teacher | teacher, 50% of the loss, itself trained in {minutes} CPU minutes |" in card.read_text()


FLAGS = [word for name, value in QUICK.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal_probability": 0.0}, None),
        ({"teacher_weight": 1.5}, "teacher_weight is 1.5; give a share between 0 and 1"),
        ({"training_loss": "gbce"}, "training_loss is 'gbce', but a teacher needs 'softmax' or 'sampled_softmax'"),
        (
            {"max_position_embeddings": 21},
            "The teacher .* reads 20 events, the run 21; give max_position_embeddings 20",
        ),
        ({"teacher": "nobody"}, "There is no folder nobody, and no model of that name"),
        ({"teacher": None, "teacher_weight": 0.3}, "give teacher too"),
    ],
)
def test_a_teacher_that_cannot_teach_the_run_is_refused(data, teacher, tmp_path, changes, message):
    options = QUICK | {"teacher": teacher} | changes
    if message is None:
        assert train(data, tmp_path / "run", **options) == tmp_path / "run"
        return
    with pytest.raises((ValueError, OSError), match=message):
        train(data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run.partial").exists()


def test_a_teacher_of_one_objective_teaches_that_one_alone(data, tmp_path):
    teacher = train(data, tmp_path / "teacher", causal_probability=1.0, **QUICK)
    message = "teacher .* was trained with causal_probability 1, now it is 0.8; give the same"
    with pytest.raises(ValueError, match=message):
        train(data, tmp_path / "run", teacher=teacher, **QUICK)
    train(data, tmp_path / "run", teacher=teacher, causal_probability=1.0, **QUICK)


def test_a_teacher_that_may_have_seen_the_targets_is_refused(data, teacher, folder, tmp_path):
    log = (folder / "log.csv").read_text().splitlines()
    (tmp_path / "log.csv").write_text("\n".join(log[:-1]))
    vocabulary = load_run(teacher)[1].item_ids
    shorter = prepare(tmp_path / "log.csv", tmp_path / "data", vocabulary=vocabulary, **KEEP_ALL)
    with pytest.raises(ValueError, match=r"trained on other data, which may hold what the run is evaluated on"):
        train(shorter, tmp_path / "run", teacher=teacher, **QUICK)
    other = prepare(tmp_path / "log.csv", tmp_path / "other", vocabulary=vocabulary[::-1], **KEEP_ALL)
    with pytest.raises(ValueError, match=r"The teacher .*teacher has other items\. .* another vocabulary"):
        train(other, tmp_path / "run", teacher=teacher, **QUICK)


def test_nothing_is_prepared_for_a_teacher_that_cannot_teach(folder, teacher, tmp_path):
    with pytest.raises(ValueError, match="a teacher needs"):
        train(folder / "log.csv", tmp_path / "run", teacher=teacher, training_loss="bce", **QUICK)
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_with_the_teacher_that_it_was_begun_with(data, teacher, tmp_path):
    changed = shutil.copytree(teacher, tmp_path / "teacher")
    stop = {"num_train_epochs": 1, "lr_scheduler_kwargs": {"unheard_of": 1}}  # fails when training begins
    with pytest.raises(TypeError):
        train(data, tmp_path / "run", teacher=changed, **TINY | stop)
    checkpoint = tmp_path / "run.partial" / "checkpoint-1"  # without one a run is begun anew
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    model, _ = load_run(changed)
    with torch.no_grad():
        model.get_output_embeddings().bias += torch.arange(15)
    model.save_pretrained(changed)
    with pytest.raises(ValueError, match=r"was begun with teacher teacher \([0-9a-f]{12}\), now it is teacher \("):
        train(data, tmp_path / "run", teacher=changed, **TINY | stop)


def test_models_and_batches_that_a_teacher_cannot_follow_are_refused(teacher):
    found, sizes = Teacher(teacher), {"hidden_size": 16, "max_position_embeddings": 20}
    with pytest.raises(ValueError, match="has 12 items, the model 13; they need the same"):
        found.teach(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=16, **sizes)))
    with pytest.raises(ValueError, match="a teacher needs 'softmax' or 'sampled_softmax'"):
        found.teach(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=15, training_loss="bce", **sizes)))
    student = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=15, hidden_size=16, max_position_embeddings=3))
    found.teach(student.train())
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    with pytest.raises(ValueError, match=r"found 4 labels, the model 2: histories are longer than it reads"):
        student(tokens, labels=tokens, causal_rows=torch.tensor([True]))
    with pytest.raises(ValueError, match="reads tokens, found inputs_embeds"):
        student(inputs_embeds=torch.zeros(1, 3, 16), labels=tokens[:, :3])


def test_a_run_may_not_replace_its_teacher(data, teacher):
    with pytest.raises(FileExistsError, match="would be deleted"):
        train(data, teacher, teacher=teacher, overwrite=True, **QUICK)


def test_the_teacher_reads_without_dropout_and_is_not_trained(teacher):
    student, _ = load_run(teacher)
    student.train()
    found = Teacher(teacher, 0.25)
    found.teach(student)
    inputs = {
        "input_ids": torch.tensor([[5, 1, 7, 0], [4, 5, 6, 1]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1] * 4]),
    }
    labels = torch.where(inputs["input_ids"] == 1, 6, -100)
    loss = student(**inputs, labels=labels).loss
    loss.backward()
    assert all(parameter.grad is None for parameter in found.model.parameters())
    given = inputs | {"position_ids": None, "inputs_embeds": None}
    views = [found.soft_targets(given, labels, None, num_labels=2) for _ in range(2)]
    assert torch.equal(views[0].vectors, views[1].vectors)
    expected, _ = load_run(teacher)
    expected.config.reading = "masked"
    with torch.no_grad():
        logits = expected(**inputs, logits_to_keep=labels.ne(-100)).logits
    torch.testing.assert_close(views[0].decoder(views[0].vectors), logits)
    assert views[0].weight == 0.25
    assert not any(re.search("teacher", name) for name in student.state_dict())
