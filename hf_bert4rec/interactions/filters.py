"""
The preparation itself, as plain SQL: ids become integer keys, then every filter is a count and a semi-join on keys.

Ids that are integers are their own keys; text ids get theirs once, from a dictionary. A filter never touches text or
times, and rows are copied only where so many were dropped that later scans gain by it.

*Source:* the k-core of Seidman, "Network structure and minimum degree" (Social Networks 5, 1983), of users and items.

*Differences:* the k-core counts items first; its result does not depend on that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .engine import Engine
from .log import LoadedLog
from .options import InteractionOptions
from .times import finite, shown_time, time_expression

# Later scans pay for a copy of the rows when this share of them, or less, is left.
SHARE_WORTH_A_COPY = 0.75
EVENT_COLUMNS = "user_key, item_key, time_key, row_index"


@dataclass
class FilteredLog:
    """
    Where the filters stand: of the events in `table`, those that fulfil `condition` are left.

    Attributes:
        engine (`Engine`): Holds the table.
        left (`dict[str, int]`): Events, users and items left.
        read (`dict[str, int]`): Events, users and items of the log.
        time_kind (`str`): What the times count, see `time_expression`.
        ids (`dict[str, str]`): For user and item, a table `(id_key, id_text)`, or `""` where the key is the id.
        table (`str`): `events_N(user_key, item_key, time_key, row_index)`.
        condition (`str`): SQL over its columns.
        is_copy (`bool`): Whether the table is one, not a view of the log.
        dropped (`dict[str, dict]`): What each filter dropped and which option asked for it.
    """

    engine: Engine
    left: dict[str, int]
    read: dict[str, int]
    time_kind: str
    ids: dict[str, str]
    table: str = "events_0"
    condition: str = "true"
    is_copy: bool = True
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def events(self) -> str:
        """The events left, as a query in parentheses."""
        return f"(select {EVENT_COLUMNS} from {self.table} where {self.condition}) as events"

    def copy_rows(self, query: str) -> None:
        """Let the rows of a query take the place of the table."""
        number = int(self.table.removeprefix("events_")) + 1
        self.engine.run(f"create table events_{number} as {query}")
        if self.is_copy:
            self.engine.run(f"drop table {self.table}")
        self.is_copy = True
        self.table, self.condition = f"events_{number}", "true"

    def record(self, name: str, left: dict[str, int], option: str, **more: Any) -> None:
        """
        Write down what a filter left.

        Raises:
            ValueError: If it left nothing.
        """
        self.dropped[name] = {noun: self.left[noun] - left[noun] for noun in left} | {"option": option} | more
        if not left["events"]:
            raise ValueError(
                f"nothing is left: {self.read['events']} events were read, and {option} dropped the last "
                f"{self.left['events']} of them; loosen it or give more events"
            )
        self.left = left


def key_log(engine: Engine, log: LoadedLog, options: InteractionOptions, num_known_items: int | None) -> FilteredLog:
    """
    Events with integer keys for ids and ordered times, those of a low rating dropped.

    With a vocabulary (table `vocabulary(item_id, item_index)`) the key of a known item is its index; others follow.

    Raises:
        ValueError: If an id, a time or a rating is missing or cannot be read, or if there is no event.
    """
    num_events = engine.value("select count(*) from log")
    if not num_events:
        raise ValueError(f"{log.name} names columns and holds no event: give a log with at least one event")
    read, columns, joins = {"events": num_events}, [], ""
    ids: dict[str, str] = {}
    for role in ("user", "item"):
        value = f"{role}_value"
        if role in log.integers and not (role == "item" and num_known_items is not None):
            _refuse_null(engine, log, role, f"{value} is null")
            ids[role], key = "", value
            read[f"{role}s"] = engine.value(f"select count(distinct {value}) from log")
        else:
            ids[role], key = f"{role}_ids", f"{role}_ids.id_key"
            engine.run(_dictionary(role, num_known_items if role == "item" else None))
            if engine.value(f"select count(*) from {role}_ids where id_text is null or id_text = ''"):
                _refuse_null(engine, log, role, f"{value} is null or cast({value} as string) = ''")
            joins += f" join {role}_ids on cast({value} as string) = {role}_ids.id_text"
            read[f"{role}s"] = engine.value(f"select count(*) from {role}_ids")
        columns.append(f"{key} as {role}_key")
    kept = "true" if options.min_rating is None else _rating_condition(engine, log, options.min_rating)
    time, kind = time_expression(engine, log)
    events = f"select {', '.join(columns)}, {time} as time_key, row_index from log{joins} where {kept}"
    # Without a dictionary there is nothing to gain from a copy: the log is scanned where it lies.
    engine.run(f"create {'temp view' if not joins else 'table'} events_0 as {events}")
    filtered = FilteredLog(engine, dict(read), read, kind, ids, is_copy=bool(joins))
    if options.min_rating is not None:
        filtered.record("rating", _measure(filtered), f"min_rating={options.min_rating:g}")
    return filtered


def drop_unknown_items(filtered: FilteredLog, num_known_items: int, must_be_known: bool) -> None:
    """
    Drop events of items outside the vocabulary.

    Raises:
        ValueError: If there are some and all must be known, or if no event is left.
    """
    left = _measure(filtered, f"item_key < {num_known_items}")
    if must_be_known and left["events"] < filtered.left["events"]:
        example = filtered.engine.value(f"select min(id_text) from item_ids where id_key >= {num_known_items}")
        raise ValueError(
            f"{filtered.left['items'] - left['items']} items ({filtered.left['events'] - left['events']} events) are not "
            f"in the vocabulary, such as {example!r}: give unknown_items='skip', or train a new model on this log"
        )
    filtered.record("unknown_items", left, "unknown_items=skip")
    filtered.condition = f"item_key < {num_known_items}"


def collapse_repeats(filtered: FilteredLog) -> None:
    """Keep a user's first event with each item."""
    filtered.copy_rows(
        f"select {EVENT_COLUMNS} from (select {EVENT_COLUMNS}, row_number() over "
        f"(partition by user_key, item_key order by time_key, row_index) as meeting from {filtered.events}) as meetings "
        "where meeting = 1"
    )
    filtered.record("repeats", _measure(filtered), "repeats=collapse")


def keep_core(filtered: FilteredLog, min_user_events: int, min_item_events: int) -> None:
    """
    Count items and users in turn, dropping those with too few events, until a count drops nothing. What is left is
    counted in `kept_items(item_key, num_events)` and `kept_users(user_key, num_events)`.

    Raises:
        ValueError: If nothing is left.
    """
    engine, left = filtered.engine, dict(filtered.left)
    least = {"item": min_item_events, "user": min_user_events}
    num_rows = left["events"]
    kept: dict[str, str] = {}
    counts: list[dict[str, Any]] = []
    has_dropped = True
    while len(kept) < 2 or (has_dropped and left["events"]):
        noun = ("item", "user")[len(counts) % 2]
        kept[noun] = f"kept_{noun}s_{len(counts)}"
        engine.run(
            f"create table {kept[noun]} as select {noun}_key, count(*) as num_events from {filtered.events} "
            f"group by {noun}_key having count(*) >= {least[noun]}"
        )
        num_kept, num_events = engine.row(f"select count(*), coalesce(sum(num_events), 0) from {kept[noun]}")
        has_dropped = num_events < left["events"]
        counts.append(
            {"counted": f"{noun}s", "events": left["events"] - num_events, f"{noun}s": left[f"{noun}s"] - num_kept}
        )
        left |= {"events": int(num_events), f"{noun}s": num_kept}
        semi_joins = [f"{other}_key in (select {other}_key from {table})" for other, table in kept.items()]
        # A condition on items that stood here before holds for every item that was counted under it.
        filtered.condition = " and ".join(semi_joins)
        if num_events <= SHARE_WORTH_A_COPY * num_rows:
            filtered.copy_rows(f"select * from {filtered.events}")
            num_rows = num_events
    option = f"min_user_events={min_user_events} with min_item_events={min_item_events}"
    filtered.record("core", left, option, counts=counts)
    for noun, table in kept.items():
        engine.run(f"create view kept_{noun}s as select * from {table}")


def time_cuts(filtered: FilteredLog, validation_share: float, test_share: float) -> tuple[str, str]:
    """
    Points in time at which the validation and the test period begin, as text; each user's number of events before them
    goes to `events_before(user_key, before_validation, before_test)`.

    Events of the same time are never parted: all of them belong to the later period.

    Raises:
        ValueError: If the log has no times, or so few different ones that a period is empty.
    """
    if filtered.time_kind == "order":
        raise ValueError("split='global-time' needs times, and the log has no time column: give time_column")
    engine, num_events = filtered.engine, filtered.left["events"]
    for name, share in (("validation", validation_share + test_share), ("test", test_share)):
        offset = min(num_events - round(share * num_events), num_events - 1)
        engine.run(
            f"create table {name}_cut as select time_key as {name}_time from {filtered.events} "
            f"order by time_key limit 1 offset {offset}"
        )
    cuts = f"{filtered.events}, validation_cut, test_cut"
    points = engine.row(
        "select cast(min(time_key) as string), cast(min(validation_time) as string), cast(min(test_time) as string), "
        f"min(time_key) < min(validation_time) and min(validation_time) < min(test_time) from {cuts}"
    )
    first, validation, test = (shown_time(point, filtered.time_kind) for point in points[:3])
    if not points[3]:
        raise ValueError(
            f"split='global-time' leaves a period empty (first event {first}, validation from {validation}, test from "
            f"{test}): change validation_share and test_share, or split by leave-one-out"
        )
    engine.run(
        "create table events_before as select user_key, "
        "sum(case when time_key < validation_time then 1 else 0 end) as before_validation, "
        f"sum(case when time_key < test_time then 1 else 0 end) as before_test from {cuts} group by user_key"
    )
    return validation, test


def _dictionary(role: str, num_known: int | None) -> str:
    """The statement that gives each id of the log a key from 0, in the order of the texts."""
    ids = f"(select distinct cast({role}_value as string) as id_text from log) as distinct_ids"
    if num_known is None:
        # 32 bits suffice: two thousand million different ids would not fit elsewhere either.
        key = "cast(row_number() over (order by id_text) - 1 as integer)"
        return f"create table {role}_ids as select {key} as id_key, id_text from {ids}"
    unknown = f"{num_known} - 1 + row_number() over (partition by item_index is null order by id_text)"
    key = f"cast(coalesce(item_index, {unknown}) as integer)"
    return f"create table {role}_ids as select {key} as id_key, id_text from {ids} left join vocabulary on id_text = item_id"


def _measure(filtered: FilteredLog, condition: str = "true") -> dict[str, int]:
    counts = filtered.engine.row(
        f"select count(*), count(distinct user_key), count(distinct item_key) from {filtered.events} where {condition}"
    )
    return dict(zip(("events", "users", "items"), counts, strict=True))


def _refuse_null(engine: Engine, log: LoadedLog, role: str, condition: str) -> None:
    if (row := engine.value(f"select min(row_index) from log where {condition}")) is not None:
        raise ValueError(
            f"{log.place(row)}: no {role} id (column {log.columns[role]!r}); complete the line or remove it"
        )


def _rating_condition(engine: Engine, log: LoadedLog, min_rating: float) -> str:
    rating = "try_cast(rating_value as double)"
    row = engine.value(f"select min(row_index) from log where {rating} is null or not ({finite(rating)})")
    if row is not None:
        value = engine.value(f"select cast(rating_value as string) from log where row_index = {row}")
        found = "no rating" if value is None else f"{value!r} is not a rating"
        raise ValueError(
            f"{log.place(row)}: {found} (column {log.columns['rating']!r}); give a number, or leave min_rating out"
        )
    return f"{rating} >= {float(min_rating)!r}"
