"""`hf-bert4rec card`: the README.md of a trained model."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..command_options import add_options
from ..model_card import CardOptions, write_model_card

USAGE = "RUN --metrics METRICS ..."
HELP = "Write the README.md of a trained model from its record and its metrics."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    text = "files of `evaluate --output_file`: one for each protocol, and those of the same run with other seeds"
    parser.add_argument("--metrics", metavar="METRICS", nargs="+", required=True, help=text)
    parser.add_argument("--output_file", help="the card; pictures go beside it (default: README.md in RUN)")
    add_options(parser, CardOptions, {field.name: field for field in dataclasses.fields(CardOptions)}, title="card")


def run(run: str, metrics: list[str], output_file: str | None, **options: Any):
    print("Written", *write_model_card(run, metrics, output_file, **options))
