"""
Times of any notation as values that order them: integers, other numbers, or ISO dates with or without an offset.

*Source:* ISO 8601, as far as the engine's own cast takes it.

*Differences:* a column is of one kind as a whole. Nanoseconds are kept; text without an offset is UTC.
"""

from __future__ import annotations

import datetime

from .engine import Engine
from .log import LoadedLog

EPOCH = datetime.datetime(1970, 1, 1)


def finite(number: str) -> str:
    """
    SQL that tells whether a double is a number and not infinite. A comparison with bounds would be answered from the minima and
    maxima that a Parquet file states, which leave NaN out.
    """
    return f"{number} - {number} = 0"


# Kind: expression, condition. Casts would round "1.5" to 2 for an integer and take "infinity" for a date.
WHOLE = "time_value not like '%.%' and time_value not like '%e%' and time_value not like '%E%'"
DATED = "trim(time_value) between '0' and ':'"
BELOW_MICROSECONDS = "rpad(regexp_extract(time_value, '[.][0-9]{6}([0-9]{1,3})', 1), 3, '0')"
NUMBER_KINDS = {
    "integer": ("try_cast(time_value as bigint)", WHOLE),
    "large integer": ("try_cast(time_value as decimal(38, 0))", WHOLE),
    "float": ("try_cast(time_value as double)", finite("try_cast(time_value as double)")),
}


def time_expression(engine: Engine, log: LoadedLog) -> tuple[str, str]:
    """
    An expression over `log` that orders its rows in time, and what it counts: `"integer"`, `"large integer"`,
    `"float"`, `"microsecond"` or `"nanosecond"` (since 1970), `"timestamp"`, or `"order"` where the log has no time
    column.

    Raises:
        ValueError: If a time is missing or not of the kind of the others; the message names file, line and value.
    """
    if "time" not in log.kinds:
        return "0", "order"
    if (kind := log.kinds["time"]) != "text":
        wrong = f"time_value is null or not ({finite('time_value')})" if kind == "float" else "time_value is null"
        _refuse(engine, log, engine.value(f"select min(row_index) from log where {wrong}"))
        return "time_value", kind
    first_wrong = []
    microseconds = engine.microseconds("trim(time_value)")
    for kind, (expression, condition) in (NUMBER_KINDS | {"microsecond": (microseconds, DATED)}).items():
        wrong = f"time_value is null or {expression} is null or not ({condition})"
        first_wrong.append(engine.value(f"select min(row_index) from log where {wrong}"))
        if first_wrong[-1] is None:
            digits = "select count(*) from log where regexp_extract(time_value, '([.][0-9]{7})', 1) <> ''"
            if kind == "microsecond" and engine.value(digits):
                whole = f"cast({microseconds} as decimal(38, 0)) * 1000"
                return f"{whole} + cast({BELOW_MICROSECONDS} as integer)", "nanosecond"
            return expression, kind
    # What the column was meant to be is the kind that goes furthest.
    _refuse(engine, log, max(first_wrong))
    raise AssertionError("a text column is of one of the kinds, or has a row that is not")


def shown_time(value: str, kind: str) -> str:
    """A time of the engine, given as text, the way a person writes it."""
    if kind == "float":
        return repr(float(value))
    if kind not in ("microsecond", "nanosecond"):
        return value.removesuffix("+00")
    microseconds = int(value) // (1000 if kind == "nanosecond" else 1)
    return (EPOCH + datetime.timedelta(microseconds=microseconds)).isoformat() + "Z"


def _refuse(engine: Engine, log: LoadedLog, row: int | None) -> None:
    if row is None:
        return
    value = engine.value(f"select cast(time_value as string) from log where row_index = {row}")
    found = "no time" if value is None else f"{value!r} is not a time like the others"
    raise ValueError(
        f"{log.place(row)}: {found} (column {log.columns['time']!r}); give numbers or ISO dates, all of one kind, "
        "or another time_column"
    )
