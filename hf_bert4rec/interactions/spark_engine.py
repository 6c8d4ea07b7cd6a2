"""
The engine of a log that outgrows one machine: the same statements on Spark SQL.

A session that is active is used and left running, with its own memory and threads; otherwise one is started, on this
machine where nothing names another. Log and output folder must be on a file system that all machines see under the same
path: tables are Parquet files in the output folder until the engine closes.

*Source:* Spark SQL with `spark.sql.ansi.doubleQuotedIdentifiers`, so that names are quoted as everywhere else.

*Differences:* what a cast of text to a number or a date takes is Spark's: "5f" is a number, "2024-01" a date.
"""

from __future__ import annotations

import logging
import re
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq

from .duckdb_engine import DuckDBEngine
from .engine import NUM_ROWS_PER_BATCH, SPILL_FOLDER, first_line, literal

MEBIBYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
SETTINGS = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.parser.escapedStringLiterals": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.sources.default": "parquet",
    "spark.sql.parquet.binaryAsString": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}


class SparkEngine:
    """
    A Spark session of its own settings, tables and views. Its methods are those of [`Engine`].

    Args:
        folder (`Path`): Where tables are kept while the engine lives.
        memory_limit (`str`): Memory of a session that is started here, and of the reader of text.
        threads (`int`, *optional*): Threads of a session that is started here; Spark's own settings decide by default.

    Raises:
        ValueError: If Spark or Java is missing, or the limit is none that Spark takes.
    """

    def __init__(self, folder: Path, memory_limit: str, threads: int | None = None):
        self._folder = (folder / SPILL_FOLDER).resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own_session = None
        self._num_results = 0
        self.reader = DuckDBEngine(folder, memory_limit, threads)
        running = spark_session_class().getActiveSession()
        if running is None:
            running = self._own_session = _start(self._folder, memory_limit, threads)
        self.session = running.newSession()
        for name, value in SETTINGS.items():
            self.session.conf.set(name, value)
        self._database = f"hf_bert4rec_{uuid.uuid4().hex}"
        self.run(f"create database {self._database} location {literal((self._folder / 'tables').as_uri())}")
        self.run(f"use {self._database}")

    def run(self, statement: str) -> None:
        self.session.sql(statement)

    def row(self, query: str) -> tuple[Any, ...]:
        return tuple(self.session.sql(query).collect()[0])

    def value(self, query: str) -> Any:
        return self.row(query)[0]

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        # Not through the driver's own rows: Arrow reads the files in which the machines left them, in their order.
        self._num_results += 1
        folder = self._folder / f"result_{self._num_results}"
        self.session.sql(query).write.parquet(folder.as_uri())
        files = (pq.ParquetFile(path) for path in sorted(folder.glob("part-*")))
        yield from _cut_alike(batch for file in files for batch in file.iter_batches(NUM_ROWS_PER_BATCH))

    def register(self, name: str, rows: pa.Table) -> None:
        path = self._folder / f"{name}.parquet"
        pq.write_table(rows, path)
        self.session.read.parquet(path.as_uri()).createOrReplaceTempView(name)

    def parquet_rows(self, paths: list[str]) -> str:
        wanted = [str(Path(path).resolve()) for path in paths]
        rows = self.session.read.parquet(*(re.sub(r"([*?\[\]{}\\])", r"\\\1", path) for path in wanted))
        numbers = {path: number for number, path in enumerate(wanted)}
        # Spark writes the same path as file:/ and as file:///.
        encoded = [urlparse(uri).path for uri in rows.inputFiles()]
        pairs = ", ".join(f"{literal(path)}, {numbers[unquote(path)]}" for path in encoded)
        number = f"map({pairs})[regexp_replace(_metadata.file_path, '^file:/+', '/')]"
        unknown = "cast(raise_error('a file of the log has an unknown name') as integer)"
        rows = rows.selectExpr(
            "*", f"coalesce({number}, {unknown}) as file_index", "_metadata.row_index as file_row_number"
        )
        rows.createOrReplaceTempView("given_files")
        return "given_files"

    def microseconds(self, name: str) -> str:
        return f"unix_micros(try_cast({name} as timestamp))"

    def nanoseconds(self, name: str) -> str:
        return name  # as it is read, see SETTINGS

    def adopt(self, name: str) -> None:
        path = self._folder / f"{name}.parquet"
        self.reader.run(f"copy (select * from {name}) to {literal(path)} (format parquet)")
        self.session.read.parquet(path.as_uri()).createOrReplaceTempView(name)

    def close(self) -> None:
        self.reader.close()
        self.run("use default")
        self.run(f"drop database {self._database} cascade")
        if self._own_session is not None:
            self._own_session.stop()

    @staticmethod
    @contextmanager
    def plain_errors(folder: Path, memory_limit: str) -> Iterator[None]:
        """
        Turns what Spark, its reader and the disk may run into, whatever the log, into one line.

        Raises:
            OSError: If the disk is full.
            ValueError: If the memory does not suffice, or if Spark fails otherwise.
        """
        with DuckDBEngine.plain_errors(folder, memory_limit):
            try:
                yield
            except Exception as error:
                if type(error).__module__.partition(".")[0] not in ("pyspark", "py4j"):
                    raise
                if "No space left on device" in str(error):
                    raise OSError("No space left on device") from None
                if "OutOfMemory" in str(error):
                    raise ValueError(
                        f"Spark has too little memory for this log ({first_line(error)}): raise memory_limit, or the memory "
                        "of the session that is given"
                    ) from None
                raise ValueError(f"the log cannot be prepared on Spark ({first_line(error)})") from error


def spark_session_class() -> Any:
    """
    `pyspark.sql.SparkSession`.

    Raises:
        ValueError: If pyspark is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Of pyspark to itself, on versions of pandas.
            warnings.simplefilter("ignore")
            from pyspark.sql import SparkSession
    except ImportError as error:
        raise ValueError(f"engine='spark' needs Spark ({error}): pip install 'hf_bert4rec[spark]'") from None
    return SparkSession


def _start(folder: Path, memory_limit: str, threads: int | None) -> Any:
    amount = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT])i?B?", memory_limit.strip(), re.IGNORECASE)
    if amount is None:
        raise ValueError(f"memory_limit {memory_limit!r} is not an amount of memory that Spark takes, such as '1GB'")
    builder = spark_session_class().builder.appName("hf-bert4rec prepare")
    if threads is not None:
        builder = builder.master(f"local[{threads}]")
    memory = f"{int(float(amount[1]) * MEBIBYTES[amount[2].upper()])}m"
    settings = {"spark.driver.memory": memory, "spark.local.dir": str(folder / "shuffle")}
    settings |= {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("pyspark", "py4j"):
            raise
        raise ValueError(
            f"Spark does not start ({first_line(error)}): it needs Java 17 or newer (JAVA_HOME) and a memory_limit of 512MB"
        ) from None
    # Nothing appears on the terminal but what the caller prints.
    session.sparkContext.setLogLevel("OFF")
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    return session


def _cut_alike(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `NUM_ROWS_PER_BATCH`, the last one shorter, with plain columns that may be null."""
    rows: pa.Table | None = None
    for batch in batches:
        schema = pa.schema([(field.name, field.type) for field in batch.schema])
        more = pa.Table.from_batches([pa.record_batch(batch.columns, schema=schema)])
        rows = more if rows is None else pa.concat_tables([rows, more])
        while len(rows) >= NUM_ROWS_PER_BATCH:
            yield rows.slice(0, NUM_ROWS_PER_BATCH).combine_chunks().to_batches()[0]
            rows = rows.slice(NUM_ROWS_PER_BATCH)
    if rows is not None and len(rows):
        yield rows.combine_chunks().to_batches()[0]
