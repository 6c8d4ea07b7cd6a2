"""`hf-bert4rec serve`: a trained model behind HTTP, until it is told to stop."""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

from transformers import pipeline

from ..command_options import add_options
from ..run_folder import load_run
from ..serving import check_packages, create_app, listen, serve
from ..serving_requests import ServingLimits
from ..web import check_gradio, mount_page, web_page

USAGE = "RUN"
HELP = "Recommend over HTTP, requests that come together in one batch."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    add_address(parser, port=8000)
    parser.add_argument("--web", action="store_true", help="show the page of `hf-bert4rec web` too, at /web")
    add_options(
        parser, ServingLimits, {field.name: field for field in dataclasses.fields(ServingLimits)}, title="limits"
    )


def add_address(parser: argparse.ArgumentParser, port: int):
    """Where to listen and what to ask for, as of everything that serves."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address; any but this machine's own needs a token (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=port, help=f"0 takes a free one (default: {port})")
    parser.add_argument(
        "--token",
        help="what requests must send as `Authorization: Bearer TOKEN`, a browser as the password; others on this machine "
        "can read it here, unlike in HF_BERT4REC_TOKEN (default: $HF_BERT4REC_TOKEN)",
    )


def address_of(host: str, listener: socket.socket) -> str:
    """Where a browser finds it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def run(run: str, host: str, port: int, token: str | None, web: bool, **limits: Any):
    check_packages()
    if web:
        check_gradio()
    token = os.environ.get("HF_BERT4REC_TOKEN") if token is None else token
    chosen = ServingLimits(**limits)
    with listen(host, port, token) as listener:
        model, tokenizer = load_run(run)
        recommender = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
        app = create_app(recommender, token=token, limits=chosen)
        if web:
            mount_page(app, web_page(recommender, name=Path(run).resolve().name), "/web")
        print(f"Serving {run} ({tokenizer.num_items:,} items) on {address_of(host, listener)}", end="", flush=True)
        print(f"; /docs says how to ask{', /web is the page' if web else ''}, Ctrl-C stops", flush=True)
        serve(app, listener)
    print("Stopped")
