"""An adjusted model scores as before, less a share of the logarithm of popularity, and is a run like any other."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForMaskedLM, pipeline

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    adjust_logits,
    adjust_run,
    ensemble_runs,
    evaluate_run,
    prepare,
    train,
    write_model_card,
)
from hf_bert4rec.cli import main
from hf_bert4rec.run_folder import load_run, weights_hash

KEEP_ALL = {"min_user_events": 1, "min_item_events": 1}
QUICK = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "max_steps": 2,
    "recipe": "default",
    "reading": "causal",
    "use_cpu": True,
    "disable_tqdm": True,
}
HISTORIES = torch.tensor([[3, 4, 5, 1], [8, 7, 6, 1]])


def scores(model, histories=HISTORIES):
    with torch.no_grad():
        return model.eval()(histories, logits_to_keep=histories.eq(1)).logits


def log(num_items=12, num_users=24):
    """Item i0 is in every history, in its place within the training part."""
    rows = [
        (f"u{user}", f"i{0 if step == 1 else (user + step) % num_items}", step)
        for user in range(num_users)
        for step in range(5 + user % 5)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adjusted")


@pytest.fixture(scope="module")
def data(folder):
    return prepare(log(), folder / "data", **KEEP_ALL)


@pytest.fixture(scope="module")
def runs(folder, data):
    return [train(data, folder / f"run-{seed}", seed=seed, **QUICK) for seed in (1, 2)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_class", [Bert4RecForMaskedLM, Bert4RecForCausalLM])
def test_a_share_of_the_logarithm_comes_off_each_score(model_class, tied, tmp_path):
    model = model_class(Bert4RecConfig(vocab_size=9, hidden_size=16, tie_word_embeddings=tied))
    before, counts = scores(model), np.array([5, 6, 7, 0, 1, 9, 99, 3, 0])
    adjust_logits(model, counts, tau=0.5)
    expected = [0, 0, 0, 0, *(0.5 * math.log(1 + count) for count in counts[4:])]
    torch.testing.assert_close(before - scores(model), torch.tensor([expected] * 2))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(scores(model_class.from_pretrained(tmp_path)), scores(model))


@pytest.mark.parametrize("tau", [0, -0.5, math.nan, math.inf])
def test_a_share_that_is_none_is_refused(runs, data, tau, tmp_path):
    with pytest.raises(ValueError, match=r"^tau is .*; give a number above 0, such as 0.25\.$"):
        adjust_run(runs[0], data, tmp_path / "made", tau=tau)
    assert list(tmp_path.iterdir()) == []


def test_counts_of_another_catalogue_are_refused():
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=9, hidden_size=16))
    with pytest.raises(ValueError, match=r"The model has 9 tokens, item_counts 4; count the model's own items\."):
        adjust_logits(model, np.arange(4), tau=1)


def test_the_command_makes_a_run_that_every_other_command_takes(runs, data, tmp_path, capsys):
    output, file = tmp_path / "adjusted", tmp_path / "metrics.json"
    arguments = ["--data", str(data.folder), "--tau", "0.5", "--output_dir", str(output)]
    assert main(["adjust", str(runs[0]), *arguments]) == 0
    assert capsys.readouterr().out == f"Model written to {output}\n"
    (model, tokenizer), (plain, _) = load_run(output), load_run(runs[0])
    # What a user's last two events are is not known in training: neither is counted.
    frame = log()
    training = frame[frame.groupby("user_id").cumcount(ascending=False) >= 2]
    counts = training["item_id"].value_counts().reindex(tokenizer.item_ids, fill_value=0).to_numpy()
    assert counts.max() == 32  # the adjustments differ
    off = torch.tensor([0, 0, 0, *(0.5 * np.log1p(counts))], dtype=torch.float32)
    torch.testing.assert_close(scores(model), scores(plain) - off)
    torch.testing.assert_close(scores(AutoModelForMaskedLM.from_pretrained(output)), scores(model))
    record, before = (json.loads((run / "run.json").read_text()) for run in (output, runs[0]))
    command = "hf-bert4rec adjust run-1 --data data --tau 0.5 --output_dir adjusted"
    assert record["commands"] == [*before["commands"], command]
    assert record["options"] == before["options"] | {"tau": 0.5}
    changed = {name for name in record if record[name] != before.get(name)}
    assert record["adjusts"] == weights_hash(runs[0])
    assert changed == {"commands", "options", "adjusts"}
    assert pipeline("next-item-recommendation", model=str(output))(["i3", "i4"], top_k=3)["recommendations"]
    assert main(["evaluate", str(output), "--data", str(data.folder), "--output_file", str(file)]) == 0
    assert json.loads(file.read_text())["run"]["options"]["tau"] == 0.5
    assert main(["export", str(output), "--output_dir", str(tmp_path / "graph"), "--format", "torch"]) == 0
    capsys.readouterr()
    assert main(["adjust", str(output), *arguments[:-1], str(tmp_path / "twice")]) == 2
    refusal = f"{output} is adjusted by 0.5; give the run that it was made of.\n"
    assert capsys.readouterr().err == f"hf-bert4rec adjust: {refusal}"
    # What is learned from it would be neither its scores nor those of a training.
    for option in ("--model", "--teacher"):
        assert main(["train", str(data.folder), "--output_dir", str(tmp_path / "next"), option, str(output)]) == 2
        assert capsys.readouterr().err.endswith(refusal)
    assert main(["adjust", str(runs[0]), *arguments]) == 2
    assert "adjusted exists; give another folder" in capsys.readouterr().err


def test_its_card_says_so_and_takes_no_figures_of_plain_runs(runs, data, tmp_path):
    made = [adjust_run(run, data, tmp_path / f"adjusted-{run.name}", tau=0.5) for run in runs]
    files = []
    for run in (*made, runs[1]):
        files.append(tmp_path / f"{run.name}.json")
        files[-1].write_text(json.dumps(evaluate_run(run, data)))
    text = write_model_card(made[0], files[:2])[0].read_text()
    assert "| adjusted | 0.5 log(1 + training events of an item) taken off its score, after training |" in text
    assert "The same training with other seeds:" in text
    assert "`tau`" not in text
    with pytest.raises(ValueError, match="metrics of a run with another tau"):
        write_model_card(made[0], [files[0], files[2]])
    assert "| adjusted |" not in write_model_card(runs[1], files[2:])[0].read_text()


def test_other_data_and_a_folder_that_is_read_are_refused(runs, data, tmp_path):
    shorter = prepare(log()[:-1], tmp_path / "shorter", vocabulary=load_run(runs[0])[1].item_ids, **KEEP_ALL)
    with pytest.raises(ValueError, match=r"run-1 was trained on other data than .*shorter; give the data that it was"):
        adjust_run(runs[0], shorter, tmp_path / "made", tau=1)
    fewer = prepare(log(11), tmp_path / "fewer", **KEEP_ALL)
    with pytest.raises(ValueError, match="was prepared with another vocabulary"):
        adjust_run(runs[0], fewer, tmp_path / "made", tau=1)
    with pytest.raises(FileExistsError, match="would be deleted"):
        adjust_run(runs[0], data, runs[0], tau=1, overwrite=True)
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    (copy / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"copy has no run\.json"):
        adjust_run(copy, data, tmp_path / "made", tau=1)
    assert not (tmp_path / "made").exists()


def test_an_ensemble_is_adjusted_and_of_adjusted_runs_all_must_be_alike(runs, data, tmp_path):
    ensemble = ensemble_runs(runs, tmp_path / "ensemble")
    adjusted = [adjust_run(run, data, tmp_path / f"adjusted-{run.name}", tau=1) for run in runs]
    joined = ensemble_runs(adjusted, tmp_path / "joined")
    found = adjust_run(ensemble, data, tmp_path / "adjusted", tau=1)
    torch.testing.assert_close(scores(load_run(found)[0]), scores(load_run(joined)[0]))
    assert json.loads((joined / "run.json").read_text())["options"]["tau"] == 1
    files = []
    for run in (found, *runs):
        files.append(tmp_path / f"{run.name}.json")
        files[-1].write_text(json.dumps(evaluate_run(run, data)))
    with pytest.raises(ValueError, match="of weights that are none of its members'"):
        write_model_card(found, files)
    with pytest.raises(
        ValueError, match=r"run-2 is adjusted by 0, .*adjusted-run-1 by 1; join the runs that they were"
    ):
        ensemble_runs([adjusted[0], runs[1]], tmp_path / "mixed")
