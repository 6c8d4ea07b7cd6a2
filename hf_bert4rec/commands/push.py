"""`hf-bert4rec push`: a trained model on the Hub."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..command_options import add_options
from ..publishing import PushOptions, push_run

USAGE = "RUN REPO"
HELP = "Push a trained model to the Hub: weights, tokenizer with titles, README.md, and run.json without local paths."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument("repo_id", metavar="REPO", help="NAME or OWNER/NAME on the Hub; made where there is none")
    add_options(parser, PushOptions, {field.name: field for field in dataclasses.fields(PushOptions)}, title="push")


def run(run: str, repo_id: str, **options: Any):
    print("Pushed to", push_run(run, repo_id, **options).commit_url)
