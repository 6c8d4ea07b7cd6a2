"""`hf-bert4rec serve` as a person meets it: one line for what it cannot do, and an end that drops no request."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer
from hf_bert4rec.cli import main

for name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(name, reason=f"serving needs {name}: pip install 'hf_bert4rec[serve]'")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("serve") / "run"
    Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=15, hidden_size=16, intermediate_size=32)).save_pretrained(folder)
    Bert4RecTokenizer.from_items([f"item {number}" for number in range(12)]).save_pretrained(folder)
    return folder


def test_the_command_refuses_in_one_line_what_it_cannot_do(run_folder, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_BERT4REC_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (
                [run_folder, "--port", port],
                f"Cannot listen on 127.0.0.1, port {port} (Address already in use); give another",
            ),
            ([run_folder, "--host", "0.0.0.0"], "0.0.0.0 can be reached by others, so a token is needed: set"),
            ([run_folder, "--host", "::", "--port", "0"], ":: can be reached by others, so a token is needed"),
            ([run_folder, "--host", "no.such.host.invalid"], "There is no address no.such.host.invalid ("),
            ([run_folder, "--port", "99999"], "port is 99999; give a number between 0 and 65535"),
            ([run_folder, "--port", "0", "--token", "a b"], "The token must be ASCII text without spaces"),
            ([run_folder, "--port", "0", "--max_top_k", "0"], "max_top_k is 0; give at least 1"),
            ([tmp_path / "none", "--port", "0"], "There is no folder"),
        ):
            assert main(["serve", *map(str, arguments)]) == 2
            found = capsys.readouterr().err
            assert found.startswith(f"hf-bert4rec serve: {message}")
            assert found.count("\n") == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(run_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(run_folder)]) == 2
    assert "pip install 'hf_bert4rec[serve]'" in capsys.readouterr().err


def ask(port, method, path, body=None, headers=None):
    """A connection on which this was sent; its answer comes with `getresponse()`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {})
    return connection


def test_the_command_serves_until_the_signal_and_drops_no_request(run_folder):
    command = [sys.executable, "-m", "hf_bert4rec", "serve", str(run_folder), "--port", "0", "--max_waiting", "9999"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_BERT4REC_TOKEN": "secret"}
    bearer = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    body = json.dumps({"histories": [["item 1"] * 200] * 128, "top_k": 12})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **streams) as server:
        first = server.stdout.readline()
        port = int(re.search(r"Serving .* \(12 items\) on http://127.0.0.1:(\d+); /docs", first)[1])
        assert ask(port, "POST", "/recommend", "{}").getresponse().status == 401
        connections = [ask(port, "POST", "/recommend", body, bearer) for _ in range(8)]
        while b"requests_in_flight 9.0" not in ask(port, "GET", "/metrics", headers=bearer).getresponse().read():
            time.sleep(0.001)
        server.send_signal(signal.SIGTERM)
        for connection in connections:
            answer = connection.getresponse()
            assert answer.status == 200
            assert len(json.loads(answer.read())) == 128
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "Stopped\n", "")
