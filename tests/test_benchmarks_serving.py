"""The load test of the server, as a person starts it: rows for the bare model and for each number of clients."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the installed package

from benchmarks import serving  # noqa: E402
from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, prepare  # noqa: E402

for name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(name, reason=f"serving needs {name}: pip install 'hf_bert4rec[serve]'")


def test_the_bare_model_and_the_server_stand_in_one_table(tmp_path, interaction_log):
    data = prepare(interaction_log, tmp_path / "data")
    torch.manual_seed(0)
    Bert4RecTokenizer.from_items(data.item_ids.to_pylist()).save_pretrained(tmp_path / "run")
    config = Bert4RecConfig(vocab_size=13, hidden_size=16, intermediate_size=32)
    Bert4RecForMaskedLM(config).save_pretrained(tmp_path / "run")
    folders = ["--run", str(tmp_path / "run"), "--data", str(tmp_path / "data"), "--output_dir", str(tmp_path)]
    threads = torch.get_num_threads()
    try:
        assert serving.main([*folders, "--clients", "1", "4", "--seconds", "0.3"]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "serving.json").read_text())
    systems = ["model, batches of 128", "pipeline, batches of 128", "server, 1 clients", "server, 4 clients"]
    assert [row["system"] for row in rows] == systems
    for row in rows:
        assert row["per_wall_second"] == pytest.approx(row["per_cpu_second"] * row["cpus"])
    assert rows[2]["histories_per_batch"] == 1
    assert 1 <= rows[3]["histories_per_batch"] <= 4
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows[2:])
    report = (tmp_path / "serving.md").read_text()
    assert "| server, 4 clients |" in report and "--clients 1 4 --seconds 0.3" in report
