"""
Every option of `prepare`, declared once: the command line, its help and the defaults are read from here.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
from dataclasses import dataclass, field, fields, replace
from typing import Any

CHOICES = {
    "engine": ("duckdb", "spark"),
    "header": ("auto", "true", "false"),
    "items_header": ("auto", "true", "false"),
    "repeats": ("keep", "collapse"),
    "split": ("leave-one-out", "global-time"),
    "unknown_items": ("skip", "error"),
}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class InteractionOptions:
    """
    How a log is read, filtered and split. Columns are named, or counted from 0. `metadata["help"]` of
    each field says what it does.

    Raises:
        ValueError: If a value is none of its choices or out of range.

    Example:
        >>> InteractionOptions(min_rating=4).min_user_events
        5
    """

    user_column: str | None = _option(
        None, "Column of user ids: its name, or its position from 0. Recognised by name (user_id, ...) if not given."
    )
    item_column: str | None = _option(
        None, "Column of item ids: its name, or its position from 0. Recognised by name (item_id, ...) if not given."
    )
    time_column: str | None = _option(
        None,
        "Column of times (numbers or ISO dates): its name, or its position from 0. Recognised by name (timestamp, ...) if "
        "not given; 'none', or a log without one: the order of the log is the order in time.",
    )
    rating_column: str | None = _option(
        None, "Column of ratings, read only with min_rating. Recognised by name (rating, ...) if not given."
    )
    separator: str | None = _option(
        None,
        "What stands between the columns of a text log, also several characters such as '::'. Found out if not given.",
    )
    encoding: str = _option("utf-8", "Encoding of a text log, such as utf-8 or latin-1.")
    header: str = _option("auto", "Whether the first line of a text log names the columns: auto, true or false.")
    min_rating: float | None = _option(None, "Keep only events with at least this rating. All events if not given.")
    min_user_events: int = _option(
        5, "Keep only users with at least this many events (with min_item_events, until both hold). 1 keeps all."
    )
    min_item_events: int = _option(
        5, "Keep only items with at least this many events (with min_user_events, until both hold). 1 keeps all."
    )
    repeats: str = _option(
        "keep", "An item that a user meets again: 'keep' every event, or 'collapse' to the first one."
    )
    split: str = _option(
        "leave-one-out",
        "'leave-one-out': each user's last event is the test target, the one before the validation target. "
        "'global-time': two points in time part training, validation and test; a user's first event in a period is the "
        "target.",
    )
    validation_share: float = _option(0.1, "Share of the events in the validation period of a global-time split.")
    test_share: float = _option(0.1, "Share of the events in the test period of a global-time split, the latest ones.")
    items_file: str | None = _option(None, "File that gives items their titles.")
    items_id_column: str | None = _option(
        None, "Column of item ids in the items file: name or position. Recognised by name, else the first."
    )
    items_title_column: str | None = _option(
        None, "Column of titles in the items file: name or position. Recognised by name, else the second."
    )
    items_separator: str | None = _option(
        None, "What stands between the columns of the items file. Found out if not given."
    )
    items_encoding: str = _option("utf-8", "Encoding of the items file, such as utf-8 or latin-1.")
    items_header: str = _option(
        "auto", "Whether the first line of the items file names the columns: auto, true or false."
    )
    unknown_items: str = _option(
        "skip", "Events of items that a given vocabulary does not hold: 'skip' (counted in the report) or 'error'."
    )
    engine: str = _option(
        "duckdb",
        "What filters and sorts: 'duckdb' on this machine, or 'spark' where a log outgrows one (pip install "
        "'hf_bert4rec[spark]'; needs Java 17).",
    )
    memory_limit: str = _option(
        "1GB",
        "Memory of the engine that filters and sorts. Beyond it spills to the output folder; the process itself comes on top.",
    )
    threads: int | None = _option(None, "Threads of the engine. All cores if not given.")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            given = getattr(self, name)
            given = str(given).lower() if isinstance(given, bool) else given
            if given not in choices:
                raise ValueError(f"{name} is {given!r}: choose one of {', '.join(choices)}")
            setattr(self, name, given)
        for option in fields(self):
            given = _plain(getattr(self, option.name))
            if option.name.endswith("_column") and isinstance(given, int) and not isinstance(given, bool):
                given = str(given)  # a position, as the number that it is
            setattr(self, option.name, given)
            if "str" in option.type and not isinstance(given, str) and not (given is None and "None" in option.type):
                wanted = "a name or a position" if option.name.endswith("_column") else "a text"
                raise ValueError(f"{option.name} is {given!r}: give {wanted}")
        for name, least in (("min_user_events", 0), ("min_item_events", 0), ("threads", 1)):
            given = getattr(self, name)
            if given is None and name == "threads":
                continue
            if not isinstance(given, int) or isinstance(given, bool) or given < least:
                raise ValueError(f"{name} is {given!r}: give a whole number, {least} or more")
        if self.min_rating is not None and not (_is_number(self.min_rating) and math.isfinite(self.min_rating)):
            raise ValueError(f"min_rating is {self.min_rating!r}: give a number, or leave it out")
        shares = (self.validation_share, self.test_share)
        if not all(map(_is_number, shares)) or not (shares[0] > 0 and shares[1] > 0 and sum(shares) < 1):
            raise ValueError(
                f"validation_share and test_share are {shares[0]!r} and {shares[1]!r}: give two shares above 0 that leave some "
                "events for training"
            )


def _plain(value: Any) -> Any:
    """Numbers of NumPy and paths as Python's own numbers and texts, which JSON can hold."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def with_overrides(options: InteractionOptions | None, overrides: dict[str, Any]) -> InteractionOptions:
    """
    The options with some of them replaced, checked.

    Raises:
        ValueError: If an override is no option; it names the closest one.
    """
    names = [option.name for option in fields(InteractionOptions)]
    for name in overrides:
        if name not in names:
            raise ValueError(f"no option {name!r}{closest(name, names)}; there are {', '.join(names)}")
    return replace(options or InteractionOptions(), **overrides)


def closest(name: str, names: list[str]) -> str:
    """`", did you mean 'x'?"`, or nothing where no name comes close."""
    found = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(
        name.lower(), [n.lower() for n in names], n=1
    )
    exact = next((other for other in names if found and other.lower() == found[0].lower()), None)
    return f", did you mean {exact!r}?" if exact else ""
