"""`hf-bert4rec web`: a trained model behind a page to try it on, until it is told to stop."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from transformers import pipeline

from ..run_folder import load_run
from ..serving import listen, serve
from ..token_gate import TokenGate, check_token
from ..web import check_gradio, mount_page, web_page
from .serve import add_address, address_of

USAGE = "RUN"
HELP = "A page to try a trained model on: search titles, make a history, watch the recommendations change."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    add_address(parser, port=7860)


def run(run: str, host: str, port: int, token: str | None):
    check_gradio()
    from fastapi import FastAPI  # comes with Gradio

    token = os.environ.get("HF_BERT4REC_TOKEN") if token is None else token
    check_token(token)
    with listen(host, port, token) as listener:
        model, tokenizer = load_run(run)
        recommender = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
        app = FastAPI(openapi_url=None)
        app.add_middleware(TokenGate, token=token)
        mount_page(app, web_page(recommender, name=Path(run).resolve().name), "/")
        print(f"{run} ({tokenizer.num_items:,} items) is on {address_of(host, listener)}; Ctrl-C stops", flush=True)
        serve(app, listener)
    print("Stopped")
