"""
Peak memory of evaluating and recommending against the number of users: a tiny model, a catalogue of a thousand items.

Each command runs in a process of its own: `evaluate`, `recommend` from JSON lines to JSON lines and to Parquet, and the
pipeline over a generator. What is left over between two sizes, divided by the users between them, is what a user costs.

    python -m benchmarks.users_scale --folder scratch --users 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import pipeline

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, load_data, prepare
from hf_bert4rec.run_folder import load_run

from .log_scale import measured

NUM_ITEMS, EVENTS_PER_USER = 1_000, 10
MODES = ("evaluate", "recommend to JSON lines", "recommend to Parquet", "pipeline over a generator")


def make_data(folder: Path, num_users: int) -> None:
    """Prepared data, a model that knows its items, and the histories as JSON lines."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(num_users), EVENTS_PER_USER)
    items = (NUM_ITEMS * random.random(len(users)) ** 2).astype(np.int64)
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items}), folder / "log.parquet")
    data = prepare(folder / "log.parquet", folder / "data", vocabulary=[str(item) for item in range(NUM_ITEMS)])
    # prepare takes a vocabulary as text, and ids of this log are integers.
    tokenizer = Bert4RecTokenizer.from_items([int(item) for item in data.item_ids.to_pylist()])
    config = Bert4RecConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    Bert4RecForMaskedLM(config).save_pretrained(folder / "run")
    tokenizer.save_pretrained(folder / "run")
    with (folder / "histories.jsonl").open("w") as file:
        for user, history in enumerate(histories(folder)):
            file.write(json.dumps({"user": user, "history": history}) + "\n")


def histories(folder: Path) -> Iterator[list[int]]:
    """The history of each user, one after another."""
    data = load_data(folder / "data")
    for user in range(data.num_users):
        yield data.history(user).tolist()


def recommend_all(folder: Path) -> None:
    """The pipeline over a generator; nothing is kept."""
    model, tokenizer = load_run(folder / "run")
    recommend = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
    for _ in recommend(histories(folder)):
        pass


def command(mode: str, folder: Path) -> list[str]:
    """The arguments of Python that run a mode."""
    run = str(folder / "run")
    if mode == "evaluate":
        return ["-m", "hf_bert4rec", "evaluate", run, "--data", str(folder / "data")]
    if mode.startswith("recommend"):
        target = folder / ("answers.parquet" if "Parquet" in mode else "answers.jsonl")
        files = ["--input_file", str(folder / "histories.jsonl"), "--output_file", str(target)]
        return ["-m", "hf_bert4rec", "recommend", run, *files]
    return ["-m", "benchmarks.users_scale", "--folder", str(folder), "--recommend_all"]


def table(record: dict[str, Any]) -> str:
    """The results in Markdown, with the command that made them."""
    lines = ["| users | " + " | ".join(f"{mode}, GB (CPU s)" for mode in MODES) + " |", "|--:|" + "--:|" * len(MODES)]
    for row in record["rows"]:
        cells = [
            f"{row[mode]['peak_gigabytes']} ({row[mode]['cpu_seconds']})" if mode in row else "" for mode in MODES
        ]
        lines.append(f"| {row['users']:,} | " + " | ".join(cells) + " |")
    return "\n".join([f"`{record['command']}`, {record['machine']}", "", *lines]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Make data, run every mode, write `users_scale.json` and `users_scale.md` to the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.users_scale", description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where data, outputs and results go")
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--recommend_all", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.recommend_all:
        recommend_all(options.folder)
        return
    record: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.users_scale", *(sys.argv[1:] if arguments is None else arguments)]),
        "machine": f"{platform.machine()}, {os.cpu_count()} threads, Python {platform.python_version()}",
        "rows": [],
    }
    for num_users in options.users:
        folder = options.folder / str(num_users)
        shutil.rmtree(folder, ignore_errors=True)
        make_data(folder, num_users)
        record["rows"].append({"users": num_users})
        for mode in MODES:
            record["rows"][-1][mode] = measured([sys.executable, *command(mode, folder)])
            (options.folder / "users_scale.json").write_text(json.dumps(record, indent=1) + "\n")
            (options.folder / "users_scale.md").write_text(table(record))
        shutil.rmtree(folder)
    sys.stdout.write(table(record))


if __name__ == "__main__":
    main()
