"""
Logs that carry types: Parquet files, and rows in memory (pandas, pyarrow, `datasets.Dataset`). The interface is that
of `sources.py`.

*Source:* DuckDB's `read_parquet`; Arrow's types.

*Differences:* integer ids become text and are remembered as integers. Ids that are neither text nor integers are
refused: nobody can tell whether 1.0 was "1".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import shown
from .duckdb_engine import DuckDBEngine
from .engine import Engine, first_line
from .sources import IDS, identifier

NUM_ROWS_PER_CHUNK = 1 << 16
REGISTERED = "given_rows"
# Where a row of a Parquet file stands, as both engines name it; a column of the same name would take its place.
PLACES = ("file_index", "file_row_number")


class ParquetSource:
    """
    Parquet files with the same columns.

    Args:
        paths (`list[str]`): The files, in the order of the log.
        engine (`Engine`): Reads them, where they lie.

    Raises:
        ValueError: If one of them is not a Parquet file, or has a column with one of the names in `PLACES`.
    """

    first_record = None

    def __init__(self, paths: list[str], engine: Engine):
        self.paths, self._engine = paths, engine
        self.name = paths[0]
        self._schemas: list[pa.Schema] = []
        # The row of a log of several files: number of the file times this, plus number of the row in the file.
        self._num_rows_per_file = 1
        for path in paths:
            try:
                with pq.ParquetFile(path) as file:
                    self._schemas.append(file.schema_arrow)
                    self._num_rows_per_file = max(self._num_rows_per_file, file.metadata.num_rows)
            except pa.ArrowException as error:
                raise ValueError(f"{path} is not a whole Parquet file ({first_line(error)}): write it again") from None
            for name in self._schemas[-1].names:
                if name.lower() in PLACES:
                    raise ValueError(f"{path} has a column {name!r}, which is how rows are counted: rename or drop it")
        self.columns = self._schemas[0].names

    def kind(self, role: str, position: int) -> str:
        name, expected = self.columns[position], self._schemas[0].field(position).type
        for path, schema in zip(self.paths, self._schemas, strict=True):
            if schema.names.count(name) != 1:
                count = schema.names.count(name)
                raise ValueError(
                    f"{path} has {count} columns named {name!r}: all files need the same columns, once each"
                )
            alike = [other for other in schema.names if other.lower() == name.lower()]
            if len(alike) > 1:  # to the engine they are one
                raise ValueError(f"{path} has columns {shown(alike)} that differ in case alone: rename all but one")
            if (found := schema.field(name).type) != expected:
                raise ValueError(
                    f"column {name!r} is {found} in {path} and {expected} in {self.name}: write it as one type"
                )
        return column_kind(role, expected, f"column {name!r} of {self.name}")

    def query(self, chosen: dict[str, int]) -> str:
        selected = [
            engine_column(
                self._engine, role, identifier(self.columns[position]), self._schemas[0].field(position).type
            )
            for role, position in chosen.items()
        ]
        # 32 bits where that suffices: the row is a sort key, and a narrow one halves the time of the sort.
        width = "integer" if len(self.paths) * self._num_rows_per_file < 1 << 31 else "bigint"
        row = f"cast(file_index * {self._num_rows_per_file} + file_row_number as {width}) as row_index"
        return f"select {', '.join(selected)}, {row} from {self._engine.parquet_rows(self.paths)}"

    def place(self, row: int) -> str:
        file, number = divmod(row, self._num_rows_per_file)
        return f"{self.paths[file]}, row {number + 1}"

    def fault(self) -> str | None:
        return None


class MemorySource:
    """
    Rows in memory: `pyarrow.Table`, `pandas.DataFrame` or `datasets.Dataset` (which is read a chunk at a time).

    Args:
        rows: The table, frame or data set.
        engine ([`DuckDBEngine`]): Where the rows are made known.

    Raises:
        ValueError: If it is anything else.
    """

    first_record = None

    def __init__(self, rows: Any, engine: DuckDBEngine):
        self._rows, self._engine = rows, engine
        self._library = type(rows).__module__.partition(".")[0]
        self._arrays: dict[int, pa.ChunkedArray] = {}
        if self._library == "pandas" and hasattr(rows, "columns"):
            self.columns = [str(name) for name in rows.columns]
        elif isinstance(rows, pa.Table) or (
            self._library == "datasets" and isinstance(getattr(rows, "num_rows", None), int)
        ):
            self.columns = list(rows.column_names)
        else:
            raise ValueError(
                f"a log of type {type(rows).__module__}.{type(rows).__name__} cannot be read: give a path, a list of paths, "
                "a pandas.DataFrame, a pyarrow.Table or one split of a datasets.DatasetDict"
            )
        self.name = f"the {self._library}.{type(rows).__name__}"

    def kind(self, role: str, position: int) -> str:
        return column_kind(role, self._type(position), f"column {self.columns[position]!r} of {self.name}")

    def query(self, chosen: dict[str, int]) -> str:
        types = {role: self._type(position) for role, position in chosen.items()}
        self._engine.register(REGISTERED, self._reader(chosen, types))
        selected = [engine_column(self._engine, role, role, types[role]) for role in chosen]
        return f"select {', '.join(selected)} from {REGISTERED}"

    def place(self, row: int) -> str:
        return f"{self.name}, row {row + 1}"

    def fault(self) -> str | None:
        return None

    def _type(self, position: int) -> pa.DataType:
        found = self._type_of_rows(position)
        return pa.string() if holds_bytes(found) else found

    def _type_of_rows(self, position: int) -> pa.DataType:
        if self._library == "datasets":
            return self._rows.features.arrow_schema.field(self.columns[position]).type
        if self._library == "pyarrow":
            return self._rows.schema.field(position).type
        if position not in self._arrays:
            column = f"column {self.columns[position]!r} of {self.name}"
            self._arrays[position] = pandas_column(self._rows.iloc[:, position], column)
        return self._arrays[position].type

    def _reader(self, chosen: dict[str, int], types: dict[str, pa.DataType]) -> pa.Table | pa.RecordBatchReader:
        if self._library == "pandas":
            return self._as_text(pa.table({role: self._arrays[position] for role, position in chosen.items()}), chosen)
        if self._library == "pyarrow":
            return self._as_text(self._rows.select(list(chosen.values())).rename_columns(list(chosen)), chosen)
        names = [self.columns[position] for position in chosen.values()]
        chunks = self._rows.select_columns(names).with_format("arrow").iter(batch_size=NUM_ROWS_PER_CHUNK)

        def batches() -> Iterator[pa.RecordBatch]:
            for chunk in chunks:
                yield from self._as_text(chunk.select(names).rename_columns(list(chosen)), chosen).to_batches()

        return pa.RecordBatchReader.from_batches(pa.schema(list(types.items())), batches())

    def _as_text(self, rows: pa.Table, chosen: dict[str, int]) -> pa.Table:
        """The rows with bytes as the text that they hold, which the engine would write as escapes."""
        for place, (role, position) in enumerate(chosen.items()):
            column = rows.column(place)
            if not holds_bytes(column.type):
                continue
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            try:
                rows = rows.set_column(place, role, column.cast(pa.string()))
            except pa.ArrowInvalid:
                raise ValueError(
                    f"column {self.columns[position]!r} of {self.name} holds bytes that are no UTF-8 text: convert it first"
                ) from None
        return rows


def holds_bytes(column_type: pa.DataType) -> bool:
    """Whether the values are bytes, as which the files of some writers hold text."""
    types = pa.types
    if types.is_dictionary(column_type):
        column_type = column_type.value_type
    return any(is_type(column_type) for is_type in (types.is_binary, types.is_large_binary, types.is_binary_view))


def column_kind(role: str, column_type: pa.DataType, column: str) -> str:
    """
    `"text"`, `"integer"`, `"float"`, `"timestamp"` or `"nanosecond"`.

    Raises:
        ValueError: If a column of this type cannot play the role.
    """
    types = pa.types
    if types.is_dictionary(column_type):
        column_type = column_type.value_type
    if types.is_string(column_type) or types.is_large_string(column_type) or types.is_string_view(column_type):
        return "text"
    if holds_bytes(column_type) or types.is_null(column_type):  # a column of nulls is text without a value
        return "text"
    if types.is_integer(column_type):
        return "integer"
    if role in IDS:
        raise ValueError(
            f"{column} holds {column_type} values, and ids are text or integers: convert it first "
            "(in pandas: astype('Int64') or astype(str))"
        )
    if role in ("time", "rating") and (types.is_floating(column_type) or types.is_decimal(column_type)):
        return "float"
    if role == "time" and (types.is_timestamp(column_type) or types.is_date(column_type)):
        return "nanosecond" if str(column_type).startswith("timestamp[ns") else "timestamp"
    raise ValueError(
        f"{column} holds {column_type} values, which are no {role}: choose another column or convert it first"
    )


def engine_column(engine: Engine, role: str, name: str, column_type: pa.DataType) -> str:
    """
    A column in a type that the engine orders well: 64-bit integers, doubles, text; points in time as they are, but
    nanoseconds, which not every engine has, as integers.
    """
    kind = column_kind(role, column_type, name)
    target = {"text": "string", "integer": "bigint", "float": "double"}.get(kind, "")
    if kind == "nanosecond":
        name = engine.nanoseconds(name)
    if role == "title":
        target = "string"
    elif kind == "integer" and column_type == pa.uint64():
        target = "decimal(20, 0)"
    return f"cast({name} as {target}) as {role}_value" if target else f"{name} as {role}_value"


def pandas_column(series: Any, column: str) -> pa.ChunkedArray:
    """
    A pandas column as Arrow. Python integers among texts become text.

    Raises:
        ValueError: If it mixes other kinds of values.
    """
    import pandas

    if series.dtype == object and pandas.api.types.infer_dtype(series, skipna=True) == "mixed-integer":
        series = series.where(series.isna(), series.astype(str))
    try:
        array = pa.array(series, from_pandas=True)
    except OverflowError:
        raise ValueError(
            f"{column} holds integers of more than 64 bits: convert them to text first (astype(str))"
        ) from None
    except pa.ArrowException as error:
        raise ValueError(f"{column} mixes values ({first_line(error)}): convert it to one type first") from None
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
