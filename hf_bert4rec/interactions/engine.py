"""
What the preparation asks of an engine. `duckdb_engine.py` works inside this process; `spark_engine.py` on a cluster.

The statements of `filters.py` and `preparation.py` are plain SQL, the same text for every engine. What only one engine
understands stands in its own file. Text and rows in memory are read by DuckDB whatever the engine (`sources.py`), so
that a fault in a log reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

if TYPE_CHECKING:
    from .duckdb_engine import DuckDBEngine

ENGINE_FILE = "engine.duckdb"
SPILL_FOLDER = "spill"
# Of what is written too: a Parquet file has a row group for each batch, so every engine must cut alike.
NUM_ROWS_PER_BATCH = 1 << 14


class Engine(Protocol):
    """
    Runs the statements of the preparation over tables in one folder.

    Attributes:
        reader ([`DuckDBEngine`]): Reads text and rows in memory; of DuckDB the engine itself.
    """

    @property
    def reader(self) -> DuckDBEngine: ...

    def run(self, statement: str) -> None:
        """Run a statement for its effect."""

    def row(self, query: str) -> tuple[Any, ...]:
        """The first row of a query."""

    def value(self, query: str) -> Any:
        """The first value of the first row of a query."""

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query, in order, `NUM_ROWS_PER_BATCH` at a time."""

    def register(self, name: str, rows: pa.Table) -> None:
        """Let queries read Arrow rows under a name."""

    def parquet_rows(self, paths: list[str]) -> str:
        """What stands after `from` to read Parquet files: their columns, `file_index` and `file_row_number`."""

    def microseconds(self, name: str) -> str:
        """Microseconds since 1970 of a text column of dates, null where it is none; UTC without an offset."""

    def nanoseconds(self, name: str) -> str:
        """The integer in a column that a Parquet file calls a point in time in nanoseconds."""

    def adopt(self, name: str) -> None:
        """Let queries read a view of the reader under its own name."""

    def close(self) -> None:
        """Let go of the files."""

    @staticmethod
    def plain_errors(folder: Path, memory_limit: str) -> AbstractContextManager[None]:
        """Turns what the engine and the disk may run into, whatever the log, into one line."""


def literal(value: object) -> str:
    """A text literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def path_literal(path: str) -> str:
    """A path for DuckDB's readers, which would otherwise take `*`, `?` and `[` for a pattern."""
    return literal("".join(f"[{letter}]" if letter in "*?[" else letter for letter in path))


def first_line(error: Exception) -> str:
    """What an error says in its first line."""
    return str(error).partition("\n")[0].strip()
