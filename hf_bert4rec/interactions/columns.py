"""
Which column of a log is the user, the item, the time, the rating or the title.

*Source:* the headers of MovieLens, Amazon reviews, RecBole's atomic files, Steam, Yelp and Last.fm.
"""

from __future__ import annotations

from .options import closest
from .text import plain_name

# Plain names (`plain_name`), the likeliest first.
KNOWN_NAMES = {
    role: names.split()
    for role, names in {
        "user": "userid user uid reviewerid customerid customer visitorid memberid accountid username sessionid session",
        "item": "itemid item iid movieid movie asin parentasin productid product sku articleid article bookid isbn trackid "
        "songid artistid gameid appid businessid videoid newsid contentid",
        "time": "timestamp time unixreviewtime datetime date eventtime createdat unixtime ts position",
        "rating": "rating overall stars score",
        "title": "title itemtitle movietitle producttitle name itemname productname",
    }.items()
}
NO_COLUMN = "none"


def choose_column(
    source: str, columns: list[str], wanted: str | None, role: str, option: str | None = None
) -> int | None:
    """
    Position of the column that plays a role.

    Args:
        source (`str`): Name of the log, for errors.
        columns (`list[str]`): Names of its columns.
        wanted (`str`, *optional*): A name, or a position from 0 where no column has that name. If not given, the
            column is recognised by its name.
        role (`str`): One of the keys of `KNOWN_NAMES`.
        option (`str`, *optional*): The option to name in an error; `role` and `_column` if not given.

    Returns:
        `int` or `None`: `None` if nothing was asked for and no name is known.

    Raises:
        ValueError: If the column asked for is not there or there twice.

    Example:
        >>> choose_column("log.csv", ["userId", "movieId", "rating"], None, "item")
        1
        >>> choose_column("log.csv", ["userId", "movieId", "rating"], "2", "item")
        2
    """
    if wanted is None:
        plain = [plain_name(name) for name in columns]
        found = next((plain.index(known) for known in KNOWN_NAMES[role] if known in plain), None)
        if found is None:
            return None
        wanted = columns[found]
    if (count := columns.count(wanted)) == 1:
        return columns.index(wanted)
    if count > 1:
        raise ValueError(
            f"{source} has {count} columns named {wanted!r}: give the position of the {role} column instead"
        )
    if wanted.isascii() and wanted.isdigit() and int(wanted) < len(columns):
        return int(wanted)
    raise ValueError(
        f"{source} has no {role} column {wanted!r}{closest(wanted, columns)}; it has {shown(columns)}: "
        f"give {option or role + '_column'}"
    )


def choose_event_columns(
    source: str, columns: list[str], wanted: dict[str, str | None], first_record: list[str] | None
) -> dict[str, int]:
    """
    Positions of user, item, time and rating; time and rating only where there are some.

    Args:
        source (`str`): Name of the log, for errors.
        columns (`list[str]`): Names of its columns.
        wanted (`dict`): What was asked for, by role. The rating is looked for only if it is a key.
        first_record (`list[str]`, *optional*): First record of a log without a header, whose columns have no names.

    Raises:
        ValueError: If user or item cannot be told, if a column plays two roles, or if a log without a header has more
            than two columns and not all of user, item and time are given.
    """
    if first_record is not None and wanted["user"] is None and wanted["item"] is None and len(columns) == 2:
        wanted = {**wanted, "user": "0", "item": "1", "time": wanted["time"] or NO_COLUMN}
    missing = [role for role in ("user", "item", "time") if wanted[role] is None]
    if first_record is not None and missing:
        raise ValueError(
            f"{source} has no header and {len(columns)} columns (first line: {shown(first_record)}): give "
            f"{', '.join(role + '_column' for role in missing)} as positions from 0, or by name if "
            "that line is a header (time_column='none': the order of the log)"
        )
    chosen: dict[str, int] = {}
    for role, name in wanted.items():
        if role == "time" and name == NO_COLUMN and NO_COLUMN not in columns:
            continue
        position = choose_column(source, columns, name, role)
        if position is None:
            if role == "time":
                continue
            raise ValueError(
                f"{source} has no column that looks like the {role}; it has {shown(columns)}: give {role}_column"
            )
        if position in chosen.values():
            other = next(taken for taken, where in chosen.items() if where == position)
            raise ValueError(
                f"column {columns[position]!r} of {source} is chosen as {other} and as {role}: give each its own column"
            )
        chosen[role] = position
    return chosen


def shown(names: list[str]) -> str:
    """The first twenty names, for a message."""
    return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
