"""The metric for `evaluate` gives the figures of metrics.py on the same ranks, in one process or two, with and without us."""

import configparser
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard

from hf_bert4rec import ranking_metric, save_ranking_metric
from hf_bert4rec.metrics import ranking_metrics
from hf_bert4rec.ranking import target_ranks
from hf_bert4rec.ranking_metric import NAME, REQUIREMENTS

ROOT = Path(__file__).resolve().parent.parent


def test_ranked_lists_give_the_metrics_of_their_ranks():
    random = np.random.default_rng(0)
    lists = np.stack([random.permutation(40)[:20] for _ in range(300)])
    targets = random.integers(0, 40, 300)
    ranks = np.array(
        [np.inf if t not in row else row.tolist().index(t) for row, t in zip(lists, targets, strict=True)]
    )
    assert np.isinf(ranks).any()
    expected = ranking_metrics(ranks)
    metric = ranking_metric()
    as_text = [[f"item {item}" for item in row] for row in lists]
    for predictions, references in (
        (lists, targets),
        (torch.from_numpy(lists), torch.from_numpy(targets)),
        (lists.tolist(), targets.tolist()),
        (as_text, [f"item {target}" for target in targets]),
    ):
        assert metric.compute(predictions=predictions, references=references) == expected


def test_scores_give_the_metrics_of_our_own_ranks_with_ties_and_forbidden_items():
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, (200, 30)).astype(np.float32)  # many ties
    targets = random.integers(0, 30, 200)
    scores[random.random(scores.shape) < 0.2] = -np.inf
    scores[np.arange(200), targets] = random.integers(0, 6, 200)
    ranks = target_ranks(torch.from_numpy(scores), torch.from_numpy(targets)).numpy()
    assert (ranks % 1 == 0.5).any()
    found = ranking_metric("scores").compute(predictions=scores, references=targets, ks=(1, 3, 30))
    assert found == pytest.approx(ranking_metrics(ranks, (1, 3, 30)), abs=1e-12)


def test_batches_and_single_users_add_up():
    random = np.random.default_rng(0)
    lists, targets = np.stack([random.permutation(20) for _ in range(9)]), random.integers(0, 20, 9)
    metric = ranking_metric()
    metric.add_batch(predictions=lists[:5], references=targets[:5])
    metric.add_batch(predictions=lists[5:8], references=targets[5:8])
    metric.add(prediction=lists[8], reference=targets[8])
    assert metric.compute(ks=(2, 7)) == ranking_metrics(np.where(lists == targets[:, None])[1], (2, 7))
    assert metric.compute(predictions=[[1]], references=[1]) == {"recall@1": 1.0, "ndcg@1": 1.0, "mrr": 1.0}


def one_of_two(process_id, folder):
    options = {"num_process": 2, "process_id": process_id, "experiment_id": "two", "cache_dir": folder}
    metric = ranking_metric("scores", **options)
    for row in range(process_id, 10, 2):
        metric.add(prediction=[float(item == 3) + float(item <= row) for item in range(10)], reference=3)
    return metric.compute(ks=(1, 5))


def test_two_processes_give_the_metrics_of_all_users_to_the_first(tmp_path):
    with multiprocessing.get_context("spawn").Pool(1) as other:
        second = other.apply_async(one_of_two, (1, str(tmp_path)))
        found = one_of_two(0, str(tmp_path))
        assert second.get(timeout=120) is None
    ranks = [row / 2 + 0.5 if row < 3 else 0 for row in range(10)]
    assert found == pytest.approx(ranking_metrics(np.array(ranks), (1, 5)))


def test_lists_that_are_too_short_for_a_k_are_not_taken_for_longer_ones():
    metric, lists = ranking_metric(), [[1, 2, 3, 4, 5], [6, 7, 8]]
    assert list(metric.compute(predictions=lists, references=[1, 7])) == [
        "recall@1",
        "ndcg@1",
        "recall@5",
        "ndcg@5",
        "mrr",
    ]
    with pytest.raises(ValueError, match="k is 10, but no prediction is longer than 5; give a smaller k"):
        metric.compute(predictions=lists, references=[1, 7], ks=(1, 10))


@pytest.mark.parametrize(
    ("configuration", "predictions", "references", "message"),
    [
        (
            "lists",
            [[3, 1, 3]],
            [1],
            "Row 0 lists 3 twice; give each item once or, for rows of scores, the configuration",
        ),
        ("lists", [[0.1, 0.7, 0.2]], [1], "Row 0 lists 0 twice; .*the configuration 'scores'"),
        ("lists", [["a"], ["b"]], ["a"], "Mismatch in the number of predictions"),
        ("lists", [["a"]], [1], "don't match the expected format"),
        ("lists", [["a"]], [[1]], "don't match the expected format"),
        ("scores", [[1.0, 2.0]], [2], "The target of row 0 is 2, but the row has 2 scores; give its place from 0"),
        ("scores", [[1.0, 2.0]], [-1], "The target of row 0 is -1"),
        ("scores", [[1.0], [float("nan")]], [0, 0], "A score of row 1 is NaN"),
        ("scores", [[1.0, -float("inf")]], [1], r"The target of row 0, 1, is forbidden \(it scores -inf\)"),
    ],
)
def test_what_cannot_be_ranked_is_refused(configuration, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        ranking_metric(configuration).compute(predictions=predictions, references=references)


def test_an_unknown_configuration_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match="There is no configuration 'ranks'; choose 'lists' or 'scores'"):
        ranking_metric("ranks")
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(ValueError, match=r"The metric needs evaluate .*: pip install 'hf_bert4rec\[evaluate\]'"):
        ranking_metric()


def test_the_saved_folder_is_a_space_that_loads_offline_without_this_package(tmp_path):
    folder = save_ranking_metric(tmp_path)
    assert save_ranking_metric(tmp_path) == folder == tmp_path / NAME
    names = {"README.md", "index.html", "metrics.py", f"{NAME}.py", "requirements.txt"}
    assert {path.name for path in folder.iterdir()} == names
    card = RepoCard.load(folder / "README.md")
    assert (card.data["sdk"], card.data["title"]) == ("static", NAME)
    assert {"evaluate", "metric"} <= set(card.data["tags"])
    code = f"""
import sys
sys.modules["hf_bert4rec"] = None
import evaluate
metric = evaluate.load({str(folder)!r})
print(metric.compute(predictions=[["b", "a"], ["a", "c"]], references=["a", "x"], ks=[2]))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert eval(done.stdout) == ranking_metrics(np.array([1, np.inf]), (2,))


def test_the_space_requires_what_its_scripts_import(tmp_path):
    folder = save_ranking_metric(tmp_path)
    names = set()
    for script in folder.glob("*.py"):
        names |= set(re.findall(r"^(?:import|from) (\w+)", script.read_text(), re.MULTILINE))
    assert (
        names - set(sys.stdlib_module_names)
        == set(REQUIREMENTS)
        == set((folder / "requirements.txt").read_text().split())
    )


def test_the_examples_of_the_card_give_what_they_say(tmp_path):
    card = (save_ranking_metric(tmp_path) / "README.md").read_text()
    call, answer = re.search(r"^>>> metric\.compute\((.*)\)\n(.*)$", card, re.MULTILINE).groups()
    assert ranking_metric("scores").compute(**eval(f"dict({call})")) == eval(answer)
    call = re.search(r"^metric\.compute\((.*)\)$", card, re.MULTILINE)[1]
    assert ranking_metric().compute(**eval(f"dict({call})"))["recall@2"] == 0.5


def test_everything_beside_the_code_is_installed_with_it():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    patterns = setup["options.package_data"]["hf_bert4rec"].split(", ")
    beside = [path for path in (ROOT / "hf_bert4rec").iterdir() if path.is_file() and path.suffix != ".py"]
    assert "ranking_metric_card.md" in {path.name for path in beside}
    assert [path for path in beside if not any(path.match(pattern) for pattern in patterns)] == []
