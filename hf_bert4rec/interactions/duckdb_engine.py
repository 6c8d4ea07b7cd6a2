"""
The engine of one machine: DuckDB inside this process, spilling to disk beyond a memory limit.

*Source:* DuckDB's settings `memory_limit`, `temp_directory` and `preserve_insertion_order`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from .engine import ENGINE_FILE, NUM_ROWS_PER_BATCH, SPILL_FOLDER, first_line, path_literal


class DuckDBEngine:
    """
    A DuckDB connection whose tables live in one folder. Its methods are those of [`Engine`].

    Args:
        folder (`Path`): Where tables and the spilled parts of a sort are kept; of use only while the engine lives.
        memory_limit (`str`): Memory of the engine, such as `"1GB"`. The process itself comes on top.
        threads (`int`, *optional*): Number of threads; all cores by default.

    Raises:
        ValueError: If the limit or the number of threads is not one.
    """

    def __init__(self, folder: Path, memory_limit: str, threads: int | None = None):
        settings: dict[str, Any] = {"temp_directory": str(folder / SPILL_FOLDER), "memory_limit": memory_limit}
        if threads is not None:
            settings["threads"] = threads
        try:
            self.connection = duckdb.connect(str(folder / ENGINE_FILE), config=settings)
        except (duckdb.ParserException, duckdb.InvalidInputException) as error:
            raise ValueError(
                f"memory_limit {memory_limit!r} is not an amount of memory such as '1GB': {first_line(error)}"
            ) from None
        # Times without an offset are UTC on every machine, and nothing appears on the terminal but what the caller prints.
        self.connection.execute("set TimeZone = 'UTC'")
        self.connection.execute("set enable_progress_bar = false")
        # The file is thrown away: writing it out once more when it is closed would take most of the time of a small log.
        self.connection.execute("pragma disable_checkpoint_on_shutdown")

    @property
    def reader(self) -> DuckDBEngine:
        return self

    def run(self, statement: str) -> None:
        self.connection.execute(statement)

    def row(self, query: str) -> tuple[Any, ...]:
        # Not fetchone: a result that is not read to its end blocks the connection.
        return self.connection.execute(query).fetchall()[0]

    def value(self, query: str) -> Any:
        return self.row(query)[0]

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        yield from self.connection.sql(query).to_arrow_reader(NUM_ROWS_PER_BATCH)

    def register(self, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        self.connection.register(name, rows)

    def parquet_rows(self, paths: list[str]) -> str:
        found = ", ".join(path_literal(path) for path in paths)
        # A folder named `user_id=9` would take the place of the column of that name.
        return f"read_parquet([{found}], binary_as_string = true, file_row_number = true, hive_partitioning = false)"

    def microseconds(self, name: str) -> str:
        return f"epoch_us(try_cast({name} as timestamptz))"

    def nanoseconds(self, name: str) -> str:
        return f"epoch_ns({name})"

    def adopt(self, name: str) -> None:
        pass  # it is the reader's own already

    def close(self) -> None:
        self.connection.close()

    @staticmethod
    @contextmanager
    def plain_errors(folder: Path, memory_limit: str) -> Iterator[None]:
        """
        Turns what the engine and the disk may run into, whatever the log, into one line.

        Raises:
            OSError: If the disk is full.
            ValueError: If the engine's memory does not suffice, or if it fails otherwise.
        """
        full = f"no space left on device while writing {folder}: free some, or choose an output folder on another disk"
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            if "temp_directory" in str(error) and "max_temp_directory_size" in str(error):
                raise OSError(errno.ENOSPC, full) from None
            raise ValueError(
                f"memory_limit {memory_limit!r} is too small for this log ({first_line(error)}): raise it"
            ) from None
        except (duckdb.Error, OSError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
                raise OSError(errno.ENOSPC, full) from None
            if isinstance(error, duckdb.Error):
                raise ValueError(f"the log cannot be prepared ({first_line(error)}): check its files") from error
            raise
