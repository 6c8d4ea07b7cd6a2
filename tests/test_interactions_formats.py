"""
One log in every notation gives one result: delimited text of all kinds, JSON lines, Parquet, rows in memory.
"""

import gzip
import json

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from hf_bert4rec.interactions import InteractionData, load_data, prepare

KEEP_ALL = {"min_user_events": 1, "min_item_events": 1}
# Not in order of time; ties; ids with leading zeros, spaces, a quote and a comma, any Unicode.
ROWS = [
    ("u 1", "007", 30),
    ("ü✓", "7", 10),
    ("u 1", 'say "hi", now', 10),
    ("u 1", "[MASK]", 20),
    ("ü✓", "007", 10),
    ("01", "日本", 5),
    ("ü✓", "7", 5),
]
EXPECTED = {"01": ["日本"], "u 1": ['say "hi", now', "[MASK]", "007"], "ü✓": ["7", "7", "007"]}
PLAIN_ROWS = [("u1", "007", 30), ("u2", "7", 10), ("u1", "B00A", 10), ("u1", "é", 20), ("u2", "007", 10)]
PLAIN = {"u1": ["B00A", "é", "007"], "u2": ["7", "007"]}


def histories(data: InteractionData) -> dict[str, list[str]]:
    return {
        data.user_ids[user].as_py(): [data.item_ids[int(item)].as_py() for item in data.history(user)]
        for user in range(data.num_users)
    }


def quoted(separator: str, rows: list[tuple] = ROWS, end: str = "\n") -> str:
    lines = [("user_id", "item_id", "timestamp"), *rows]
    fields = [['"' + str(field).replace('"', '""') + '"' for field in line] for line in lines]
    return end.join(separator.join(line) for line in fields) + end


def plain(separator: str, end: str = "\n", rows: list[tuple] = PLAIN_ROWS) -> str:
    return "".join(separator.join(map(str, row)) + end for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("log.csv", quoted(",").encode(), {}),
        ("log.tsv", quoted("\t").encode(), {}),
        ("log.csv", quoted(";").encode(), {}),
        ("log", quoted(",").encode(), {}),
        ("windows.csv", b"\xef\xbb\xbf" + quoted(",", end="\r\n").encode() + b"\r\n\r\n", {}),
        ("old-mac.csv", quoted(",", end="\r").encode(), {}),
        ("blank.csv", b"\n" + quoted(",", end="\n\n").encode(), {}),
        ("no-end.csv", quoted(",").encode().rstrip(b"\n"), {}),
        ("packed.csv.gz", gzip.compress(quoted(",").encode(), mtime=0), {}),
        ("two-line-ends.csv", (quoted(",", ROWS[:3], "\r\n") + quoted(",", ROWS[3:]).split("\n", 1)[1]).encode(), {}),
        ("utf16.csv", quoted(",").encode("utf-16"), {"encoding": "utf-16"}),
        ("PACKED.CSV.GZ", gzip.compress(quoted(",").encode(), mtime=0), {}),
        ("utf16.csv.gz", gzip.compress(quoted(",").encode("utf-16"), mtime=0), {"encoding": "UTF16"}),
        ("a [1] *?'.csv", quoted(",").encode(), {}),
        ("log.jsonl", "\n".join(json.dumps(dict(zip("uit", row, strict=True))) for row in ROWS).encode(), "uit"),
        (
            "log.ndjson.gz",
            gzip.compress(
                "\n\n".join(
                    json.dumps({"u": u, "x": [1], "i": i, "t": t}, ensure_ascii=False) for u, i, t in ROWS
                ).encode(),
                mtime=0,
            ),
            "uit",
        ),
        ("bom.json", "\n".join(json.dumps(dict(zip("uit", row, strict=True))) for row in ROWS).encode("utf-8-sig"), "uit"),
    ],
)  # fmt: skip
def test_text_of_every_kind_gives_the_same_histories(tmp_path, name, content, options):
    (tmp_path / name).write_bytes(content)
    if options == "uit":
        options = {"user_column": "u", "item_column": "i", "time_column": "t"}
    before = (tmp_path / name).read_bytes()
    data = prepare(tmp_path / name, tmp_path / "data", **KEEP_ALL, **options)
    assert histories(data) == EXPECTED
    assert data.item_id_type == "str"
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (plain("::"), {}),
        (plain("|"), {}),
        (plain(" "), {}),
        (plain("\t"), {}),
        (plain("::", "\r\n"), {}),
        (plain("~~"), {"separator": "~~"}),
        (plain("\t"), {"separator": "\\t"}),
        (plain("#"), {"separator": "#"}),
        ("user|item|time\n" + plain("|"), {"header": "true"}),
        (
            "user:token|item:token|time:float\n" + plain("|"),
            {"user_column": None, "item_column": None, "time_column": None},
        ),
        ("a|b|c\n" + plain("|"), {}),
        ("a|b|c\n" + plain("|"), {"user_column": "a", "item_column": 1, "time_column": "c"}),
    ],
)
def test_separators_headers_and_positions(tmp_path, content, options):
    positions = {"user_column": "0", "item_column": "1", "time_column": "2"}
    (tmp_path / "log.txt").write_text(content, encoding="utf-8", newline="")
    data = prepare(tmp_path / "log.txt", tmp_path / "data", **(KEEP_ALL | positions | options))
    assert histories(data) == PLAIN


def test_latin_1_is_read_where_it_is_said(tmp_path):
    (tmp_path / "log.csv").write_bytes(("user_id,item_id,timestamp\n" + plain(",")).encode("latin-1"))
    assert histories(prepare(tmp_path / "log.csv", tmp_path / "data", encoding="latin-1", **KEEP_ALL)) == PLAIN


def test_a_first_line_of_numbers_is_no_header_and_header_can_be_forced(tmp_path):
    (tmp_path / "log.txt").write_text("1 2\n1 3\n")
    assert histories(prepare(tmp_path / "log.txt", tmp_path / "data", **KEEP_ALL)) == {"1": ["2", "3"]}
    options = {"header": "true", "user_column": "1", "item_column": "2"}
    assert histories(prepare(tmp_path / "log.txt", tmp_path / "more", **KEEP_ALL, **options)) == {"1": ["3"]}
    (tmp_path / "log.csv").write_text("user_id,item_id\nu,a\n")
    options = {"header": "false"}
    assert len(histories(prepare(tmp_path / "log.csv", tmp_path / "most", **KEEP_ALL, **options))) == 2


def test_quotes_mean_nothing_between_bars_and_colons(tmp_path):
    (tmp_path / "log.txt").write_text('u::"a::1\nu::b"c"::2\n')
    data = prepare(
        tmp_path / "log.txt", tmp_path / "data", user_column="0", item_column="1", time_column="2", **KEEP_ALL
    )
    assert histories(data) == {"u": ['"a', 'b"c"']}


@pytest.mark.parametrize(
    "make", ["table", "chunks", "frame", "categories", "objects", "dataset", "selected", "parquet", "bytes"]
)
def test_rows_with_types_give_the_same_histories(tmp_path, make):
    columns = {name: [row[place] for row in ROWS] for place, name in enumerate(("user_id", "item_id", "timestamp"))}
    table = pa.table(columns)
    log = {
        "table": lambda: table,
        "chunks": lambda: pa.concat_tables([table.slice(0, 2), table.slice(2)]),
        "frame": lambda: pd.DataFrame(columns),
        "categories": lambda: pd.DataFrame(columns).astype({"item_id": "category"}),
        "objects": lambda: pd.DataFrame(columns).astype(object),
        "dataset": lambda: datasets.Dataset.from_dict(columns),
        "selected": lambda: datasets.Dataset.from_dict({k: [*v[::-1], v[0]] for k, v in columns.items()}).select(
            range(6, -1, -1)
        ),
        "parquet": lambda: pq.write_table(table, tmp_path / "log.parquet") or tmp_path / "log.parquet",
        "bytes": lambda: pq.write_table(
            table.set_column(1, "item_id", table["item_id"].cast(pa.binary())), tmp_path / "log.pq"
        ) or tmp_path / "log.pq",
    }[make]()  # fmt: skip
    data = prepare(log, tmp_path / "data", **KEEP_ALL)
    assert histories(data) == EXPECTED
    assert data.item_id_type == "str"


def test_files_are_one_log_in_the_order_of_the_list_and_of_the_names(tmp_path):
    for name, item in (("b.csv", "second"), ("a.csv", "first")):
        (tmp_path / name).write_text(f"item_id,user_id\n{item},u\n")
        pq.write_table(pa.table({"user_id": ["u", "u"], "item_id": [item, item + "!"]}), tmp_path / f"{name}.parquet")
    forward, backward = {"u": ["first", "second"]}, {"u": ["second", "first"]}
    assert histories(prepare(str(tmp_path / "*.csv"), tmp_path / "1", **KEEP_ALL)) == forward
    assert histories(prepare([tmp_path / "b.csv", tmp_path / "a.csv"], tmp_path / "2", **KEEP_ALL)) == backward
    (tmp_path / "c.csv").write_text("user_id;item_id\nu;third\n")
    assert histories(prepare(str(tmp_path / "*.csv"), tmp_path / "3", **KEEP_ALL)) == {
        "u": ["first", "second", "third"]
    }
    found = histories(prepare(str(tmp_path / "*.parquet"), tmp_path / "4", **KEEP_ALL))
    assert found == {"u": ["first", "first!", "second", "second!"]}
    assert (
        prepare(str(tmp_path / "*.csv"), tmp_path / "5", **KEEP_ALL)
        .metadata["report"]["log"]
        .endswith("a.csv and 2 more")
    )


@pytest.mark.parametrize("name", ["log.parquet", "log.jsonl", "log.csv"])
def test_the_name_of_a_folder_never_takes_the_place_of_a_column(tmp_path, name):
    folder = tmp_path / "user_id=9" / "c1=8"
    folder.mkdir(parents=True)
    if name == "log.parquet":
        pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"]}), folder / name)
    elif name == "log.jsonl":
        (folder / name).write_text('{"user_id": "u", "item_id": "a"}\n')
    else:
        (folder / name).write_text("user_id,item_id\nu,a\n")
    assert histories(prepare(folder / name, tmp_path / "data", **KEEP_ALL)) == {"u": ["a"]}


def test_an_id_that_is_no_number_may_come_after_many_that_are(tmp_path):
    with (tmp_path / "log.csv").open("w") as file:
        file.write("user_id,item_id\n")
        file.writelines(f"{row % 1000},{row % 7}\n" for row in range(300_000))
        file.write("5,B00A\n005,B00A\n")
    data = prepare(tmp_path / "log.csv", tmp_path / "data", threads=2, **KEEP_ALL)
    assert data.num_users == 1001 and data.num_items == 8
    assert histories(data)["5"] == [str(row % 7) for row in range(5, 300_000, 1000)] + ["B00A"]


def test_a_text_read_by_several_threads_keeps_its_order(tmp_path):
    # Larger than the pieces in which the engine hands a file to its threads.
    items = np.random.default_rng(0).integers(0, 5000, 1_000_000)
    log = pa.table({"user_id": np.ones_like(items), "item_id": items, "padding": ["x" * 60] * len(items)})
    pa.csv.write_csv(log, tmp_path / "log.csv")
    data = prepare(tmp_path / "log.csv", tmp_path / "data", threads=4, **KEEP_ALL)
    item_ids = np.array(data.item_ids.to_pylist(), dtype=np.int64)
    np.testing.assert_array_equal(item_ids[data.history(0)], items)


def test_numbers_of_numpy_are_numbers(tmp_path):
    (tmp_path / "log.csv").write_text("u,i,t\n" + plain(",", rows=[("u", str(t), t) for t in range(20)]))
    options = {
        "user_column": np.int64(0),
        "item_column": np.int64(1),
        "time_column": np.int64(2),
        "threads": np.int64(1),
    }
    options |= {"split": "global-time", "validation_share": np.float32(0.25), "min_user_events": np.int64(1)}
    data = prepare(tmp_path / "log.csv", tmp_path / "data", header=True, **KEEP_ALL | options)
    assert data.num_items == 20
    assert load_data(tmp_path / "data").metadata["options"]["validation_share"] == 0.25


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: pa.table({"user_id": [1, 1, 2], "item_id": pa.array(ids, pa.binary())}),
        lambda ids: pa.table({"user_id": [1, 1, 2], "item_id": pa.array(ids, pa.large_binary())}),
        lambda ids: pa.table({"user_id": [1, 1, 2], "item_id": pa.array(ids, pa.binary()).dictionary_encode()}),
        lambda ids: pd.DataFrame({"user_id": [1, 1, 2], "item_id": ids}),
        lambda ids: datasets.Dataset.from_dict({"user_id": [1, 1, 2], "item_id": ids}),
    ],
    ids=["binary", "large", "dictionary", "pandas", "datasets"],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_bytes_are_the_text_that_they_hold(tmp_path, make, as_file):
    log = make(["Löwe".encode(), b"a\\b", b"a\\b"])
    if as_file:
        table = log if isinstance(log, pa.Table) else pa.Table.from_pandas(pd.DataFrame(log))
        pq.write_table(table, tmp_path / "log.parquet")
        log = tmp_path / "log.parquet"
    data = prepare(log, tmp_path / "data", **KEEP_ALL)
    assert histories(data) == {"1": ["Löwe", "a\\b"], "2": ["a\\b"]}


@pytest.mark.parametrize(
    ("times", "order", "kind"),
    [
        ([3, 1, 2], "bca", "integer"),
        ([-3, 10, 9], "acb", "integer"),
        ([1700000000000000002, 1700000000000000003, 1700000000000000001], "cab", "integer"),
        ([10**20 + 2, 10**20 + 1, 5], "cba", "large integer"),
        ([1.5, 1.25, -0.5], "cba", "float"),
        (["1e3", 5, "7"], "bca", "float"),
        (["2024-03-01", "2024-02-29", "2023-12-31"], "cba", "microsecond"),
        (["2024-03-01 ", " 2024-02-29", "2023-12-31T00:00:01 "], "cba", "microsecond"),
        (["2024-01-01T10:00:00+02:00", "2024-01-01T09:00:00Z", "2024-01-01 08:30:00"], "acb", "microsecond"),
        (["2024-01-01 00:00:00.000000002", "2024-01-01 00:00:00.000000001", "2024-01-01"], "cba", "nanosecond"),
    ],
)
def test_times_of_every_notation_order_events(tmp_path, times, order, kind):
    rows = list(zip("uuu", "abc", times, strict=True))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + plain(",", rows=rows))
    data = prepare(tmp_path / "log.csv", tmp_path / "data", **KEEP_ALL)
    assert histories(data) == {"u": list(order)}
    assert data.metadata["report"]["times"] == kind
    if kind not in ("large integer", "float"):
        lines = [json.dumps({"user_id": u, "item_id": i, "timestamp": t}) for u, i, t in rows]
        (tmp_path / "log.jsonl").write_text("\n".join(lines))
        assert histories(prepare(tmp_path / "log.jsonl", tmp_path / "more", **KEEP_ALL)) == {"u": list(order)}


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (pa.array([3, 1, 2], pa.uint8()), "bca"),
        (pa.array([2**64 - 1, 1, 2**63], pa.uint64()), "bca"),
        (pa.array([3.0, -1.0, 2.5]), "bca"),
        (pa.array([1700000000000000003, 1700000000000000001, 1700000000000000002], pa.timestamp("ns", "UTC")), "bca"),
        (pa.array([1700000000000000003, 1700000000000000001, 1700000000000000002], pa.timestamp("ns")), "bca"),
        (pa.array([30000, 10000, 20000], pa.date32()), "bca"),
        (pa.array(["2024-03-01", "2024-01-01", "2024-02-01"]), "bca"),
    ],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_times_with_types_order_events(tmp_path, times, order, as_file):
    log = pa.table({"user_id": ["u"] * 3, "item_id": list("abc"), "time": times})
    if as_file:
        pq.write_table(log, tmp_path / "log.parquet")
        log = tmp_path / "log.parquet"
    assert histories(prepare(log, tmp_path / "data", **KEEP_ALL)) == {"u": list(order)}


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        (pd.DataFrame({"user_id": [1, 2], "item_id": [10, 20]}), "int"),
        (pd.DataFrame({"user_id": ["1", "2"], "item_id": pd.array([10, 20], "Int64")}), "int"),
        (pa.table({"user_id": [1, 2], "item_id": pa.array([10, 20], pa.uint64())}), "int"),
        (pd.DataFrame({"user_id": [1, 2], "item_id": ["10", "20"]}), "str"),
        (pd.DataFrame({"user_id": [1, 2], "item_id": pd.Series([10, "20"], dtype=object)}), "str"),
        (datasets.Dataset.from_dict({"user_id": [1, 2], "item_id": [10, 20]}), "int"),
        ('{"user_id": 1, "item_id": 10}\n{"user_id": 2, "item_id": 20}\n', "int"),
        ('{"user_id": 1, "item_id": 10}\n{"user_id": 2, "item_id": "20"}\n', "str"),
        ("user_id,item_id\n1,10\n2,20\n", "str"),
    ],
)
def test_ids_are_text_and_the_type_of_item_ids_is_remembered(tmp_path, log, kind):
    if isinstance(log, str):
        path = tmp_path / ("log.jsonl" if log.startswith("{") else "log.csv")
        path.write_text(log)
        log = path
    data = prepare(log, tmp_path / "data", **KEEP_ALL)
    assert data.item_id_type == kind
    assert histories(data) == {"1": ["10"], "2": ["20"]}


def test_common_column_names_are_recognised_and_the_choice_is_reported(tmp_path):
    for number, names in enumerate(
        [
            ["userId", "movieId", "rating", "timestamp"],
            ["reviewerID", "asin", "overall", "unixReviewTime"],
            ["User", "Item", "stars", "Date"],
            ["customer_id", "product_id", "score", "event_time"],
        ]
    ):
        log = pd.DataFrame([("u", "a", 1, 2), ("u", "b", 5, 1), ("u", "c", 5, 3)], columns=names)
        data = prepare(log, tmp_path / str(number), min_rating=2, **KEEP_ALL)
        assert histories(data) == {"u": ["b", "c"]}
        chosen = dict(zip(("user", "item", "rating", "time"), names, strict=True))
        assert data.metadata["report"]["columns"] == chosen
        assert f"time = '{names[3]}'" in data.report_text()


def test_a_log_without_times_is_in_order_and_the_report_says_so(tmp_path):
    data = prepare(pd.DataFrame({"user": list("uvu"), "item": list("zya")}), tmp_path / "data", **KEEP_ALL)
    assert histories(data) == {"u": ["z", "a"], "v": ["y"]}
    assert "no time column: the order of the log is the order in time" in data.report_text()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "ml-100k/u.data", {"user_column": "0", "item_column": "1", "time_column": "3", "min_item_events": 1},
            (943, 1682, 100_000),
        ),
        ("ml-1m/interactions.parquet", {"time_column": "position"}, (6040, 3416, 999_611)),
        ("amazon-beauty/beauty.txt.gz", KEEP_ALL, (40_226, 54_542, 353_962)),
        ("amazon-beauty/beauty.txt.gz", {}, (22_363, 12_101, 198_502)),
    ],
)  # fmt: skip
def test_real_logs_have_the_sizes_of_the_papers(tmp_path, real_data, name, options, expected):
    data = prepare(real_data / name, tmp_path / "data", **options)
    assert (data.num_users, data.num_items, data.num_events) == expected
    assert data.metadata["report"]["split"]["test_users"] == data.num_users


def test_real_titles_join(tmp_path, real_data):
    data = prepare(
        real_data / "ml-1m" / "interactions.parquet",
        tmp_path / "data",
        items=real_data / "ml-1m" / "movies.dat",
        items_encoding="latin-1",
    )
    assert data.titles.null_count == 0
    assert data.titles[data.item_ids.to_pylist().index("1")].as_py() == "Toy Story (1995)"
