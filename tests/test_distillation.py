"""A run with a teacher: what it learns, what it records, that it resumes and splits as others, and teachers that are refused."""

import json
import re
import shutil

import pytest
import torch

from hf_bert4rec import Teacher, evaluate_run, prepare, train, write_model_card
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


@pytest.mark.parametrize("causal_probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_the_first_loss_is_that_of_label_and_teacher(data, teacher, tmp_path, loss, causal_probability):
    """With the whole weight on a teacher that is the student itself the loss is the entropy of its probabilities."""
    options = TINY | {"training_loss": loss, "num_negatives": 5000, "max_steps": 1, "logging_steps": 1}
    options |= {
        "causal_probability": causal_probability,
        "per_device_train_batch_size": 64,
        "hidden_dropout_prob": 0.0,
    }
    unmoved = options | {"learning_rate": 0.0, "load_best_model_at_end": False}
    own = train(data, tmp_path / "own", **unmoved)
    again = train(data, tmp_path / "again", teacher=own, teacher_weight=1.0, **unmoved)
    half = train(data, tmp_path / "half", teacher=own, teacher_weight=0.5, **unmoved)
    untaught = train(data, tmp_path / "untaught", teacher=own, teacher_weight=0.0, **unmoved)
    assert first_loss(untaught) == first_loss(own)
    assert float(first_loss(half)) == pytest.approx((float(first_loss(own)) + float(first_loss(again))) / 2, abs=2e-3)
    assert first_loss(again) != first_loss(own)
    assert load_run(again)[0].teacher is None


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
    with pytest.raises(ValueError, match="another vocabulary"):
        train(other, tmp_path / "run", teacher=teacher, **QUICK)


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
    views = [
        found.soft_targets(inputs | {"position_ids": None, "inputs_embeds": None}, labels, None) for _ in range(2)
    ]
    assert torch.equal(views[0].vectors, views[1].vectors)
    expected, _ = load_run(teacher)
    expected.config.reading = "masked"
    with torch.no_grad():
        logits = expected(**inputs, logits_to_keep=labels.ne(-100)).logits
    torch.testing.assert_close(views[0].decoder(views[0].vectors), logits)
    assert views[0].weight == 0.25
    assert not any(re.search("teacher", name) for name in student.state_dict())
