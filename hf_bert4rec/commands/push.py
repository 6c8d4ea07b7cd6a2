"""`hf-bert4rec push`: a trained model on the Hub, and where asked for a page to try it on."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..command_options import add_options
from ..publishing import PushOptions, push_run
from ..space import push_space
from ..web import check_gradio

USAGE = "RUN REPO"
HELP = "Push a trained model to the Hub: weights, tokenizer with titles, README.md, and run.json without local paths."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument("repo_id", metavar="REPO", help="NAME or OWNER/NAME on the Hub; made where there is none")
    parser.add_argument(
        "--space", action="store_true", help="push the page of `hf-bert4rec web` too, as a Space of the same name"
    )
    add_options(parser, PushOptions, {field.name: field for field in dataclasses.fields(PushOptions)}, title="push")


def run(run: str, repo_id: str, space: bool, **options: Any):
    if space:
        check_gradio()  # before anything is pushed
    commit = push_run(run, repo_id, **options)
    print("Pushed to", commit.commit_url)
    if not space:
        return
    asked = {name: options[name] for name in ("private", "revision") if name in options}
    pushed = push_space(commit.repo_url.repo_id, **asked)
    print("The page is", pushed.repo_url)
    if options.get("private"):
        print(f"It needs a secret HF_TOKEN that may read {commit.repo_url.repo_id}: add one in the Space's settings")
