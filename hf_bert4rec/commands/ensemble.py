"""`hf-bert4rec ensemble`: several runs as one model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..configuration_bert4rec import FIRST_ITEM_TOKEN, READINGS
from ..ensemble import ensemble_runs

USAGE = "RUN RUN [RUN ...] --output_dir ENSEMBLE"
HELP = "Make one model of several runs, such as those of other seeds: its scores are the mean of theirs."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="folders of trained models, of the same data and options"
    )
    parser.add_argument("--output_dir", required=True, metavar="ENSEMBLE", help="folder of the model")
    parser.add_argument(
        "--reading",
        choices=READINGS,
        help="how the ensemble reads a history (default: as was best on validation, on average over the runs)",
    )
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )


def run(runs: list[str], output_dir: str, **options: Any):
    folder = ensemble_runs(runs, output_dir, **options)
    config, record = (json.loads((Path(folder) / name).read_text()) for name in ("config.json", "run.json"))
    print(
        f"{len(record['members'])} models of {config['vocab_size'] - FIRST_ITEM_TOKEN:,} items as one of hidden size "
        f"{config['hidden_size']} ({record['num_parameters']:,} parameters)"
    )
    print(f"Model written to {folder}")
