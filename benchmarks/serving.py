"""
Requests a second, and how long they take, of `hf-bert4rec serve` on loopback, beside the batch rate of the bare model.

Each client keeps one connection and sends its next request when the last one is answered: a history of a user, in raw ids,
for the ten best items. Clients are coroutines of one process, the server is another; what the server took is read from its
own metrics. CPU seconds are held against each other: neighbours disturb them less than wall seconds.

    python -m benchmarks.serving --run RUN --data DATA --clients 1 16 128
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from hf_bert4rec import load_data
from hf_bert4rec.ranking import top_k_items
from hf_bert4rec.run_folder import load_run

from .results import Results, Row
from .runner import ROOT, provenance
from .table import markdown_table

FOLDER = Path(__file__).resolve().parent / "results"
TOP_K, BATCH_SIZE = 10, 128
NOTE = (
    "Where a process had less than one CPU, neighbours had the rest: requests a wall second and their times are those of "
    "such a machine, and the column per CPU second is the one to compare."
)
COLUMNS = (
    "",
    "per wall s",
    "per CPU s of the process",
    "p50, ms",
    "p99, ms",
    "histories per batch",
    "CPUs it had",
)


def histories_of(folder: Path, num_users: int) -> list[list[Any]]:
    """Whole histories of random users, in raw ids."""
    data = load_data(folder)
    users = np.random.default_rng(0).permutation(data.num_users)[:num_users]
    return [data.item_ids.take(data.history(int(user))).to_pylist() for user in users]


def rate(answer: Callable[[list[Any]], Any], inputs: list[Any], seconds: float) -> dict[str, float]:
    """Inputs answered a second, batch by batch in random order, after one batch to warm up."""
    answer(inputs[:BATCH_SIZE])
    start, count = (time.perf_counter(), time.process_time()), 0
    while time.perf_counter() - start[0] < seconds:
        first = count % max(1, len(inputs) - BATCH_SIZE)
        batch = inputs[first : first + BATCH_SIZE]
        answer(batch)
        count += len(batch)
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return {"per_wall_second": count / wall, "per_cpu_second": count / cpu, "cpus": cpu / wall}


def model_rates(run: Path, histories: list[list[Any]], seconds: float) -> dict[str, dict[str, float]]:
    """The model alone, from tokens to tokens, and the pipeline, from ids to ids; seen items left out."""
    model, tokenizer = load_run(run)
    recommend = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
    tokens = [np.array(tokenizer.encode_items(history)[0]) for history in histories]

    def bare(batch: list[np.ndarray]) -> None:
        batch = sorted(batch, key=len, reverse=True)
        top_k_items(recommend.scorer(None, batch), TOP_K, vocab_size=recommend.scorer.vocab_size, seen=batch)

    return {
        f"model, batches of {BATCH_SIZE}": rate(bare, tokens, seconds),
        f"pipeline, batches of {BATCH_SIZE}": rate(lambda batch: recommend(batch, top_k=TOP_K), histories, seconds),
    }


@contextlib.contextmanager
def server(run: Path, threads: int) -> Iterator[int]:
    """The port of a server in a process of its own."""
    command = [sys.executable, "-m", "hf_bert4rec", "serve", str(run), "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://[^ ]+:(\d+);", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise RuntimeError(f"{' '.join(command)} did not start")
            yield int(found[1])
        finally:
            process.terminate()
            process.communicate()


def served_metrics(port: int) -> dict[str, float]:
    """The server's own figures that have no labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if line[0] != "#" and "{" not in line]
    return {name: float(value) for name, value in lines}


async def load(port: int, bodies: list[bytes], num_clients: int, seconds: float) -> list[float]:
    """Seconds that each answered request took."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            number = (number + num_clients) % len(bodies)
            writer.write(bodies[number])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
            await reader.readexactly(length)
            if b" 200 OK" not in head:
                raise RuntimeError(f"The server answered {head.splitlines()[0].decode()}")
            taken.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*map(client, range(num_clients)))
    return taken


def measured_load(port: int, bodies: list[bytes], num_clients: int, seconds: float) -> dict[str, float]:
    """A row of figures for so many clients, after a second to warm up."""
    asyncio.run(load(port, bodies, num_clients, min(1, seconds)))
    before, start = served_metrics(port), time.perf_counter()
    taken = asyncio.run(load(port, bodies, num_clients, seconds))
    wall, after = time.perf_counter() - start, served_metrics(port)
    gone = {name: after[name] - before[name] for name in before}
    cpu, batches = gone["process_cpu_seconds_total"], gone["hf_bert4rec_batch_histories_count"]
    return {
        "per_wall_second": len(taken) / wall,
        "per_cpu_second": len(taken) / cpu,
        "cpus": cpu / wall,
        "p50_ms": 1000 * float(np.percentile(taken, 50)),
        "p99_ms": 1000 * float(np.percentile(taken, 99)),
        "histories_per_batch": gone["hf_bert4rec_batch_histories_sum"] / batches,
        "requests": len(taken),
    }


def as_request(history: list[Any]) -> bytes:
    body = json.dumps({"history": history, "top_k": TOP_K}).encode()
    head = (
        f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def report(rows: list[Row]) -> str:
    """The whole of `serving.md`."""
    parts = ["# Serving on loopback", NOTE]
    for name in dict.fromkeys(row["dataset"] for row in rows):
        found = [row for row in rows if row["dataset"] == name]
        cells = [[row["system"], *map(_cell, _figures(row))] for row in found]
        parts += [f"## {name}", markdown_table(COLUMNS, cells)]
        loads = [row["load_average"] for row in found]
        machine = f"{found[0]['hardware']['cpu']}, {found[0]['hardware']['cpu_count']} CPUs"
        said = f"{machine}, {found[0]['threads']} thread(s) of the model; load average {min(loads):.0f} to {max(loads):.0f}"
        parts.append(f"- `{found[0]['command']}`: {found[0]['date']}, commit {found[0]['commit']}, {said}")
    return "\n\n".join(parts) + "\n"


def _figures(row: Row) -> list[float | None]:
    names = ("per_wall_second", "per_cpu_second", "p50_ms", "p99_ms", "histories_per_batch", "cpus")
    return [row.get(name) for name in names]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="prepared data whose histories are sent")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement (default: %(default)s)")
    parser.add_argument("--users", type=int, default=2048, help="whose histories are sent (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the model (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=FOLDER, help="default: benchmarks/results")
    return parser


def main(arguments: list[str] | None = None) -> int:
    given = build_parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    histories = histories_of(given.data, given.users)
    options = f"--clients {' '.join(map(str, given.clients))} --seconds {given.seconds:g} --users {given.users}"
    command = f"python -m benchmarks.serving --run {given.run.name} --data DATA {options} --threads {given.threads}"
    results = Results(given.output_dir, "serving", vars(given), fresh=True)

    def keep(system: str, figures: dict[str, float]) -> None:
        named = provenance(dataset=given.run.name, system=system, threads=given.threads, command=command)
        results.add(named | figures | {"load_average": os.getloadavg()[0]})
        print(f"{system}: {_cell(figures['per_wall_second'])} a second", flush=True)

    for system, figures in model_rates(given.run, histories, given.seconds).items():
        keep(system, figures)
    with server(given.run, given.threads) as port:
        bodies = [as_request(history) for history in histories]
        for num_clients in given.clients:
            keep(f"server, {num_clients} clients", measured_load(port, bodies, num_clients, given.seconds))
    (given.output_dir / "serving.md").write_text(report(results.finish()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
