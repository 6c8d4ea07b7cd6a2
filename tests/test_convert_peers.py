"""
Models that the other projects themselves have trained and scored, each in an environment of its own: `BERT4REC_PEERS` is
the folder of environments that `python -m benchmarks` makes (`.peers`).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hf_bert4rec.convert import convert
from hf_bert4rec.run_folder import load_run
from hf_bert4rec.scoring import ModelScorer

LAUNCHERS = Path(__file__).parent / "peers"


def answer_of(project, launcher, *arguments):
    """What the launcher of a project wrote; skips where the project is not installed."""
    if "BERT4REC_PEERS" not in os.environ:
        pytest.skip("BERT4REC_PEERS is not set; it is the folder of the other projects' environments")
    python = Path(os.environ["BERT4REC_PEERS"]) / project / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{project} is not installed: there is no {python}")
    command = [str(python), str(LAUNCHERS / launcher), *map(str, arguments)]
    folder = Path(arguments[-1])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "answer.json").read_text())


def assert_equal_scores(answer, run):
    model, tokenizer = load_run(run)
    assert tokenizer.item_ids == answer["items"]
    histories = [np.array(tokenizer.encode_items(history)[0]) for history in answer["histories"]]
    found = ModelScorer(model)(None, histories)(3, 3 + len(answer["items"])).numpy()
    np.testing.assert_allclose(found, answer["scores"], atol=1e-5)


@pytest.mark.parametrize("model", ["BERT4Rec", "SASRec"])
def test_a_model_trained_by_recbole_has_the_scores_of_recbole(tmp_path, model):
    answer = answer_of("recbole", "train_recbole.py", model, tmp_path)
    convert(answer["checkpoint"], tmp_path / "run")
    assert_equal_scores(answer, tmp_path / "run")


def test_a_model_trained_by_rectools_has_the_scores_of_rectools(tmp_path):
    answer = answer_of("rectools", "train_rectools.py", tmp_path)
    convert(answer["checkpoint"], tmp_path / "run")
    assert_equal_scores(answer, tmp_path / "run")


@pytest.mark.parametrize(("head", "num_passes"), [("tied", 1), ("untied", 2)])
def test_a_model_trained_by_replay_has_the_scores_of_replay(tmp_path, head, num_passes):
    answer = answer_of("replay-rec", "train_replay.py", head, num_passes, tmp_path)
    convert(answer["checkpoint"], tmp_path / "run")
    assert_equal_scores(answer, tmp_path / "run")
