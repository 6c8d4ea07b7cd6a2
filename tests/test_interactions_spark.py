"""
The preparation on Spark gives the files that it gives on DuckDB, byte for byte. Skips where Spark or Java is absent.
"""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_bert4rec.interactions import prepare, spark_engine

KEEP_ALL = {"min_user_events": 1, "min_item_events": 1}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A running session of the user's own, with two threads."""
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed: pip install 'hf_bert4rec[spark]'")
    if shutil.which("java") is None:
        pytest.skip("there is no java on the PATH; Spark needs Java 17 or newer")
    folder = tmp_path_factory.mktemp("spark")
    builder = spark_engine.spark_session_class().builder.master("local[2]")
    for name, value in {
        "spark.driver.memory": "1g",
        "spark.sql.shuffle.partitions": "3",
        # Small tables: what is compiled for a query would take longer than the query.
        "spark.sql.codegen.wholeStage": "false",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.local.dir": str(folder / "local"),
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def prepare_on_both(log, folder, **options):
    """Prepares on both engines; checks that all files but the name of the engine in data.json are the same bytes."""
    ours = prepare(log, folder / "duckdb", **options)
    theirs = prepare(log, folder / "spark", engine="spark", **options)
    for name in ("users.parquet", "items.parquet", "events.npy"):
        assert (folder / "spark" / name).read_bytes() == (folder / "duckdb" / name).read_bytes(), name
    assert sorted(path.name for path in theirs.folder.iterdir()) == sorted(path.name for path in ours.folder.iterdir())
    engines = [data.metadata["options"].pop("engine") for data in (ours, theirs)]
    assert engines == ["duckdb", "spark"]
    assert theirs.metadata == ours.metadata
    return theirs


def random_log(num_events: int, num_users: int, num_items: int) -> pa.Table:
    """Text ids of any Unicode, most events on few items, many equal times."""
    random = np.random.default_rng(0)
    users = random.integers(0, num_users, num_events)
    items = (num_items * random.random(num_events) ** 3).astype(int)
    return pa.table(
        {
            "user_id": [f"{'üU0é'[user % 4]}{user}" for user in users],
            "item_id": [f"'{item}\\ \"" for item in items],
            "rating": random.integers(1, 6, num_events).astype(float),
            "timestamp": random.integers(0, 30, num_events),
        }
    )


def test_a_parquet_log_gives_the_same_files(tmp_path, session):
    # More users than one batch holds, so that the files have several row groups.
    log = random_log(120_000, 20_000, 3_000)
    for number, start in enumerate((0, 70_000)):
        pq.write_table(log.slice(start, 70_000), tmp_path / f"log {number} [a]*%20.parquet")
    data = prepare_on_both(str(tmp_path / "log *.parquet"), tmp_path, min_item_events=20, min_user_events=3)
    assert data.num_users > 1 << 14
    assert pq.ParquetFile(tmp_path / "spark" / "users.parquet").num_row_groups == 2
    assert not (tmp_path / "spark.partial").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"min_rating": 3, "repeats": "collapse"},
        {"split": "global-time"},
        {"time_column": "none"},
        {"vocabulary": ["'7\\ \"", "absent", "'0\\ \"", "'30\\ \""]},
    ],
    ids=str,
)
def test_every_filter_and_split_gives_the_same_files(tmp_path, session, options):
    pq.write_table(random_log(3_000, 100, 60), tmp_path / "log.parquet")
    prepare_on_both(tmp_path / "log.parquet", tmp_path, **options)


def test_text_rows_in_memory_and_titles_give_the_same_files(tmp_path, session):
    text = 'user_id;item_id;timestamp\n"ü;1";007;30\nv;7;10\n"ü;1";7;20\n\nv;"a ""b""";5\n'
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    (tmp_path / "items.csv").write_text("item_id,title\n007,Bond\n7,Sjö\n", encoding="utf-8")
    data = prepare_on_both(tmp_path / "log.csv", tmp_path, items_file=str(tmp_path / "items.csv"), **KEEP_ALL)
    assert data.titles.to_pylist() == ["Sjö", "Bond", None]
    (tmp_path / "memory").mkdir()
    log = pd.DataFrame({"user_id": [1, 1], "item_id": [10, 9], "time": pd.to_datetime([2, 1], unit="ns")})
    assert prepare_on_both(log, tmp_path / "memory", **KEEP_ALL).item_id_type == "int"


@pytest.mark.parametrize(
    "times",
    [
        pa.array(["2024-03-01", "2024-02-29", "2024-01-01T10:00:00+02:00"] * 4),
        pa.array(["2024-01-01 00:00:00.000000002", "2024-01-01 00:00:00.000000001", "2024-01-01"] * 4),
        pa.array(["1e3", "5", "7.25"] * 4),
        pa.array([str(10**20 + 2), str(10**20 + 1), "5"] * 4),
        pa.array([2**64 - 1, 1, 2**63] * 4, pa.uint64()),
        pa.array([3e12, -1.0, 2.5] * 4),
        pa.array([1700000000000000003, 1700000000000000001, 1700000000000000002] * 4, pa.timestamp("ns", "UTC")),
        pa.array([1700000000000003, 1700000000000001, 1700000000500002] * 4, pa.timestamp("us", "UTC")),
        pa.array([1700000000003, 1700000000001, 1700000000002] * 4, pa.timestamp("ms")),
        pa.array([30000, 10000, 20000] * 4, pa.date32()),
    ],
    ids=lambda times: f"{times.type} {times[0]}",
)
def test_times_of_every_kind_order_events_and_split_them_alike(tmp_path, session, times):
    log = pa.table({"user_id": np.arange(12) // 6, "item_id": pa.array(range(12), pa.uint64()), "time": times})
    pq.write_table(log, tmp_path / "log.parquet")
    shares = {"split": "global-time", "validation_share": 0.3, "test_share": 0.3}
    prepare_on_both(tmp_path / "log.parquet", tmp_path, **shares, **KEEP_ALL)


@pytest.mark.parametrize(
    ("log", "match"),
    [
        ({"user_id": [1, None], "item_id": [1, 2]}, r"log.parquet, row 2: no user id"),
        ({"user_id": [1, 2], "item_id": ["a", ""]}, r"log.parquet, row 2: no item id"),
        ({"user_id": [1, 2], "item_id": [1, 2], "time": ["1", "x"]}, r"row 2: 'x' is not a time like the others"),
        ({"user_id": [1, 2], "item_id": [1, 2]}, "nothing is left: 2 events were read"),
    ],
)
def test_a_fault_in_the_log_is_the_same_line_and_the_session_goes_on(tmp_path, session, log, match):
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    for _ in range(2):
        with pytest.raises(ValueError, match=match):
            prepare(tmp_path / "log.parquet", tmp_path / "data", engine="spark")
    assert list(tmp_path.iterdir()) == [tmp_path / "log.parquet"]
    assert [database.name for database in session.catalog.listDatabases()] == ["default"]
    assert session.conf.get("spark.sql.ansi.doubleQuotedIdentifiers") == "false"


def test_what_spark_runs_into_is_one_line(tmp_path, session, monkeypatch):
    pq.write_table(random_log(100, 10, 10), tmp_path / "log.parquet")
    for statement, match, kind in (
        (
            "select raise_error('java.io.IOException: No space left on device')",
            "no space left on device while writing .*data: free",
            OSError,
        ),
        (
            "select raise_error('java.lang.OutOfMemoryError: Java heap space')",
            "Spark has too little memory",
            ValueError,
        ),
        ("select nothing", "cannot be prepared on Spark .*UNRESOLVED_COLUMN", ValueError),
    ):
        with monkeypatch.context() as patch:
            query = spark_engine.SparkEngine.row
            patch.setattr(spark_engine.SparkEngine, "row", lambda self, _, s=statement, q=query: q(self, s))
            with pytest.raises(kind, match=match) as caught:
                prepare(tmp_path / "log.parquet", tmp_path / "data", engine="spark", **KEEP_ALL)
            assert "\n" not in str(caught.value)
        assert not (tmp_path / "data.partial").exists()


def test_the_command_starts_a_session_of_its_own(tmp_path, session, interaction_log):
    interaction_log.to_parquet(tmp_path / "log.parquet")
    expected = prepare(tmp_path / "log.parquet", tmp_path / "expected")
    command = [sys.executable, "-m", "hf_bert4rec", "prepare", str(tmp_path / "log.parquet"), "--engine", "spark"]
    command += ["--output_dir", str(tmp_path / "data"), "--threads", "1"]
    run = subprocess.run([*command, "--memory_limit", "1GB"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "left: 70 events, 10 users, 10 items" in run.stdout
    for name in ("users.parquet", "items.parquet", "events.npy"):
        assert (tmp_path / "data" / name).read_bytes() == (expected.folder / name).read_bytes()
    assert json.loads((tmp_path / "data" / "data.json").read_text())["options"]["engine"] == "spark"
    run = subprocess.run([*command, "--memory_limit", "1MB", "--overwrite_output_dir"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "Spark does not start" in run.stderr.splitlines()[-1] and "memory_limit of 512MB" in run.stderr
    assert (tmp_path / "data").exists()


def test_without_spark_the_error_names_the_package(tmp_path, interaction_log, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(ValueError, match=r"needs Spark .*: pip install 'hf_bert4rec\[spark\]'"):
        prepare(interaction_log, tmp_path / "data", engine="spark")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "mebibytes"), [("1GB", "1024m"), ("1.5 GiB", "1536m"), ("700mb", "700m"), ("80%", None)]
)
def test_the_memory_limit_reaches_a_session_that_is_started(tmp_path, monkeypatch, limit, mebibytes):
    class Builder(dict):
        def config(self, name, value):
            self[name] = value
            return self

        def master(self, name):
            return self.config("master", name)

        appName = lambda self, name: self  # noqa: E731
        getOrCreate = lambda self: type("Session", (), {"sparkContext": Builder(), "settings": self})()  # noqa: E731
        setLogLevel = dict.get

    monkeypatch.setattr(spark_engine, "spark_session_class", lambda: type("Class", (), {"builder": Builder()}))
    if mebibytes is None:
        with pytest.raises(ValueError, match="memory_limit '80%' is not an amount of memory that Spark takes"):
            spark_engine._start(tmp_path, limit, None)
        return
    settings = spark_engine._start(tmp_path, limit, 3).settings
    assert settings["spark.driver.memory"] == mebibytes
    assert settings["master"] == "local[3]"
