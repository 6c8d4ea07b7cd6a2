"""
Filters, order and splits against loops over random logs; what the folder holds; what every option changes.
"""

import collections
import json
import tempfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_bert4rec.interactions import InteractionData, InteractionOptions, load_data, prepare

KEEP_ALL = {"min_user_events": 1, "min_item_events": 1}


def frame(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "rating"][: len(rows[0])])


def histories(data: InteractionData) -> dict[str, list[str]]:
    """Item ids of each user, oldest first."""
    return {
        data.user_ids[user].as_py(): [data.item_ids[int(item)].as_py() for item in data.history(user)]
        for user in range(data.num_users)
    }


def targets(data: InteractionData) -> dict[str, tuple[int, int, int]]:
    columns = (data.train_end, data.validation_target, data.test_target)
    return {
        data.user_ids[user].as_py(): tuple(int(column[user]) for column in columns) for user in range(data.num_users)
    }


def naive_filter(rows: list[tuple], options: dict) -> list[tuple]:
    """The filters of `prepare` as loops, over (user, item, time, rating) in the order of the log."""
    rows = [row for row in rows if row[3] >= options.get("min_rating", -1e9)]
    rows = [row for _, row in sorted(enumerate(rows), key=lambda pair: (pair[1][2], pair[0]))]
    if options.get("repeats") == "collapse":
        met = set()
        rows = [row for row in rows if not (row[:2] in met or met.add(row[:2]))]
    while True:
        users = collections.Counter(row[0] for row in rows)
        items = collections.Counter(row[1] for row in rows)
        kept = [
            row
            for row in rows
            if users[row[0]] >= options["min_user_events"] and items[row[1]] >= options["min_item_events"]
        ]
        if len(kept) == len(rows):
            return rows
        rows = kept


def naive_histories(rows: list[tuple]) -> dict[str, list[tuple]]:
    """Rows in order of time, by user in the order of the bytes of their ids."""
    found = {user: [] for user in sorted({row[0] for row in rows}, key=str.encode)}
    for row in rows:
        found[row[0]].append(row)
    return found


def naive_targets(rows: list[tuple], cuts: tuple[int, int] | None) -> dict[str, tuple[int, int, int]]:
    found = {}
    for user, events in naive_histories(rows).items():
        if cuts is None:
            ends = (len(events) - 2, len(events) - 2, len(events) - 1)
            found[user] = ends if len(events) >= 3 else (len(events), -1, -1)
            continue
        train_end = sum(event[2] < cuts[0] for event in events)
        firsts = []
        for start, stop in (cuts, (cuts[1], float("inf"))):
            inside = [place for place, event in enumerate(events) if start <= event[2] < stop]
            firsts.append(inside[0] if inside and inside[0] > 0 and len(events) >= 3 else -1)
        found[user] = (train_end, *firsts)
    return found


random_rows = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "w", "é", "U", "10", "9"]),
        st.sampled_from(["a", "b", "c", "d", "01", "1"]),
        st.integers(0, 9),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40)
@given(
    rows=random_rows, least=st.tuples(st.integers(0, 4), st.integers(0, 4)), more=st.sampled_from(["", "r", "c", "rc"])
)
def test_filters_order_and_leave_one_out_are_those_of_the_loops(rows, least, more):
    options = {"min_user_events": least[0], "min_item_events": least[1]}
    options |= {"min_rating": 3} if "r" in more else {}
    options |= {"repeats": "collapse"} if "c" in more else {}
    expected = naive_filter(rows, options)
    with tempfile.TemporaryDirectory() as folder:
        if not expected:
            with pytest.raises(ValueError, match="nothing is left"):
                prepare(frame(rows), f"{folder}/data", **options)
            return
        data = prepare(frame(rows), f"{folder}/data", **options)
        assert histories(data) == {user: [e[1] for e in events] for user, events in naive_histories(expected).items()}
        assert list(histories(data)) == list(naive_histories(expected))
        assert targets(data) == naive_targets(expected, None)
        counts = collections.Counter(row[1] for row in expected)
        assert data.item_ids.to_pylist() == sorted(counts, key=lambda item: (-counts[item], item.encode()))
        report = data.metadata["report"]
        assert report["left"] == {
            "events": len(expected),
            "users": len({r[0] for r in expected}),
            "items": len(counts),
        }
        for noun in ("events", "users", "items"):
            dropped = sum(step[noun] for step in report["dropped"].values())
            assert report["read"][noun] - dropped == report["left"][noun]


@settings(max_examples=40)
@given(rows=random_rows, shares=st.tuples(st.sampled_from([0.1, 0.25, 0.4]), st.sampled_from([0.1, 0.3, 0.5])))
def test_a_global_time_split_is_that_of_the_loops_and_never_leaks(rows, shares):
    times = sorted(row[2] for row in rows)
    places = [min(len(rows) - 1, len(rows) - round(share * len(rows))) for share in (sum(shares), shares[1])]
    cuts = (times[places[0]], times[places[1]])
    options = {"split": "global-time", "validation_share": shares[0], "test_share": shares[1], **KEEP_ALL}
    with tempfile.TemporaryDirectory() as folder:
        if not times[0] < cuts[0] < cuts[1]:
            with pytest.raises(ValueError, match="leaves a period empty"):
                prepare(frame(rows), f"{folder}/data", **options)
            return
        data = prepare(frame(rows), f"{folder}/data", **options)
        ordered = naive_filter(rows, KEEP_ALL)
        assert targets(data) == naive_targets(ordered, cuts)
        split = data.metadata["report"]["split"]
        assert (split["validation_from"], split["test_from"]) == tuple(map(str, cuts))
        training = [event for events in naive_histories(ordered).values() for event in events if event[2] < cuts[0]]
        assert split["training_events"] == len(training) == data.train_end.sum()
        trained_items = {event[1] for event in training}
        for name, column in (("validation", data.validation_target), ("test", data.test_target)):
            items = [data.item_ids[int(data.history(user)[p])].as_py() for user, p in enumerate(column) if p >= 0]
            assert split[f"{name}_users"] == len(items)
            assert split[f"cold_{name}_targets"] == sum(item not in trained_items for item in items)


def test_the_folder_holds_what_its_description_says(tmp_path, interaction_log):
    data = prepare(interaction_log, tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        *("data.json", "events.npy", "items.parquet", "users.parquet")
    ]
    assert not (tmp_path / "data.partial").exists()
    items, users = (pq.read_table(tmp_path / "data" / f"{name}.parquet") for name in ("items", "users"))
    assert items.column_names == ["item_id", "num_events"]
    assert items["num_events"].to_pylist() == [7] * 10
    assert users.column_names == ["user_id", "num_events", "train_end", "validation_target", "test_target"]
    assert [str(kind) for kind in users.schema.types] == ["string"] + ["int64"] * 4
    assert users.slice(3, 1).to_pylist() == [
        {"user_id": "u3", "num_events": 7, "train_end": 5, "validation_target": 5, "test_target": 6}
    ]
    metadata = json.loads((tmp_path / "data" / "data.json").read_text())
    assert {key: metadata[key] for key in ("format", "version", "item_id_type", "split")} == {
        "format": "hf_bert4rec-data",
        "version": 1,
        "item_id_type": "str",
        "split": "leave-one-out",
    }
    assert (metadata["num_users"], metadata["num_items"], metadata["num_events"]) == (10, 10, 70)
    assert metadata["options"]["min_user_events"] == 5
    again = load_data(str(tmp_path / "data"))
    assert isinstance(again.events, np.memmap) and again.events.dtype == np.int32
    assert again.offsets.tolist() == list(range(0, 71, 7)) and again.offsets.dtype == np.int64
    assert histories(again) == histories(data)
    assert histories(data)["u3"] == [f"i{(3 + step) % 10}" for step in range(7)]


def test_histories_can_be_cut_and_users_found_by_id(tmp_path, interaction_log):
    data = prepare(interaction_log, tmp_path / "data")
    for user in range(10):
        assert data.user_index(f"u{user}") == user
    assert data.history(4, end=3).tolist() == data.history(4).tolist()[:3]
    assert data.history(4, end=100).tolist() == data.history(4).tolist()
    for absent in ("", "u", "u10", "v"):
        with pytest.raises(ValueError, match=f"has no user {absent!r}"):
            data.user_index(absent)


def test_users_with_fewer_than_three_events_only_train(tmp_path):
    rows = [("two", "a", 0), ("two", "b", 1), ("three", "a", 0), ("three", "b", 1), ("three", "c", 2)]
    data = prepare(frame(rows), tmp_path / "data", **KEEP_ALL)
    assert targets(data) == {"three": (1, 1, 2), "two": (2, -1, -1)}
    split = data.metadata["report"]["split"]
    assert (split["users_evaluated"], split["users_train_only"], split["training_events"]) == (1, 1, 3)
    # b was trained on by the user of two events, c by nobody.
    assert (split["cold_validation_targets"], split["cold_test_targets"]) == (0, 1)


def test_a_vocabulary_fixes_the_items_and_their_indices(tmp_path):
    rows = [("u", "b", 0), ("u", "x", 1), ("u", "a", 2), ("v", "a", 0), ("v", "c", 1), ("w", "y", 1)]
    data = prepare(frame(rows), tmp_path / "data", vocabulary=["c", "unseen", "a", "b"], **KEEP_ALL)
    assert data.item_ids.to_pylist() == ["c", "unseen", "a", "b"]
    assert pq.read_table(tmp_path / "data" / "items.parquet")["num_events"].to_pylist() == [1, 0, 2, 1]
    assert histories(data) == {"u": ["b", "a"], "v": ["a", "c"]}
    dropped = data.metadata["report"]["dropped"]["unknown_items"]
    assert (dropped["events"], dropped["users"], dropped["items"]) == (2, 1, 2)
    with pytest.raises(ValueError, match=r"2 items \(2 events\) are not in the vocabulary, such as 'x'"):
        prepare(frame(rows), tmp_path / "other", vocabulary=["c", "a", "b"], unknown_items="error", **KEEP_ALL)


def test_items_of_a_vocabulary_that_the_core_drops_keep_their_index_and_lose_their_events(tmp_path):
    rows = [(user, item, time) for user in "uv" for time, item in enumerate("aab")] + [("u", "rare", 9)]
    data = prepare(frame(rows), tmp_path / "data", vocabulary=["rare", "b", "a"], min_user_events=1, min_item_events=2)
    assert data.item_ids.to_pylist() == ["rare", "b", "a"]
    assert histories(data) == {"u": ["a", "a", "b"], "v": ["a", "a", "b"]}


def test_integer_ids_stay_integers_by_name_and_text_by_order(tmp_path):
    rows = [(user, item, 0) for user in (10, 9, 100) for item in (2, 10)]
    data = prepare(frame(rows), tmp_path / "data", **KEEP_ALL)
    assert data.item_id_type == "int"
    assert data.user_ids.to_pylist() == ["10", "100", "9"]
    assert data.item_ids.to_pylist() == ["10", "2"]
    assert data.user_index(9) == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"u": "abac", "v": "ab"}),
        ({"min_rating": 2}, {"u": "aac", "v": "ab"}),
        ({"min_user_events": 3}, {"u": "abac"}),
        ({"min_item_events": 2}, {"u": "aba", "v": "ab"}),
        ({"repeats": "collapse"}, {"u": "abc", "v": "ab"}),
        ({"time_column": "none"}, {"u": "caba", "v": "ba"}),
        ({"time_column": "rating"}, {"u": "baac", "v": "ba"}),
        ({"user_column": "timestamp"}, None),
        ({"user_column": "rating", "time_column": "none"}, {"1": "b", "2": "a", "3": "ba", "4": "a", "5": "c"}),
        ({"item_column": "3", "time_column": "none"}, {"u": "5214", "v": "33"}),
        ({"vocabulary": ["a"]}, {"u": "aa", "v": "a"}),
    ],
)
def test_flipping_an_option_changes_the_histories(tmp_path, options, expected):
    rows = [("u", "c", 3, 5), ("u", "a", 0, 2), ("v", "b", 1, 3), ("u", "b", 1, 1), ("v", "a", 0, 3), ("u", "a", 2, 4)]
    if expected is None:
        with pytest.raises(ValueError, match="is chosen as user and as time: give each its own column"):
            prepare(frame(rows), tmp_path / "data", **KEEP_ALL, **options)
        return
    data = prepare(frame(rows), tmp_path / "data", **(KEEP_ALL | options))
    assert {user: "".join(items) for user, items in histories(data).items()} == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"u": (8, 8, 9)}),
        ({"split": "global-time"}, {"u": (8, 8, 9)}),
        ({"split": "global-time", "validation_share": 0.3}, {"u": (6, 6, 9)}),
        ({"split": "global-time", "test_share": 0.3}, {"u": (6, 6, 7)}),
    ],
)
def test_flipping_an_option_of_the_split_changes_the_targets(tmp_path, options, expected):
    data = prepare(frame([("u", f"i{time}", time) for time in range(10)]), tmp_path / "data", **KEEP_ALL, **options)
    assert targets(data) == expected


def test_titles_come_from_an_items_file_the_first_of_each(tmp_path, interaction_log):
    titles = tmp_path / "items.csv"
    titles.write_text(
        'movieId,year,title\ni1,1995,"One, two"\ni2,1996,Två\ni2,1996,again\nx,1,absent\n', encoding="utf-8"
    )
    data = prepare(interaction_log, tmp_path / "data", items_file=str(titles))
    found = dict(zip(data.item_ids.to_pylist(), data.titles.to_pylist(), strict=True))
    assert found == {f"i{item}": {1: "One, two", 2: "Två"}.get(item) for item in range(10)}
    assert data.metadata["report"]["titles"] == {"log": str(titles), "items_with_title": 2, "items_without_title": 8}
    assert prepare(interaction_log, tmp_path / "without").titles is None


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("i1|One\ni2|Två\n".encode("latin-1"), {"items_encoding": "latin-1"}),
        (b"i1::One\ni2::Tv\xc3\xa5\n", {}),
        (b"x\ti1\tOne\ny\ti2\tTv\xc3\xa5\n", {"items_id_column": "1", "items_title_column": "2"}),
        (b"i1 One;ten\ni2 Tv\xc3\xa5;ten\n", {"items_separator": " "}),
        (
            b"title,item_id\ni1,One\ni2,Tv\xc3\xa5\n",
            {"items_header": "false", "items_id_column": "0", "items_title_column": "1"},
        ),
    ],
)
def test_every_option_of_the_items_file_is_heeded(tmp_path, interaction_log, content, options):
    (tmp_path / "items.txt").write_bytes(content)
    data = prepare(interaction_log, tmp_path / "data", items=tmp_path / "items.txt", **options)
    ending = ";ten" if "items_separator" in options else ""
    assert [title for title in data.titles.to_pylist() if title] == [f"One{ending}", f"Två{ending}"]


def test_the_report_says_what_was_dropped_and_why(tmp_path):
    rows = [(f"u{n % 4}", f"i{n % 3}", n, 5) for n in range(24)] + [
        ("u0", "i0", 99, 1),
        ("lone", "i1", 3, 5),
        ("u1", "rare", 4, 5),
    ]
    data = prepare(
        frame(rows), tmp_path / "data", min_rating=2, repeats="collapse", min_user_events=2, min_item_events=2
    )
    report = data.metadata["report"]
    assert report["read"] == {"events": 27, "users": 5, "items": 4}
    assert report["dropped"]["rating"] == {"events": 1, "users": 0, "items": 0, "option": "min_rating=2"}
    assert report["dropped"]["repeats"] == {"events": 12, "users": 0, "items": 0, "option": "repeats=collapse"}
    assert report["dropped"]["core"]["counts"] == [
        {"counted": "items", "events": 1, "items": 1},
        {"counted": "users", "events": 1, "users": 1},
        {"counted": "items", "events": 0, "items": 0},
    ]
    assert report["columns"] == {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating"}
    text = data.report_text()
    assert "read: 27 events, 5 users, 4 items" in text
    assert "dropped by min_rating=2: 1 events, 0 users, 0 items" in text
    assert "left: 12 events, 4 users, 3 items" in text
    assert "4 test targets (0 never in training)" in text


def test_memory_limit_and_threads_reach_the_engine_and_change_nothing_else(tmp_path, interaction_log):
    expected = histories(prepare(interaction_log, tmp_path / "data"))
    assert histories(prepare(interaction_log, tmp_path / "more", threads=2, memory_limit="200MB")) == expected
    with pytest.raises(ValueError, match="memory_limit 'much' is not an amount of memory"):
        prepare(interaction_log, tmp_path / "none", memory_limit="much")
    rows = pd.concat([interaction_log] * 3000)
    with pytest.raises(ValueError, match="memory_limit '1MB' is too small for this log"):
        prepare(rows, tmp_path / "none", memory_limit="1MB")
    assert not (tmp_path / "none.partial").exists()


def test_every_option_has_a_help_text():
    import dataclasses

    assert all(len(option.metadata["help"]) > 20 for option in dataclasses.fields(InteractionOptions))


def test_the_hash_is_that_of_the_content_not_of_file_format_or_titles(tmp_path):
    log = frame([(user, item, time) for user in "abc" for time, item in enumerate("xyz" if user < "c" else "zyx")])
    log.to_csv(tmp_path / "log.csv", index=False)
    log.to_parquet(tmp_path / "log.parquet")
    titled = {"items": pd.DataFrame({"item_id": ["x"], "title": ["X"]})}
    found = {
        prepare(tmp_path / f"log.{kind}", tmp_path / f"{kind}{len(more)}", **KEEP_ALL, **more).content_hash()
        for kind in ("csv", "parquet")
        for more in ({}, titled)
    }
    assert len(found) == 1
    assert found == {load_data(tmp_path / "csv0").content_hash()}


def test_another_item_user_order_or_split_has_another_hash(tmp_path, monkeypatch):
    rows = [(user, item, 10 * step + n) for n, user in enumerate("abc") for step, item in enumerate("xyzw")]
    changed = {
        "same": (rows, {}),
        "item": ([(user, item.replace("w", "v"), time) for user, item, time in rows], {}),
        "user": ([(user.replace("c", "d"), item, time) for user, item, time in rows], {}),
        "order": ([*rows[:-2], ("c", "w", 22), ("c", "z", 32)], {}),
        "split": (rows, {"split": "global-time", "validation_share": 0.2, "test_share": 0.2}),
    }
    data = {
        name: prepare(frame(given), tmp_path / name, **KEEP_ALL, **options)
        for name, (given, options) in changed.items()
    }
    hashes = {name: found.content_hash() for name, found in data.items()}
    assert len(set(hashes.values())) == len(changed)
    monkeypatch.setattr("hf_bert4rec.interactions.histories.HASHED_AT_ONCE", 3)
    assert {name: found.content_hash() for name, found in data.items()} == hashes
