"""`hf-bert4rec serve`: a trained model behind HTTP, until it is told to stop."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from transformers import pipeline

from ..command_options import add_options
from ..run_folder import load_run
from ..serving import check_packages, create_app, listen, serve
from ..serving_requests import ServingLimits

USAGE = "RUN"
HELP = "Recommend over HTTP, requests that come together in one batch."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address; any but this machine's own needs a token (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument(
        "--token",
        help="what requests must send as `Authorization: Bearer TOKEN`; others on this machine can read it here, unlike "
        "in HF_BERT4REC_TOKEN (default: $HF_BERT4REC_TOKEN)",
    )
    add_options(
        parser, ServingLimits, {field.name: field for field in dataclasses.fields(ServingLimits)}, title="limits"
    )


def run(run: str, host: str, port: int, token: str | None, **limits: Any):
    check_packages()
    token = os.environ.get("HF_BERT4REC_TOKEN") if token is None else token
    chosen = ServingLimits(**limits)
    with listen(host, port, token) as listener:
        model, tokenizer = load_run(run)
        app = create_app(
            pipeline("next-item-recommendation", model=model, tokenizer=tokenizer), token=token, limits=chosen
        )
        address = f"[{host}]" if ":" in host else host
        print(
            f"Serving {run} ({tokenizer.num_items:,} items) on http://{address}:{listener.getsockname()[1]}",
            end="",
            flush=True,
        )
        print("; /docs says how to ask, Ctrl-C stops", flush=True)
        serve(app, listener)
    print("Stopped")
