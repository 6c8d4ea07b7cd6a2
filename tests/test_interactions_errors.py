"""
Bad input ends in one line that says what is wrong, what was found and what to do; files stay as they were.
"""

import gzip
import json
import re

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_bert4rec.interactions import histories, load_data, preparation, prepare
from hf_bert4rec.interactions.duckdb_engine import DuckDBEngine

GOOD = "user_id,item_id,timestamp,rating\nu,a,1,5\nv,b,2,4\n"


def refused(tmp_path, log, match: str, error: type[Exception] = ValueError, **options) -> None:
    """One line, no half folder left, the same the second time."""
    options = {"min_user_events": 1, "min_item_events": 1} | options
    for _ in range(2):
        with pytest.raises(error, match=match) as caught:
            prepare(log, tmp_path / "data", **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "data.partial").exists() and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"item_column": "item_idd"},
            "no item column 'item_idd', did you mean 'item_id'\\?; it has user_id, item_id, timestamp, rating",
        ),
        ({"user_column": "9"}, "no user column '9'; it has user_id"),
        ({"time_column": "TIMESTAMP"}, "no time column 'TIMESTAMP', did you mean 'timestamp'\\?"),
        ({"user_column": "item_id"}, "column 'item_id' of .* is chosen as user and as item"),
        ({"min_rating": 1, "rating_column": "stars"}, "no rating column 'stars'"),
        ({"separator": "|"}, "separator '|' is not in the first line"),
        ({"encoding": "utf-9"}, "unknown encoding 'utf-9'"),
        ({"encoding": "rot13"}, "unknown encoding 'rot13'"),
        ({"min_rating": "4"}, "min_rating is '4': give a number"),
        ({"split": "random"}, "split is 'random': choose one of leave-one-out, global-time"),
        ({"min_user_events": -1}, "min_user_events is -1: give a whole number, 0 or more"),
        ({"min_item_events": "5"}, "min_item_events is '5': give a whole number"),
        ({"min_rating": float("nan")}, "min_rating is nan: give a number"),
        ({"separator": "user_id"}, "separator 'user_id' is longer than 4 bytes"),
        ({"test_share": 1.0}, "give two shares above 0"),
        ({"test_share": float("nan")}, "validation_share and test_share are 0.1 and nan: give two shares above 0"),
        ({"validation_share": "a"}, "validation_share and test_share are 'a' and 0.1: give two shares above 0"),
        ({"validation_share": None}, "validation_share and test_share are None and 0.1: give two shares above 0"),
        ({"threads": 0}, "threads is 0: give a whole number, 1 or more"),
        ({"threads": "a"}, "threads is 'a': give a whole number, 1 or more"),
        ({"threads": 1.5}, "threads is 1.5: give a whole number, 1 or more"),
        ({"threads": True}, "threads is True: give a whole number, 1 or more"),
        ({"user_column": 1.5}, "user_column is 1.5: give a name or a position"),
        ({"user_column": True}, "user_column is True: give a name or a position"),
        ({"separator": 5}, "separator is 5: give a text"),
        ({"encoding": None}, "encoding is None: give a text"),
        ({"usr_column": "x"}, "no option 'usr_column', did you mean 'user_column'\\?"),
        ({"vocabulary": []}, "the vocabulary is empty"),
        ({"vocabulary": ["a", "a"]}, "the vocabulary holds 'a' more than once"),
        ({"vocabulary": ["x"]}, "nothing is left: 2 events were read, and unknown_items=skip dropped the last 2 of them"),
        ({"min_rating": 6}, "nothing is left: 2 events were read, and min_rating=6 dropped the last 2"),
        ({"min_user_events": 2}, "min_user_events=2 with min_item_events=1 dropped the last 2 of them"),
        ({"split": "global-time", "time_column": "none"}, "split='global-time' needs times"),
        ({"items_file": "absent.csv"}, "there is no file absent.csv"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_log(tmp_path, options, match):
    (tmp_path / "log.csv").write_text(GOOD)
    error = FileNotFoundError if "items_file" in options else ValueError
    refused(tmp_path, tmp_path / "log.csv", match, error, **options)
    assert (tmp_path / "log.csv").read_text() == GOOD


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("log.csv", b"", "log.csv is empty"),
        ("log.csv", b"\n\r\n", "log.csv is empty"),
        ("log.csv", b"user_id,item_id,timestamp\n", "log.csv names columns and holds no event"),
        ("log.csv", b"user_id,item_id\nu,a\nu,b,c\n", "log.csv, line 3: 3 columns where 2 were expected \\('u,b,c'\\)"),
        ("log.csv", b"user_id,item_id,x\nu,a,1\n\nu,b\n", "log.csv, line 4: 2 columns where 3 were expected"),
        ("log.csv", b'user_id,item_id\n"u\nv",a\nu,"b\nu,c\n', "log.csv, line 4: unexpected end of data; correct the line"),
        ("log.csv", b"user_id,item_id\nu,a\nu,\xff\n", "log.csv, line 3 is not utf-8 text: give its encoding"),
        ("log.csv", gzip.compress(b"user_id,item_id\nu,a\n"), "log.csv is a gzip file: give it a name that ends in .gz"),
        ("log.csv", b"PAR1\x15\x04\xff\xff", "log.csv is a Parquet file: give it a name that ends in .parquet"),
        ("log.csv", "user_id,item_id\nu,a\n".encode("utf-16"), "log.csv is UTF-16 text: give its encoding, utf-16"),
        ("log.jsonl", b"\xff\xfe\x00\x00{", "log.jsonl is UTF-32 text: give its encoding, utf-32"),
        ("log.csv.gz", gzip.compress(b"PK\x03\x04\xff\xff"), "log.csv.gz is a zip file: unpack it"),
        ("log.csv", b"user_id,item_id\nu,a\n" * 100 + b"u,\xff\n", "log.csv, line 201 is not utf-8 text"),
        ("log.csv", b'user_id,item_id\n"u\nv",a\n,b\n', "log.csv, line 4: no user id"),
        ("log.csv", b'user_id,item_id\nu,a\n\nu,""\n', "log.csv, line 4: no item id \\(column 'item_id'\\)"),
        ("log.csv", b"user_id,item_id,time\nu,a,1\nu,b,x7\nu,c,2\n", "log.csv, line 3: 'x7' is not a time like the others"),
        ("log.csv", b"user_id,item_id,time\nu,a,1\nu,b,2\nu,c,2024-01-01\n", "line 4: '2024-01-01' is not a time"),
        ("log.csv", b"user_id,item_id,time\nu,a,2024-01-01\nu,b,2024-13-01\n", "line 3: '2024-13-01' is not a time"),
        ("log.csv", b"user_id,item_id,time\nu,a,1.5\nu,b,nan\n", "line 3: 'nan' is not a time"),
        ("log.csv", b"user_id,item_id,time\nu,a,1\nu,b,\n", "line 3: no time"),
        ("log.csv", b"user_id,item_id,rating\nu,a,1\nu,b,good\n", "line 3: 'good' is not a rating \\(column 'rating'\\)"),
        ("log.csv", b"user_id,item_id,rating\nu,a,1\nu,b,\n", "line 3: no rating"),
        ("log.csv", b"usr,itm\nu,a\n1,2\n", "log.csv has no column that looks like the rating; it has 0, 1"),
        (
            "log.csv", b"person,thing,rating\nu,a,1\n",
            "has no column that looks like the user; it has person, thing, rating: give user_column",
        ),
        ("log.csv", b"user_id\nu\n", "no separator \\(, ; | :: tab or space\\) in the first line of .*log.csv: 'user_id'"),
        (
            "log.txt", b"1\t2\t3\t4\n5\t6\t7\t8\n",
            "log.txt has no header and 4 columns \\(first line: 1, 2, 3, 4\\): give user_column, item_column, time_column as "
            "positions from 0, or by name if that line is a header \\(time_column='none'",
        ),
        ("log.csv.gz", gzip.compress(GOOD.encode(), mtime=0)[:-9], "log.csv.gz is not a whole gzip file"),
        ("log.csv.gz", GOOD.encode(), "log.csv.gz is not a whole gzip file"),
        ("log.parquet", b"PAR1 and no more", "log.parquet is not a whole Parquet file"),
        ("log.jsonl", b'{"user_id": 1, "item_id": 2, "rating": 1}\n{"user_id": 1, \n', "log.jsonl, line 2: not a JSON object"),
        ("log.jsonl", b"[1, 2]\n", "log.jsonl, line 1: not a JSON object: '\\[1, 2\\]'; write one object per line"),
        (
            "log.jsonl", b'{"user_id": 1, "item_id": 2.5, "rating": 1}\n',
            "log.jsonl, line 1: 'item_id' is neither text nor an integer",
        ),
        (
            "log.jsonl", b'{"user_id": 1, "item_id": 2, "rating": 1}\n\n{"user_id": 1, "rating": 1}\n',
            "log.jsonl, line 3: no item id",
        ),
        ("log.jsonl", b'{"user_id": null, "item_id": 2, "rating": 1}\n', "log.jsonl, line 1: no user id"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, tmp_path / name, match, min_rating=0 if "rating" in match or b"rating" in content else None)
    assert (tmp_path / name).read_bytes() == content


def test_the_second_file_of_a_log_is_named_with_its_own_line(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("user_id,item_id,time\nu,a,1\nu,b,2\n")
    (tmp_path / "1.csv").write_text("user_id,item_id,time\nu,a,1\n\nu,b,oops\n")
    refused(tmp_path, str(tmp_path / "*.csv"), "1.csv, line 4: 'oops' is not a time")
    (tmp_path / "1.csv").write_text("user_id,item_id\nu,a\n")
    refused(
        tmp_path, str(tmp_path / "*.csv"), "different columns \\(user, item in .*1.csv, user, item, time in .*0.csv\\)"
    )


def test_parquet_files_that_do_not_go_together_are_named(tmp_path):
    pq.write_table(pa.table({"user_id": [1, 2], "item_id": [1, 2], "time": [1, 2]}), tmp_path / "0.parquet")
    for second, match in (
        ({"user_id": [1], "item_id": [1]}, "1.parquet has 0 columns named 'time'"),
        ({"user_id": ["1"], "item_id": [1], "time": [1]}, "column 'user_id' is string in .*1.parquet and int64 in"),
        ({"user_id": [1, None], "item_id": [1, 2], "time": [1, 2]}, "1.parquet, row 2: no user id"),
        ({"user_id": [1, 2], "item_id": [1, 2], "time": [None, 2]}, "1.parquet, row 1: no time"),
        (
            {"user_id": [1], "item_id": [1], "time": [1], "file_row_number": [9]},
            "1.parquet has a column 'file_row_number'",
        ),
        (
            {"user_id": [1], "item_id": [1], "time": [1], "Time": [2]},
            "1.parquet has columns time, Time that differ in case alone: rename all but one",
        ),
        (
            {"user_id": [1], "item_id": [1], "time": [1], "File_Index": [9]},
            "1.parquet has a column 'File_Index', which is",
        ),
    ):
        pq.write_table(pa.table(second), tmp_path / "1.parquet")
        refused(tmp_path, str(tmp_path / "*.parquet"), match)
    (tmp_path / "2.csv").write_text(GOOD)
    refused(tmp_path, [tmp_path / "0.parquet", tmp_path / "2.csv"], "mixes Parquet with other files")


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("column", "match"), [("time", "'-?(nan|inf)' is not a time"), ("rating", "'-?(nan|inf)' is not a rating")]
)
def test_a_number_that_is_none_is_found_among_doubles(tmp_path, column, match, value, as_file):
    log = pa.table({"user_id": ["u"] * 3, "item_id": list("abc"), column: [1.0, value, 2.0]})
    if as_file:
        pq.write_table(log, tmp_path / "log.parquet")
        log = tmp_path / "log.parquet"
    refused(tmp_path, log, f"row 2: {match}", min_rating=0 if column == "rating" else None)


@pytest.mark.parametrize(
    ("log", "match"),
    [
        (
            pd.DataFrame({"user_id": [1.0, np.nan], "item_id": [1, 2]}),
            "column 'user_id' of the pandas.DataFrame holds double values, and ids are text or integers",
        ),
        (pd.DataFrame({"user_id": [1, 2], "item_id": ["a", None]}), "the pandas.DataFrame, row 2: no item id"),
        (pd.DataFrame({"user_id": [1, 2], "item_id": [b"a", 3.5]}), "column 'item_id' of the pandas.DataFrame mixes values"),
        (pd.DataFrame({"user_id": [1], "item_id": [2], "time": [pd.NaT]}), "row 1: no time"),
        (pd.DataFrame({"user_id": [1], "item_id": [10**30]}), "column 'item_id' .* holds integers of more than 64 bits"),
        (pd.DataFrame({"user_id": [], "item_id": []}, dtype="int64"), "holds no event"),
        (
            pd.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "item_id"]),
            "2 columns named 'item_id': give the position of the item column",
        ),
        (pa.table({"user_id": [1, 2], "item_id": [True, False]}), "holds bool values"),
        (pa.table({"user_id": [1, 2], "item_id": [1, 2], "time": [[1], [2]]}), "values, which are no time"),
        (
            datasets.DatasetDict({"train": datasets.Dataset.from_dict({"user_id": [1]})}),
            "DatasetDict cannot be read: .* one split of a",
        ),
        (pa.table({"user_id": [b"1"], "item_id": [b"\xff"]}), "'item_id' of the pyarrow.Table holds bytes that are no UTF-8"),
        (
            datasets.Dataset.from_dict({"user_id": [1], "item_id": [b"\xff"]}),
            "'item_id' of the datasets.Dataset holds bytes that are no UTF-8 text: convert it first",
        ),
        ([("u", "a", 1)], "a log of type builtins.list cannot be read"),
        (3, "a log of type builtins.int cannot be read"),
        ([], "the list of log files is empty"),
    ],
)  # fmt: skip
def test_rows_in_memory_that_cannot_be_a_log(tmp_path, log, match):
    options = {"item_column": "item_id"} if "position" in match else {}
    refused(tmp_path, log, match, **options)


def test_paths_that_lead_nowhere(tmp_path):
    refused(tmp_path, tmp_path / "absent.csv", "there is no file .*absent.csv: correct the path", FileNotFoundError)
    refused(tmp_path, str(tmp_path / "*.csv"), "there is no file", FileNotFoundError)
    refused(tmp_path, tmp_path, "is a folder: give its files")


def test_an_items_file_without_its_columns(tmp_path):
    (tmp_path / "log.csv").write_text(GOOD)
    (tmp_path / "items.csv").write_text("id,label\na,A\n")
    options = {"items_file": str(tmp_path / "items.csv")}
    refused(
        tmp_path,
        tmp_path / "log.csv",
        "no item column 'code'; it has id, label: give items_id_column",
        items_id_column="code",
        **options,
    )
    refused(
        tmp_path,
        tmp_path / "log.csv",
        "no title column 'lable', did you mean 'label'",
        items_title_column="lable",
        **options,
    )
    match = "no item ids and titles in two columns"
    refused(tmp_path, tmp_path / "log.csv", match, items_title_column="id", **options)


def test_an_existing_folder_is_replaced_only_if_it_is_ours_and_asked_for(tmp_path, interaction_log):
    first = prepare(interaction_log, tmp_path / "data")
    with pytest.raises(FileExistsError, match="data exists: choose another output folder"):
        prepare(interaction_log, tmp_path / "data")
    with pytest.raises(ValueError, match="no user column 'x'"):
        prepare(interaction_log, tmp_path / "data", overwrite=True, user_column="x")
    assert load_data(tmp_path / "data").num_events == first.num_events
    assert prepare(interaction_log.head(60), tmp_path / "data", overwrite=True).num_events == 60
    for stranger in ("file", "folder"):
        (tmp_path / stranger).mkdir() if stranger == "folder" else (tmp_path / stranger).write_text("mine")
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "more.partial").mkdir()
    (tmp_path / "more.partial" / "mine.txt").write_text("mine")
    for stranger in ("file", "folder"):
        with pytest.raises(FileExistsError, match="is not a folder of prepared interactions"):
            prepare(interaction_log, tmp_path / stranger, overwrite=True)
    with pytest.raises(FileExistsError, match=r"more.partial is in the way"):
        prepare(interaction_log, tmp_path / "more", overwrite=True)
    assert (
        (tmp_path / "folder" / "mine.txt").read_text()
        == (tmp_path / "more.partial" / "mine.txt").read_text()
        == "mine"
    )


def test_what_a_killed_run_left_is_no_obstacle(tmp_path, interaction_log):
    (tmp_path / "data.partial" / "spill").mkdir(parents=True)
    (tmp_path / "data.partial" / "events.npy").write_bytes(b"half")
    assert prepare(interaction_log, tmp_path / "data").num_events == 70


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("batches", OSError("[Errno 28] No space left on device")),
        ("run", duckdb.IOException('Could not write file "x": No space left on device')),
        ("run", duckdb.OutOfMemoryException("failed to offload (temp_directory is full: max_temp_directory_size)")),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path, interaction_log, monkeypatch, method, error):
    def fail(*arguments):
        # A new one each time: the given one would keep the frames that it went through, and the engine in them.
        raise type(error)(*error.args)

    monkeypatch.setattr(DuckDBEngine, method, fail)
    match = f"no space left on device while writing {re.escape(str(tmp_path / 'data'))}"
    refused(tmp_path, interaction_log, match, OSError)


def test_an_interrupted_run_leaves_nothing(tmp_path, interaction_log, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "write_users", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(interaction_log, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_ours_or_not_whole_is_not_opened(tmp_path, interaction_log):
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent: make it with prepare"):
        load_data(tmp_path / "absent")
    with pytest.raises(ValueError, match="is not a folder of prepared interactions"):
        load_data(tmp_path)
    for broken in histories.DATA_FILES:
        folder = tmp_path / broken.replace(".", "-")
        prepare(interaction_log, folder)
        (folder / broken).unlink()
        with pytest.raises(ValueError, match=r"incomplete|not a folder of prepared") as caught:
            load_data(folder)
        assert "\n" not in str(caught.value)
        (folder / broken).touch()
        with pytest.raises(ValueError, match=r"incomplete|not a folder of prepared"):
            load_data(folder)
    folder = tmp_path / "data"
    prepare(interaction_log, folder)
    metadata = json.loads((folder / "data.json").read_text())
    for change, match in (
        ({"version": 2}, "is of version 2 where 1 can be read"),
        ({"num_users": 9}, "does not hold what its data.json says"),
    ):
        (folder / "data.json").write_text(json.dumps(metadata | change))
        with pytest.raises(ValueError, match=match):
            load_data(folder)
