"""
What an export is worth: the graph beside the model it was made from, and the approximate index beside the exact one.

    python -m benchmarks.exports speed --runs RUN ... --data DATA ...    # users a second and NDCG@10: model, ONNX, int8
    python -m benchmarks.exports index --runs RUN --data DATA            # recall@10 and users a second: flat, HNSW

Everything runs in one thread. `speed` scores all items of whole histories, in batches of 1 and 256, and ranks the test split.
`index` searches with the vectors of real users, among the real items and among a million made of them: each lies between two
items that were drawn at random, as no trained catalogue of that size is at hand.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_bert4rec import EvaluationSequences, ExportedScorer, load_data, write_export
from hf_bert4rec.baselines import count_items
from hf_bert4rec.configuration_bert4rec import FIRST_ITEM_TOKEN
from hf_bert4rec.evaluation import evaluate
from hf_bert4rec.item_index import ItemIndex
from hf_bert4rec.ranking import Scorer
from hf_bert4rec.run_folder import load_run
from hf_bert4rec.scoring import ModelScorer
from hf_bert4rec.sequences import training_events

from .cli import FOLDER
from .results import Results, Row
from .runner import provenance
from .table import markdown_table

BATCH_SIZES = (1, 256)
WIDTHS = (32, 128, 512)  # efSearch of HNSW
TOP_K = 10


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    speed = modes.add_parser("speed", help="users a second and NDCG@10 of model, ONNX and int8")
    index = modes.add_parser("index", help="recall@10 and users a second of flat and HNSW")
    for mode, users in ((speed, 2048), (index, 1024)):
        mode.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="folders of trained models")
        mode.add_argument("--data", nargs="+", required=True, metavar="DATA", help="prepared data of each")
        mode.add_argument("--users", type=int, default=users, help="users timed (default: %(default)s)")
        mode.add_argument("--output_dir", type=Path, default=FOLDER, help="default: benchmarks/results")
    index.add_argument("--num_items", type=int, default=1_000_000, help="size of the made catalogue")
    return parser


def main(arguments: list[str] | None = None) -> int:
    given = build_parser().parse_args(arguments)
    if len(given.runs) != len(given.data):
        print(f"{len(given.runs)} runs and {len(given.data)} data; give the data of each run", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    command = shlex.join(["python", "-m", "benchmarks.exports", *(sys.argv[1:] if arguments is None else arguments)])
    results = Results(given.output_dir, f"exports-{given.mode}", vars(given), fresh=True)
    measure = _speed_rows if given.mode == "speed" else _index_rows
    for run, data in zip(given.runs, given.data, strict=True):
        for row in measure(run, data, given):
            results.add(provenance(**row, threads=1, command=command))
            print(", ".join(f"{name} {_text(value)}" for name, value in row.items()), flush=True)
    report = (_speed_report if given.mode == "speed" else _index_report)(results.finish())
    (given.output_dir / f"exports-{given.mode}.md").write_text(report)
    return 0


def _loaded(run: str, data: str, num_users: int) -> tuple[Any, Any, Any, list[np.ndarray]]:
    """Model, tokenizer, data, and the histories of users drawn at random."""
    (model, tokenizer), loaded = load_run(run), load_data(data)
    users = np.random.default_rng(0).permutation(loaded.num_users)[:num_users]
    return model, tokenizer, loaded, [loaded.history(user).astype(np.int64) + FIRST_ITEM_TOKEN for user in users]


def _speed_rows(run: str, data: str, given: argparse.Namespace) -> Iterator[Row]:
    model, tokenizer, loaded, histories = _loaded(run, data, given.users)
    sequences = EvaluationSequences(loaded, split="test")
    counts = count_items(training_events(loaded)[0], model.config.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        for name, quantize in (("onnx", None), ("int8", "int8")):
            write_export(model, tokenizer, Path(folder) / name, quantize=quantize, data=loaded, num_histories=200)
        scorers: dict[str, Scorer] = {"model": ModelScorer(model)}
        scorers |= {name: ExportedScorer(Path(folder) / name) for name in ("onnx", "int8")}
        sizes = {name: (Path(folder) / name / "model.onnx").stat().st_size for name in ("onnx", "int8")}
        rates = {name: _scoring_rates(scorer, histories) for name, scorer in scorers.items()}
        metrics = evaluate(scorers, sequences, counts)
    sizes["model"] = sum(path.stat().st_size for path in Path(run).glob("*.safetensors"))
    for name in scorers:
        yield {
            "dataset": loaded.folder.name,
            "system": name,
            "users_per_cpu_second": rates[name],
            "bytes": sizes[name],
            "ndcg@10": metrics[name]["ndcg@10"],
            "model_minus_this": metrics[name].get("first_minus_this", {}).get("ndcg@10"),
        }


def _scoring_rates(scorer: Any, histories: list[np.ndarray]) -> dict[str, float]:
    def score(batch: list[np.ndarray]):
        scorer(None, batch)(0, scorer.vocab_size)

    # One at a time takes long: an eighth of the users is enough.
    return {
        str(size): _rate(score, histories[: len(histories) if size > 1 else len(histories) // 8], size)
        for size in BATCH_SIZES
    }


def _rate(work: Callable[[Any], Any], users: Any, batch_size: int) -> float:
    """Users per CPU second."""
    work(users[:batch_size])
    start = time.process_time()
    for first in range(0, len(users), batch_size):
        work(users[first : first + batch_size])
    return len(users) / (time.process_time() - start)


def _index_rows(run: str, data: str, given: argparse.Namespace) -> Iterator[Row]:
    import faiss

    faiss.omp_set_num_threads(1)
    model, _, loaded, histories = _loaded(run, data, given.users)
    vectors, head = ModelScorer(model).user_vectors(histories), model.get_output_embeddings()
    items = torch.cat([head.weight, head.bias[:, None]], 1).detach()[FIRST_ITEM_TOKEN:]
    for name, rows in ((loaded.folder.name, items), (f"{loaded.folder.name}, made", _between(items, given.num_items))):
        facts = {"dataset": name, "num_items": len(rows)}
        exact = ItemIndex.build(rows[:, :-1], rows[:, -1])
        best = exact.top_k(vectors, TOP_K)[0].numpy()
        yield facts | {"system": "flat", "recall@10": 1.0} | _search_rates(exact, vectors)
        start = time.process_time()
        index = ItemIndex.build(rows[:, :-1], rows[:, -1], "hnsw")
        facts["build_cpu_seconds"] = time.process_time() - start
        for width in WIDTHS:
            index.index.hnsw.efSearch = width
            found = index.top_k(vectors, TOP_K)[0].numpy()
            recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(best, found, strict=True)]))
            yield facts | {"system": f"hnsw, width {width}", "recall@10": recall} | _search_rates(index, vectors)


def _between(items: torch.Tensor, num_items: int) -> torch.Tensor:
    """Items on the lines between random pairs."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(len(items), (2, num_items), generator=generator)
    return torch.lerp(items[first], items[second], torch.rand(num_items, 1, generator=generator))


def _search_rates(index: ItemIndex, vectors: torch.Tensor) -> dict[str, dict[str, float]]:
    def search(some: torch.Tensor):
        index.top_k(some, TOP_K)

    found = {
        str(size): _rate(search, vectors[: len(vectors) if size > 1 else len(vectors) // 8], size)
        for size in BATCH_SIZES
    }
    return {"users_per_cpu_second": found}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}: {_text(number)}" for key, number in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _speed_report(rows: Iterable[Row]) -> str:
    table = []
    for row in rows:
        rates = [f"{row['users_per_cpu_second'][str(size)]:,.0f}" for size in BATCH_SIZES]
        lead = "" if row["model_minus_this"] is None else "{:+.4f} to {:+.4f}".format(*row["model_minus_this"])
        cells = [f"{row['ndcg@10']:.4f}", lead, f"{row['bytes'] / 1e6:.1f}"]
        table.append([f"{row['dataset']}, {row['system']}", *rates, *cells])
    header = ["", "users/s, one at a time", "users/s, 256 at a time", "test NDCG@10", "lost (95 %)", "MB"]
    return _page("Scores of all items: the model, its ONNX graph, the graph in int8", header, table, rows)


def _index_report(rows: Iterable[Row]) -> str:
    table = []
    for row in rows:
        rates = [f"{row['users_per_cpu_second'][str(size)]:,.0f}" for size in BATCH_SIZES]
        built = f"{row['build_cpu_seconds']:,.0f}" if "build_cpu_seconds" in row else ""
        name = f"{row['dataset']} ({row['num_items']:,} items), {row['system']}"
        table.append([name, f"{row['recall@10']:.3f}", *rates, built])
    header = ["", "recall@10", "users/s, one at a time", "users/s, 256 at a time", "CPU seconds to build"]
    return _page("Top-10 from an index of the items", header, table, rows)


def _page(title: str, header: list[str], table: list[list[str]], rows: Iterable[Row]) -> str:
    made = sorted(
        {f"`{row['command']}`: {row['date']}, commit {row['commit']}, {row['hardware']}, one thread" for row in rows}
    )
    return "\n\n".join([f"# {title}", markdown_table(header, table), "\n".join(f"- {line}" for line in made)]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
