"""`hf-bert4rec similar`: the items that are like an item, for some items or the whole catalogue."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from transformers import pipeline

from ..run_folder import load_run
from ..whole_file import whole_file

USAGE = "RUN --items ID ID ..."
HELP = "Items that are like an item, by their embeddings, as JSON lines."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument("--items", nargs="+", metavar="ID", help="whose neighbours (default: every item of the model)")
    parser.add_argument("--output_file", help="JSON lines, one item each (default: standard output)")
    parser.add_argument("--top_k", type=int, help="neighbours of each item (default: 10)")
    parser.add_argument("--allowed_items", nargs="+", metavar="ID", help="list only these")
    parser.add_argument("--denied_items", nargs="+", metavar="ID", help="never list these")
    parser.add_argument(
        "--unknown_items",
        choices=("skip", "error"),
        default="skip",
        help="items the model does not know: an empty list, or an error (default: skip)",
    )


def run(*, run: str, items: list[str] | None, output_file: str | None, **options: Any):
    model, tokenizer = load_run(run)
    recommender = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
    answers = recommender.similar_items(iter(tokenizer.item_ids if items is None else items), **options)
    lines = (json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    if output_file is None:
        sys.stdout.writelines(lines)
        return
    with whole_file(Path(output_file)) as partial, partial.open("w", encoding="utf-8") as out:
        out.writelines(lines)
