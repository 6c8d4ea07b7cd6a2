"""`hf-bert4rec demo`: the whole way on a generated world."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..demo import run_demo
from ..metrics_text import metrics_table
from ..whole_file import check_output_file, write_whole_file

USAGE = ""
HELP = "Train on a generated world and compare with baselines and with the best possible."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--output_file", help="JSON with the metrics of all four")
    parser.add_argument("--output_dir", help="keep log, data and model in this folder")


def run(output_file: str | None, output_dir: str | None):
    if output_file is not None:
        check_output_file(Path(output_file))
    results, examples = run_demo(output_dir)
    print(metrics_table(results))
    for example in examples:
        print("\nlast seen:   " + ", ".join(example["history"]))
        print("recommended: " + ", ".join(example["recommendations"]))
    if output_file is not None:
        write_whole_file(Path(output_file), json.dumps(results, indent=2) + "\n")
