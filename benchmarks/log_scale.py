"""
`prepare` beside bare DuckDB over generated logs: time and peak memory against the number of events.

Both do the same: text ids become integers through a dictionary, the five-core is counted until it drops nothing, events
are sorted by user, time and row, and items, users and events are written; both under the same memory limit and threads,
each in a process of its own. Bare DuckDB is told the columns and their types and checks nothing: no missing id, no time
that is none, no report of what was dropped. The run fails unless both write the same events.

    python -m benchmarks.log_scale --folder scratch --events 1000000 10000000 --threads 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
ROWS_PER_CHUNK = 1 << 20
EVENTS_PER_USER, EVENTS_PER_ITEM = 20, 50
LEAST = 5
# A process of no size in between: to Linux the peak of a process begins with the size of the one that started it.
LAUNCHER = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""
READERS = {
    "parquet": "read_parquet('{log}', file_row_number = true)",
    "csv": "read_csv('{log}', header = true, columns = {{'user_id': 'VARCHAR', 'item_id': 'VARCHAR', 'timestamp': 'BIGINT'}})",
}


def generated_chunks(num_events: int, seed: int = 0) -> Iterator[pa.Table]:
    """A log in the order of time; few users and items have most of the events, and many have less than five."""
    random = np.random.default_rng(seed)
    num_users, num_items = num_events // EVENTS_PER_USER, num_events // EVENTS_PER_ITEM
    for start in range(0, num_events, ROWS_PER_CHUNK):
        size = min(ROWS_PER_CHUNK, num_events - start)
        users = (num_users * random.random(size) ** 3).astype(np.int64)
        items = (num_items * random.random(size) ** 6).astype(np.int64)
        times = 1_600_000_000 + (np.arange(start, start + size) * (100_000_000 / num_events)).astype(np.int64)
        # Neighbours in the dictionary are no neighbours in activity.
        names = {"user_id": ("user-", users * 7_919 % num_users), "item_id": ("B0", items * 104_729 % num_items)}
        columns = {name: _texts(prefix, numbers) for name, (prefix, numbers) in names.items()}
        yield pa.table(columns | {"timestamp": times})


def _texts(prefix: str, numbers: np.ndarray) -> pa.Array:
    digits = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), 9, "0")
    return pc.binary_join_element_wise(pa.scalar(prefix), digits, "")


def write_log(path: Path, num_events: int) -> None:
    """A generated log as Parquet or CSV, by the ending of the path."""
    chunks = generated_chunks(num_events)
    first = next(chunks)
    make = pa.csv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
    with make(path, first.schema) as writer:
        writer.write_table(first)
        for chunk in chunks:
            writer.write_table(chunk)


def run_bare(log: str, folder: Path, memory_limit: str, threads: int | None) -> None:
    """What `prepare` does, as a person writes it who knows the log."""
    folder.mkdir()
    connection = duckdb.connect(str(folder / "bare.duckdb"))
    run = connection.execute
    run("set enable_progress_bar = false")
    run("pragma disable_checkpoint_on_shutdown")
    run(f"set memory_limit = '{memory_limit}'")
    run(f"set temp_directory = '{folder / 'spill'}'")
    if threads is not None:
        run(f"set threads = {threads}")
    rows = READERS[Path(log).suffix[1:]].format(log=log)
    row = "file_row_number"
    if log.endswith(".csv"):
        run(f"create table log as select * from {rows}")
        rows, row = "log", "log.rowid"
    for noun in ("user", "item"):
        run(
            f"create table {noun}_ids as select cast(row_number() over (order by id) as integer) as key, id from "
            f"(select distinct {noun}_id as id from {rows})"
        )
    run(
        f"create table events as select u.key as user_key, i.key as item_key, timestamp as time, {row} as row from {rows} "
        "join user_ids u on u.id = user_id join item_ids i on i.id = item_id"
    )
    left = _keep_core(connection)
    run(
        "create table items as select cast(row_number() over (order by n desc, id) - 1 as integer) as item_index, key, id, n "
        "from kept_item join item_ids using (key)"
    )
    run(f"copy (select id, n from items order by item_index) to '{folder / 'items.parquet'}'")
    run(f"copy (select id, n from kept_user join user_ids using (key) order by key) to '{folder / 'users.parquet'}'")
    run(
        "copy (select item_index from events join items on key = item_key order by user_key, time, row) "
        f"to '{folder / 'events.parquet'}'"
    )
    connection.close()
    (folder / "left.json").write_text(json.dumps(left))


def _keep_core(connection: duckdb.DuckDBPyConnection) -> int:
    """Count and drop until a round drops nothing; the number of events left."""
    left, before = connection.execute("select count(*) from events").fetchall()[0][0], -1
    while left != before:
        before = left
        for noun in ("item", "user"):
            connection.execute(
                f"create or replace table kept_{noun} as select {noun}_key as key, count(*) as n from events "
                f"group by {noun}_key having count(*) >= {LEAST}"
            )
            left = connection.execute(f"select sum(n) from kept_{noun}").fetchall()[0][0]
            if left != before:
                connection.execute(
                    f"create table fewer as select * from events where {noun}_key in (select key from kept_{noun})"
                )
                connection.execute("drop table events")
                connection.execute("alter table fewer rename to events")
    return int(left)


def measured(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds and peak resident memory of a command, its import of Python packages included."""
    start = time.perf_counter()
    launched = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    code, cpu_seconds, peak_kilobytes = json.loads(launched.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with code {code}")
    return {
        "wall_seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_gigabytes": round(peak_kilobytes * 1024 / 1e9, 2),
    }


def compare(log: Path, num_events: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    threads = [] if options.threads is None else ["--threads", str(options.threads)]
    limits = ["--memory_limit", options.memory_limit, *threads]
    commands = {
        "prepare": ["-m", "hf_bert4rec", "prepare", str(log), "--output_dir", str(folder / "prepare"), *limits],
        "bare": ["-m", "benchmarks.log_scale", "--bare", str(log), "--folder", str(folder / "bare"), *limits],
    }
    result: dict[str, Any] = {"events": num_events, "format": log.suffix[1:]}
    for name, command in commands.items():
        runs = []
        for _ in range(options.repeats):
            shutil.rmtree(folder / name, ignore_errors=True)
            runs.append(measured([sys.executable, *command]))
        result[name] = min(runs, key=lambda run: run["cpu_seconds"])
    ours = np.load(folder / "prepare" / "events.npy", mmap_mode="r")
    theirs = pq.ParquetFile(folder / "bare" / "events.parquet")
    digests = [hashlib.sha256(), hashlib.sha256()]
    start = 0
    for batch in theirs.iter_batches(ROWS_PER_CHUNK):
        digests[0].update(batch.column(0).to_numpy().astype("<i4").tobytes())
        digests[1].update(ours[start : start + len(batch)].tobytes())
        start += len(batch)
    if start != len(ours) or digests[0].digest() != digests[1].digest():
        raise RuntimeError(f"prepare and bare DuckDB differ on {log}: {len(ours)} and {start} events")
    for name in commands:
        shutil.rmtree(folder / name)
    ratios = {
        kind: round(result["prepare"][kind] / result["bare"][kind], 2) for kind in ("wall_seconds", "cpu_seconds")
    }
    return result | {"events_left": start, "ratio": ratios}


def table(record: dict[str, Any]) -> str:
    """The results in Markdown, with the command that made them."""
    lines = [
        "| events | format | left | prepare s (CPU) | bare DuckDB s (CPU) | ratio (CPU) | prepare GB | bare DuckDB GB |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        times = [f"{row[name]['wall_seconds']} ({row[name]['cpu_seconds']})" for name in ("prepare", "bare")]
        times.append(f"{row['ratio']['wall_seconds']} ({row['ratio']['cpu_seconds']})")
        memory = [str(row[name]["peak_gigabytes"]) for name in ("prepare", "bare")]
        cells = [f"{row['events']:,}", row["format"], f"{row['events_left']:,}", *times, *memory]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([f"`{record['command']}`, {record['machine']}, DuckDB {record['duckdb']}", "", *lines]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Generate, run both, write `log_scale.json` and `log_scale.md` to the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log_scale", description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where logs, outputs and results go")
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes as Parquet")
    parser.add_argument("--csv_events", type=int, nargs="*", default=[], help="sizes as CSV")
    parser.add_argument("--threads", type=int, help="threads of both; all cores if not given")
    parser.add_argument("--memory_limit", default="1GB", help="memory of DuckDB in both (default: 1GB)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, the one of least CPU time counts")
    parser.add_argument("--bare", metavar="LOG", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.bare is not None:
        run_bare(options.bare, options.folder, options.memory_limit, options.threads)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    given = sys.argv[1:] if arguments is None else arguments
    record: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.log_scale", *given]),
        "machine": f"{platform.machine()}, {os.cpu_count()} threads, Python {platform.python_version()}",
        "duckdb": duckdb.__version__,
        "rows": [],
    }
    sizes = [(size, "parquet") for size in options.events] + [(size, "csv") for size in options.csv_events]
    for num_events, suffix in sizes:
        log = options.folder / f"{num_events}.{suffix}"
        if not log.exists():
            write_log(log.with_name(f"partial-{log.name}"), num_events)
            log.with_name(f"partial-{log.name}").rename(log)
        record["rows"].append(compare(log, num_events, options.folder, options))
        (options.folder / "log_scale.json").write_text(json.dumps(record, indent=1) + "\n")
        (options.folder / "log_scale.md").write_text(table(record))
    sys.stdout.write(table(record))


if __name__ == "__main__":
    main()
