"""`hf-bert4rec export`: a trained model as a graph for people without this package."""

from __future__ import annotations

import argparse
from typing import Any

from ..comparison import check_vocabulary
from ..export import QUANTIZATIONS, write_export
from ..exported_scorer import GRAPH_FILES
from ..interactions import load_data
from ..item_index import KINDS
from ..run_folder import load_run

USAGE = "RUN --output_dir EXPORT"
HELP = "Write a model as an ONNX or torch.export graph with its items, checked against the model."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument("--output_dir", required=True, help="folder for the graph, items.json and export.json")
    parser.add_argument(
        "--format", choices=tuple(GRAPH_FILES), default="onnx", help="what runs the graph (default: %(default)s)"
    )
    parser.add_argument(
        "--quantize", choices=QUANTIZATIONS, help="weights in 8 bits; ONNX only, `evaluate` tells what it costs"
    )
    parser.add_argument(
        "--faiss",
        choices=KINDS,
        help="also write items.faiss, the items as an index: flat finds the best items, hnsw most of them sooner",
    )
    parser.add_argument(
        "--data", metavar="DATA", help="prepared data whose histories the check reads (default: generated)"
    )
    parser.add_argument(
        "--num_histories", type=int, default=1000, help="histories the check reads (default: %(default)s)"
    )
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )


def run(*, run: str, output_dir: str, faiss: str | None, data: str | None, **options: Any):
    model, tokenizer = load_run(run)
    loaded = None
    if data is not None:
        loaded = load_data(data)
        check_vocabulary(tokenizer, loaded)
    check = write_export(model, tokenizer, output_dir, index=faiss, data=loaded, **options)["check"]
    print(
        f"Checked on {check['histories']}: scores within {check['max_score_difference']:.1g} of the model, lists the same"
    )
    if "top_10_overlap" in check:
        print(f"int8: {check['top_10_overlap']:.1%} of the ten best items stay among them")
    if "index_recall_at_10" in check:
        print(f"items.faiss: {check['index_recall_at_10']:.1%} of the ten best items are found")
    print(f"Written {output_dir}")
