"""
The whole way on a generated world, with the best possible result beside ours: log, data, model, metrics, recommendations.

*Source:* none; the world is ours, see `synthetic.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import pipeline

from .comparison import compare
from .interactions import prepare
from .run_folder import load_run
from .synthetic import SyntheticWorld
from .training import train

# The defaults of `train`, but stopped after the minute that a demo may take; validating each epoch would double it.
TRAINING: dict[str, Any] = {"num_train_epochs": 8, "eval_steps": 376}
NUM_EXAMPLES = 3
TITLES_SHOWN = 5


def run_demo(output_dir: str | Path | None = None) -> tuple[dict[str, Any], list[dict[str, list[str]]]]:
    r"""
    Train on a generated world and compare.

    Args:
        output_dir (`str` or `Path`, *optional*): Keeps `log.csv`, `items.csv`, `data` and `run`; by default nothing is kept.

    Returns:
        `tuple`: metrics of `popularity`, `markov`, `bert4rec` and `best_possible` on the test targets, and, for three users,
        the titles of the newest films in their `history` and of their `recommendations`.

    Raises:
        FileExistsError: If `output_dir` exists.
    """
    if output_dir is None:
        with tempfile.TemporaryDirectory() as temporary:
            return _run(Path(temporary))
    folder = Path(output_dir)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; give another folder.")
    folder.mkdir(parents=True)
    return _run(folder)


def _run(folder: Path) -> tuple[dict[str, Any], list[dict[str, list[str]]]]:
    world = SyntheticWorld()
    world.generate().to_csv(folder / "log.csv", index=False)
    pd.DataFrame(world.titles.items(), columns=["item_id", "title"]).to_csv(folder / "items.csv", index=False)
    data = prepare(folder / "log.csv", folder / "data", items_file=str(folder / "items.csv"))
    model, tokenizer = load_run(train(data, folder / "run", **TRAINING))
    best = world.best_possible(data.item_ids.to_pylist())
    found = compare(model, data, others={"best_possible": best})
    results = {name: found["model" if name == "bert4rec" else name] for name in ("popularity", "markov", "bert4rec")}
    results["best_possible"] = found["best_possible"]

    recommend = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
    examples = []
    for user in range(NUM_EXAMPLES):
        history = data.item_ids.take(data.history(user)).to_pylist()
        answer = recommend(history, top_k=TITLES_SHOWN)["recommendations"]
        examples.append(
            {
                "history": [world.titles[item] for item in history[-TITLES_SHOWN:]],
                "recommendations": [entry["title"] for entry in answer],
            }
        )
    return results, examples
