"""
Recommendations as a Parquet file, written while they are made.

*Source:* none; the columns are the keys of the JSON lines that `hf-bert4rec recommend` writes.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .tokenization_bert4rec import Bert4RecTokenizer

SUFFIXES = (".parquet", ".pq")
ROWS_AT_ONCE = 1 << 14


class ParquetAnswers:
    r"""
    Writes answers to a Parquet file in flat memory.

    Columns: the keys that a line brought with it (their types are those of the first call; null where a line has no such
    key), `recommendations` (a list of `item_id`, `title` where there are titles, and `score`), `num_unknown`,
    `is_popularity`; `line` and `error` of a line that could not be read, null for the others.

    Args:
        path (`Path`): The file.
        tokenizer ([`Bert4RecTokenizer`]): Tells the type of item ids and whether there are titles.
    """

    def __init__(self, path: Path, tokenizer: Bert4RecTokenizer):
        item = [("item_id", pa.int64() if isinstance(tokenizer.item_ids[0], int) else pa.string())]
        item += [] if tokenizer.titles is None else [("title", pa.string())]
        item += [("score", pa.float32())]
        self._answer_fields = [
            pa.field("recommendations", pa.list_(pa.struct(item))),
            pa.field("num_unknown", pa.int64()),
            pa.field("is_popularity", pa.bool_()),
            pa.field("line", pa.int64()),
            pa.field("error", pa.string()),
        ]
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []

    def __enter__(self) -> ParquetAnswers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if kind is None and self._writer is None:
            self.write([])  # a file without rows is a file too
        if self._writer is not None:
            if kind is None:
                self._flush()
            self._writer.close()

    def write(self, answers: list[dict[str, Any]]) -> None:
        r"""
        Add rows.

        Args:
            answers (list of `dict`): As [`NextItemRecommendationPipeline`] gives them, with other keys beside.

        Raises:
            ValueError: If a key is not in the first answers, or of another type there.
        """
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, self._schema(answers))
        schema = self._writer.schema
        for name in {name: None for answer in answers for name in answer}:
            if name not in schema.names:
                raise ValueError(
                    f"the key {name!r} is not in the first lines, and a Parquet file has the same columns throughout: give "
                    "all lines the same keys, or an output file of JSON lines"
                )
        columns = [_column(answers, field) for field in schema]
        self._waiting.append(pa.record_batch(columns, schema=schema))
        if sum(len(batch) for batch in self._waiting) >= ROWS_AT_ONCE:
            self._flush()

    def _schema(self, answers: list[dict[str, Any]]) -> pa.Schema:
        own = {field.name for field in self._answer_fields}
        kept = {name: None for answer in answers for name in answer if name not in own}
        fields = [pa.field(name, _column(answers, pa.field(name, pa.null())).type) for name in kept]
        return pa.schema(fields + self._answer_fields)

    def _flush(self) -> None:
        if self._waiting and self._writer is not None:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
        self._waiting = []


def _column(answers: list[dict[str, Any]], field: pa.Field) -> pa.Array:
    """The values of one key; for the type null the type is found out."""
    values = [answer.get(field.name) for answer in answers]
    try:
        return pa.array(values, None if pa.types.is_null(field.type) else field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"the key {field.name!r} has values of more than one type ({str(error).splitlines()[0]}), and a column of a "
            "Parquet file has one: correct them, or give an output file of JSON lines"
        ) from None
