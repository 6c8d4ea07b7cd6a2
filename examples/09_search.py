"""
Options that suit a log: Optuna through the stock `Trainer.hyperparameter_search`, judged by validation NDCG@10 alone.
Repeated, it goes on with a search that was stopped or is to have more trials. Needs `pip install 'hf_bert4rec[search]'`.

    python examples/09_search.py --data data --output_dir search # the folder of hf-bert4rec prepare
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from hf_bert4rec import load_data
from hf_bert4rec.hyperparameter_search import default_parameters, trials_trainer

try:
    import optuna
except ImportError:
    sys.exit("Optuna is missing; pip install 'hf_bert4rec[search]'")
FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)  # not those that were killed


def tried(trial) -> dict:
    """What is searched, and where: options of hf-bert4rec train."""
    return {
        "learning_rate": float(f"{trial.suggest_float('learning_rate', 5e-4, 1e-2, log=True):.2g}"),
        "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 0.01, 0.1]),
        "hidden_dropout_prob": round(trial.suggest_float("hidden_dropout_prob", 0.0, 0.6, step=0.1), 1),
        "hidden_size": (size := trial.suggest_categorical("hidden_size", [32, 64, 128])),
        "intermediate_size": 4 * size,
        "num_attention_heads": trial.suggest_categorical("num_attention_heads", [1, 2, 4]),  # divide every size
        "mlm_probability": round(trial.suggest_float("mlm_probability", 0.1, 0.6, step=0.1), 1),
        "causal_probability": trial.suggest_categorical("causal_probability", [0.0, 0.5, 0.8, 1.0]),
    }


def write_table(study, folder):
    rows = []
    for number, trial in enumerate(study.get_trials(states=FINISHED)):
        lower = [value < trial.value for value in trial.intermediate_values.values()]  # of each epoch: the best so far
        row = {"trial": number, "ndcg@10": trial.value, "best_epoch": sum(lower) + 1, "epochs": len(lower)}
        rows.append(row | {"state": trial.state.name.lower()} | tried(trial))
    table = pd.DataFrame(rows).sort_values("ndcg@10", ascending=False, kind="stable")
    table.to_csv(folder / "search.csv", index=False)
    head, *lines = table.to_csv(sep="|", index=False, float_format="%.4g").splitlines()
    (folder / "search.md").write_text("\n".join([head, "|".join(["--:"] * table.shape[1]), *lines]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", type=Path, required=True, help="where search.md and search.csv go")
    parser.add_argument("--storage", default="sqlite:///search.db", help="Optuna's; may hold many searches")
    parser.add_argument("--num_train_epochs", type=int, default=20)
    parser.add_argument("--n_trials", type=int, default=30, help="with those that the storage has")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = load_data(given.data)
    shared = {"num_train_epochs": given.num_train_epochs, "warmup_steps": 0.1, "seed": given.seed}
    shared |= {"eval_strategy": "epoch", "early_stopping_patience": 0}
    trainer, search = trials_trainer(data, given.output_dir, tried, **shared)
    name = f"{data.content_hash()[:12]}, {given.num_train_epochs} epochs, seed {given.seed}"
    place = {"storage": given.storage, "study_name": name, "load_if_exists": True}
    place["pruner"] = optuna.pruners.MedianPruner()
    study = optuna.create_study(direction=search["direction"], **place)
    for number in range(len(study.get_trials(states=FINISHED)), given.n_trials):
        if number == 0:
            study.enqueue_trial(default_parameters(data, tried))
        # Seeded by trial and blind to one that was killed: a search that goes on finds what it would have found anyway.
        place["sampler"] = optuna.samplers.TPESampler(seed=10_000 * given.seed + number, constant_liar=False)
        trainer.hyperparameter_search(n_trials=1, **place, **search)
    write_table(study, given.output_dir)
    print((given.output_dir / "search.md").read_text())
    words = " ".join(f"--{name} {value}" for name, value in (shared | tried(study.best_trial)).items())
    print(f"The best again: hf-bert4rec train {given.data} --output_dir run {words}")


if __name__ == "__main__":
    main()
