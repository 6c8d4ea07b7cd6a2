"""`hf-bert4rec prepare`: a log in, filtered, ordered and split histories out."""

from __future__ import annotations

import argparse
from typing import Any

from ..command_options import add_options
from ..interactions import InteractionOptions, prepare
from ..run_folder import load_run
from ..training import option_fields

USAGE = "LOG --output_dir DATA"
HELP = "Filter, order and split a log; write histories that `train` reads."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument(
        "log", metavar="LOG", nargs="+", help="CSV, TSV, Parquet or JSON lines; several files are one log"
    )
    parser.add_argument("--output_dir", required=True, help="folder of the prepared data")
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )
    parser.add_argument("--tokenizer", metavar="RUN", help="encode with the vocabulary of this trained model")
    add_options(parser, InteractionOptions, option_fields()[InteractionOptions], title="log")


def run(log: list[str], output_dir: str, overwrite: bool, tokenizer: str | None, **options: Any):
    vocabulary = None
    if tokenizer is not None:
        vocabulary = [str(item) for item in load_run(tokenizer)[1].item_ids]
    data = prepare(log if len(log) > 1 else log[0], output_dir, vocabulary=vocabulary, overwrite=overwrite, **options)
    print(data.report_text())
    print(f"Data written to {output_dir}")
