"""A trial trains what `train` trains, keeps nothing of the trials before it, and counts by its best epoch."""

import itertools
import json

import pytest

from hf_bert4rec import prepare, train
from hf_bert4rec.hyperparameter_search import default_parameters, trials_trainer

TINY = {"intermediate_size": 32, "max_position_embeddings": 10, "num_train_epochs": 4, "seed": 3}
TINY |= {"warmup_steps": 0, "use_cpu": True}


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data")


def tried(trial):
    values = {
        "hidden_size": trial.suggest_categorical("hidden_size", [16, 32]),
        "causal_probability": trial.suggest_float("causal_probability", 0.0, 1.0),
        "learning_rate": trial.suggest_float("learning_rate", 0.0, 1.0),
    }
    if values["causal_probability"] < 1:
        values["mlm_probability"] = trial.suggest_float("mlm_probability", 0.0, 1.0)
        values["weight_decay"] = trial.suggest_float("weight_decay", 0.0, 1.0)
        values["warmup_steps"] = trial.suggest_float("warmup_steps", 0.0, 1.0)
    return values


FIRST = {"hidden_size": 32, "causal_probability": 0.5, "learning_rate": 0.01, "mlm_probability": 0.6}
FIRST |= {"weight_decay": 0.5, "warmup_steps": 0.5}
SECOND = {"hidden_size": 16, "causal_probability": 1.0, "learning_rate": 0.3}
THIRD = FIRST | {"hidden_size": 16, "causal_probability": 0.0, "mlm_probability": 0.3}


def test_a_trial_is_the_training_of_its_options_whatever_was_tried_before(data, tmp_path):
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed; pip install 'hf_bert4rec[search]'")
    trainer, search = trials_trainer(data, tmp_path / "trials", tried, **TINY)
    place = {"storage": optuna.storages.InMemoryStorage(), "study_name": "test"}
    study = optuna.create_study(direction="maximize", **place)
    for values in (FIRST, SECOND, THIRD):
        study.enqueue_trial(values)
    trainer.hyperparameter_search(
        n_trials=3, load_if_exists=True, pruner=optuna.pruners.NopPruner(), **place, **search
    )
    assert [trial.params for trial in study.trials] == [FIRST, SECOND, THIRD]
    falls = 0
    for number, trial in enumerate(study.trials):
        run = train(
            data,
            tmp_path / f"run{number}",
            **TINY | trial.params,
            eval_strategy="epoch",
            early_stopping_patience=0,
            disable_tqdm=True,
        )
        log = json.loads((run / "run.json").read_text())["log_history"]
        epochs = [entry["eval_ndcg@10"] for entry in log if "eval_ndcg@10" in entry]
        assert list(trial.intermediate_values.values()) == list(itertools.accumulate(epochs, max))
        assert trial.value == max(epochs)
        falls += max(epochs) > epochs[-1]
    assert falls  # in some trial the last epoch is not the best
    assert list((tmp_path / "trials").iterdir()) == []


def test_a_search_begins_with_what_train_does_by_itself(data):
    assert default_parameters(data, tried) == {
        "causal_probability": 0.8,
        "learning_rate": 3e-3,  # of the sparse recipe: 70 events of ten items
        "mlm_probability": 0.4,
        "weight_decay": 0.0,
    }  # neither hidden_size 64 nor 100 warmup_steps are searched


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "run"}, "model is 'run', which trials cannot do; leave it out"),
        ({"eval_strategy": "steps"}, "eval_strategy is 'steps', which trials cannot do"),
        ({"hiden_size": 8}, "did you mean 'hidden_size'"),
    ],
)
def test_what_trials_cannot_do_is_refused(data, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        trials_trainer(data, tmp_path, tried, **options)


def test_what_all_trials_share_cannot_be_tried(data, tmp_path):
    _, search = trials_trainer(data, tmp_path, lambda trial: {"per_device_train_batch_size": 8}, **TINY)
    with pytest.raises(ValueError, match="per_device_train_batch_size is tried, but it cannot differ between trials"):
        search["hp_space"](None)
