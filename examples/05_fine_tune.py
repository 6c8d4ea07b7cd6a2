"""
A trained model continued on a newer log with other items, beside one trained anew: MovieLens-100K cut in two by time.

    python examples/05_fine_tune.py --path ml-100k/u.data --output_dir halves

What is finished is not trained again when the command is repeated.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from hf_bert4rec import Bert4RecForMaskedLM, Bert4RecTokenizer, change_catalogue, compare, load_data, prepare, train
from hf_bert4rec.scoring import ModelScorer

COLUMNS = ["user_id", "item_id", "rating", "timestamp"]


def prepared(path: Path, folder: Path) -> dict:
    """The earlier half of the events, the later half, and both."""
    log = pd.read_csv(path, sep="\t", names=COLUMNS).sort_values("timestamp", kind="stable")
    parts = {"early": log[: len(log) // 2], "late": log[len(log) // 2 :], "both": log}
    for name, part in parts.items():
        if not (folder / f"{name}.data").exists():
            prepare(part, folder / f"{name}.data", min_item_events=1)
    return {name: load_data(folder / f"{name}.data") for name in parts}


def only_new_targets(late, early):
    """The later half with the targets that the earlier one does not hold."""
    data, is_new = load_data(late.folder), ~np.isin(late.item_ids.to_pylist(), early.item_ids.to_pylist())
    targets = data.events[data.offsets[:-1] + data.test_target]
    data.test_target = np.where((data.test_target >= 0) & is_new[targets], data.test_target, -1)
    return data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="u.data of MovieLens-100K")
    parser.add_argument("--output_dir", type=Path, required=True, help="where data and models go")
    parser.add_argument("--num_train_epochs", type=int, help="default: that of train()")
    arguments = parser.parse_args()
    folder, data = arguments.output_dir, prepared(arguments.path, arguments.output_dir)
    epochs = {} if arguments.num_train_epochs is None else {"num_train_epochs": arguments.num_train_epochs}

    runs = {"early": ("early", {}), "anew": ("late", {}), "anew on both halves": ("both", {})}
    for start in ("neighbours", "mean", "random"):
        runs[f"fine-tuned, {start}"] = ("late", {"model": folder / "early.run", "new_items": start})
    models, seconds = {}, {}
    for name, (part, options) in runs.items():
        run = folder / f"{name.replace(', ', '-').replace(' ', '-')}.run"
        if not run.exists():
            train(data[part], run, **options, **epochs)
        seconds[name] = json.loads((run / "run.json").read_text())["cpu_seconds"]
        models[name] = Bert4RecForMaskedLM.from_pretrained(run)
        if part != "late":  # its items become those of the later half, without training
            tokenizer = Bert4RecTokenizer.from_pretrained(run)
            models[name], _ = change_catalogue(models[name], tokenizer, data["late"])

    best, new = "fine-tuned, neighbours", only_new_targets(data["late"], data["early"])
    scorers = {name: ModelScorer(model) for name, model in models.items()}
    found = compare(models[best], data["late"], others=scorers)
    of_new = compare(models[best], new, others=scorers)
    print(f"{found['num_users']} test targets, {of_new['num_users']} of them new items\n")
    print("| | NDCG@10 | Recall@10 | Recall@20, new items | CPU seconds |\n|---|--:|--:|--:|--:|")
    for name in ("popularity", "markov", *models):
        cells = [(found[name], "ndcg@10"), (found[name], "recall@10"), (of_new[name], "recall@20")]
        texts = [f"{cell[key]:.3f} [{{:.3f}}, {{:.3f}}]".format(*cell["intervals"][key]) for cell, key in cells]
        print("|", " | ".join([name, *texts, str(seconds.get(name, ""))]), "|")
    low, high = found["anew"]["first_minus_this"]["ndcg@10"]
    print(f"\n{best}, is better than anew by {low:.3f} to {high:.3f} NDCG@10, user by user (95 %)")


if __name__ == "__main__":
    main()
