"""The exports' benchmark, as a person starts it: figures of each system, tables from the figures."""

import json
import sys
from pathlib import Path

import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, prepare

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the installed package

from benchmarks import exports  # noqa: E402


@pytest.fixture
def arguments(interaction_log, tmp_path):
    """A run and its data, and where figures go."""
    data = prepare(interaction_log, tmp_path / "ring")
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=13, hidden_size=16, num_hidden_layers=1))
    model.get_output_embeddings().weight.data.normal_()
    model.save_pretrained(tmp_path / "run")
    Bert4RecTokenizer.from_items(data.item_ids.to_pylist()).save_pretrained(tmp_path / "run")
    threads = torch.get_num_threads()
    yield ["--runs", str(tmp_path / "run"), "--data", str(data.folder), "--output_dir", str(tmp_path / "results")]
    torch.set_num_threads(threads)


def rows_and_report(tmp_path, mode):
    folder = tmp_path / "results"
    return json.loads((folder / f"exports-{mode}.json").read_text()), (folder / f"exports-{mode}.md").read_text()


def test_an_index_is_measured_among_real_items_and_among_made_ones(arguments, tmp_path):
    pytest.importorskip("faiss", reason="item indexes need: pip install 'hf_bert4rec[faiss]'")
    assert exports.main(["index", *arguments, "--num_items", "300"]) == 0
    rows, report = rows_and_report(tmp_path, "index")
    assert [row["num_items"] for row in rows] == [10] * 4 + [300] * 4
    assert [row["system"] for row in rows[:4]] == ["flat", *(f"hnsw, width {width}" for width in exports.WIDTHS)]
    assert all(row["recall@10"] > 0.9 and min(row["users_per_cpu_second"].values()) > 0 for row in rows)
    assert "| ring, made (300 items), flat | 1.000 |" in report


def test_model_onnx_and_int8_are_measured_side_by_side(arguments, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX exports need: pip install 'hf_bert4rec[export]'")
    assert exports.main(["speed", *arguments]) == 0
    rows, report = rows_and_report(tmp_path, "speed")
    assert [row["system"] for row in rows] == ["model", "onnx", "int8"]
    assert rows[0]["ndcg@10"] == rows[1]["ndcg@10"]
    assert rows[0]["model_minus_this"] is None and rows[1]["model_minus_this"] == [0, 0]
    assert "| ring, onnx |" in report and "`python -m benchmarks.exports speed --runs" in report


def test_each_run_needs_its_data(arguments, capsys):
    assert exports.main(["index", *arguments, "--runs", "one", "two"]) == 1
    assert "2 runs and 1 data; give the data of each run" in capsys.readouterr().err
