"""`hf-bert4rec evaluate`: metrics of a trained model beside the baselines and the published figures."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..comparison import evaluate_run
from ..known_results import known_beside
from ..metrics_text import evaluation_text, known_table
from ..protocols import PROTOCOLS
from ..published_results import DATASETS
from ..whole_file import write_whole_file

USAGE = "RUN --data DATA"
HELP = "Metrics of a trained model beside popularity and Markov counts."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model, or of an export of it")
    parser.add_argument("--data", metavar="DATA", required=True, help="prepared data")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="which target (default: test)")
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        default="full-catalogue",
        help="which items compete (default: %(default)s); "
        + "; ".join(f"{name}: {protocol.description}" for name, protocol in PROTOCOLS.items()),
    )
    parser.add_argument(
        "--dataset", choices=tuple(DATASETS), help="whose published figures to show (default: recognised by its sizes)"
    )
    parser.add_argument("--output_file", help="JSON with all metrics and their 95%% intervals")
    parser.add_argument("--batch_size", type=int, default=256, help="users scored at a time (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="fixes drawn negatives and the bootstrap (default: 0)")


def run(
    *, run: str, data: str, split: str, protocol: str, dataset: str | None, output_file: str | None, **options: Any
):
    result = evaluate_run(run, data, split=split, protocol=protocol, **options)
    if int(os.environ.get("RANK", "0")):
        return  # every process has the whole result; the first one reports
    print(evaluation_text(result))
    beside = known_beside(result, dataset)
    if beside is not None:
        print(known_table(beside, result), flush=True)
        for warning in beside.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if output_file is not None:
        write_whole_file(Path(output_file), json.dumps(result, indent=2) + "\n")
