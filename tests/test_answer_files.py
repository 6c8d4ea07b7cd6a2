"""Recommendations as Parquet: the same content as the JSON lines, whole or absent."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, answer_files
from hf_bert4rec.cli import main

ITEM = {"item_id": 7, "score": 0.5}
ANSWER = {"recommendations": [ITEM], "num_unknown": 0, "is_popularity": False}


@pytest.fixture(scope="module", params=[None, {1: "One"}], ids=["without titles", "with titles"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tokenizer = Bert4RecTokenizer.from_items(list(range(20)), titles=request.param)
    config = Bert4RecConfig(vocab_size=len(tokenizer), hidden_size=8, num_attention_heads=1, intermediate_size=8)
    Bert4RecForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recommend(run, source, target) -> int:
    return main(["recommend", str(run), "--input_file", str(source), "--output_file", str(target), "--top_k", "3"])


def test_a_parquet_file_holds_what_the_lines_hold(run, tmp_path, monkeypatch):
    monkeypatch.setattr(answer_files, "ROWS_AT_ONCE", 1500)
    lines = [json.dumps({"history": [row % 20, 3], "user": f"u{row}", "tags": [row]}) for row in range(3_000)]
    lines[5], lines[2_999] = "no json", '{"history": []}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert recommend(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 0
    assert recommend(run, tmp_path / "in.jsonl", tmp_path / "out.parquet") == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    expected = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for found, wanted in zip(rows, expected, strict=True):
        assert {name: value for name, value in found.items() if value is not None and name != "recommendations"} == {
            name: value for name, value in wanted.items() if name != "recommendations"
        }
        for item, other in zip(found["recommendations"] or [], wanted.get("recommendations", []), strict=True):
            assert item.pop("score") == pytest.approx(other.pop("score"))
            assert item == other
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 2
    assert not (tmp_path / "out.parquet.partial").exists()
    assert rows[5]["line"] == 6 and rows[2_999]["user"] is None


def test_the_types_do_not_depend_on_the_rows(run, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "one.jsonl").write_text("[1]\n")
    schemas = []
    for name in ("empty", "one"):
        assert recommend(run, tmp_path / f"{name}.jsonl", tmp_path / f"{name}.parquet") == 0
        schemas.append(pq.read_schema(tmp_path / f"{name}.parquet"))
    assert schemas[0] == schemas[1]
    assert schemas[0].field("recommendations").type.value_type.field("item_id").type == pa.int64()
    assert schemas[0].names == ["recommendations", "num_unknown", "is_popularity", "line", "error"]


def test_one_history_can_go_to_parquet_too(run, tmp_path):
    target = str(tmp_path / "out.parquet")
    assert main(["recommend", str(run), "--history", "1", "2", "--output_file", target]) == 0
    (row,) = pq.read_table(target).to_pylist()
    assert len(row["recommendations"]) == 10


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ('{"history": [], "other": 1}', "the key 'other' is not in the first lines"),
        ('{"history": [], "user": "text"}', "the key 'user' has values of more than one type"),
    ],
)
def test_lines_that_do_not_fit_one_table_are_one_error_and_the_old_file_stays(run, tmp_path, capsys, last, message):
    lines = ['{"history": [1], "user": 1}'] * 1024 + [last]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "out.parquet").write_text("old")
    assert recommend(run, tmp_path / "in.jsonl", tmp_path / "out.parquet") == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "out.parquet").read_text() == "old"
    assert not (tmp_path / "out.parquet.partial").exists()


def test_text_ids_are_text(tmp_path):
    tokenizer = Bert4RecTokenizer.from_items(["a", "b"])
    with answer_files.ParquetAnswers(tmp_path / "out.parquet", tokenizer) as answers:
        answers.write([ANSWER | {"recommendations": [{"item_id": "a", "score": 1.0}]}])
    assert pq.read_table(tmp_path / "out.parquet")["recommendations"].to_pylist() == [[{"item_id": "a", "score": 1.0}]]
