"""An ensemble scores as its members do on average, and is a run like any other."""

import json
import re
import shutil

import pandas as pd
import pytest
import torch
from transformers import AutoModelForMaskedLM, pipeline

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecForSequenceClassification,
    ensemble_models,
    ensemble_runs,
    evaluate_run,
    prepare,
    train,
    write_model_card,
)
from hf_bert4rec.cli import main
from hf_bert4rec.run_folder import load_run, weights_hash

KEEP_ALL = {"min_user_events": 1, "min_item_events": 1}
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "use_cpu": True,
    "disable_tqdm": True,
}
QUICK = TINY | {"max_steps": 2, "recipe": "default"}
MODERN = {"backbone": "modernbert", "norm_position": "pre", "position_origin": "newest", "scale_embedding": True}
VARIANTS = [
    {},
    {"norm_position": "pre", "embedding_layer_norm": False, "scale_embedding": True, "head_transform": False},
    {"head_layer_norm": False, "reading": "both"},
    {"tie_word_embeddings": False, "reading": "causal"},
    {"norm_position": "pre", "final_layer_norm": False, "head_transform": False},
    MODERN,
]
HISTORIES = torch.tensor([[0, 0, 7, 9, 4, 1], [5, 8, 6, 12, 50, 1], [0, 0, 0, 0, 99, 1]])


def model(seed, model_class=Bert4RecForMaskedLM, **changes):
    """Weights far from their start, biases and norms too."""
    torch.manual_seed(seed)
    made = model_class(Bert4RecConfig(vocab_size=103, hidden_size=16, intermediate_size=24, **changes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made.eval()


def scores(of, inputs=HISTORIES):
    with torch.no_grad():
        return of(inputs, attention_mask=inputs.ne(0).long(), logits_to_keep=inputs.eq(1)).logits


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("model_class", [Bert4RecForMaskedLM, Bert4RecForCausalLM])
def test_scores_are_the_mean_of_those_of_the_members(model_class, changes):
    members = [model(seed, model_class, **changes) for seed in range(3)]
    ensemble = ensemble_models(members)
    assert type(ensemble) is model_class
    expected = [scores(member) for member in members]
    torch.testing.assert_close(scores(ensemble), sum(expected) / 3, atol=2e-5, rtol=1e-5)
    # Members may be ensembles of as many.
    pairs = [ensemble_models(members[:2]), ensemble_models(members[1:])]
    quarters = (expected[0] + 2 * expected[1] + expected[2]) / 4
    torch.testing.assert_close(scores(ensemble_models(pairs)), quarters, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_an_ensemble_is_saved_and_trained_like_any_model(changes, tmp_path):
    ensemble = ensemble_models([model(seed, **changes) for seed in range(2)])
    ensemble.save_pretrained(tmp_path)
    found = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(scores(found), scores(ensemble))
    labels = torch.where(HISTORIES == 1, 6, -100)
    inputs = {"input_ids": HISTORIES, "attention_mask": HISTORIES.ne(0).long(), "labels": labels}
    with torch.no_grad():
        expected = found(**inputs).loss
    for module in found.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    if found.config.reading == "masked":  # training reads no other way
        torch.testing.assert_close(found.train()(**inputs).loss, expected)
    found.train()(**inputs).loss.backward()
    assert all(p.grad is not None for p in found.parameters() if p.requires_grad)


def test_half_precision_stays():
    members = [model(seed).to(torch.bfloat16) for seed in range(2)]
    assert ensemble_models(members).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "needs at least two models; found 1"),
        (
            [model(1, norm_position="pre")],
            "norm_position of model 1 is 'post', of model 2 'pre'; give models of one training",
        ),
        ([model(1, num_attention_heads=4)], "num_attention_heads of model 1 is 2, of model 2 4"),
        (
            [model(1), model(1, reading="both")],
            "reading of model 1 is 'masked', of model 3 'both'; say which with reading",
        ),
        ([model(1, Bert4RecForCausalLM)], "Model 1 is a Bert4RecForMaskedLM, model 2 a Bert4RecForCausalLM"),
    ],
)
def test_models_that_differ_in_what_an_ensemble_has_once_are_refused(others, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ensemble_models([model(0), *others])


def test_models_that_score_no_items_are_refused():
    config = Bert4RecConfig(vocab_size=103, hidden_size=16, intermediate_size=24)
    with pytest.raises(ValueError, match="is a Bert4RecForSequenceClassification, which scores no items"):
        ensemble_models([Bert4RecForSequenceClassification(config)] * 2)


def test_what_fixes_no_weight_may_differ():
    members = [model(0), model(1, reading="both", hidden_dropout_prob=0.4, initializer_range=0.1)]
    ensemble = ensemble_models(members, reading="causal")
    assert ensemble.config.reading == "causal"
    assert ensemble.config.hidden_dropout_prob == members[0].config.hidden_dropout_prob


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ensemble")


@pytest.fixture(scope="module")
def data(folder):
    return prepare(log(12), folder / "data", **KEEP_ALL)


def log(num_items):
    rows = [(f"u{user}", f"i{(user + step) % num_items}", step) for user in range(24) for step in range(4 + user % 5)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@pytest.fixture(scope="module")
def runs(folder, data):
    return [train(data, folder / f"run-{seed}", seed=seed, reading="causal", **QUICK) for seed in (1, 2)]


def test_the_command_makes_a_run_that_every_other_command_takes(data, runs, tmp_path, capsys):
    output = tmp_path / "ensemble"
    assert main(["ensemble", *map(str, runs), "--output_dir", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "2 models of 12 items as one of hidden size 32" in printed
    record, records = (
        json.loads((output / "run.json").read_text()),
        [json.loads((run / "run.json").read_text()) for run in runs],
    )
    assert [member["seed"] for member in record["members"]] == [1, 2]
    assert [member["weights_hash"] for member in record["members"]] == [weights_hash(run) for run in runs]
    assert record["cpu_seconds"] == pytest.approx(sum(each["cpu_seconds"] for each in records))
    assert record["commands"] == [
        records[0]["commands"][0],
        *(each["commands"][1] for each in records),
        "hf-bert4rec ensemble run-1 run-2 --output_dir ensemble",
    ]
    assert str(tmp_path) not in json.dumps(record)
    ensemble, members = load_run(output)[0], [load_run(run)[0] for run in runs]
    histories = torch.tensor([[3, 4, 5, 1], [8, 7, 6, 1]])
    expected = sum(scores(member, histories) for member in members) / 2
    torch.testing.assert_close(scores(ensemble, histories), expected)
    assert record["num_parameters"] == sum(parameter.numel() for parameter in ensemble.parameters())
    assert evaluate_run(output, data)["run"]["seeds"] == [1, 2]
    assert pipeline("next-item-recommendation", model=str(output))(["i3", "i4"], top_k=3)["recommendations"]
    assert main(["evaluate", str(output), "--data", str(data.folder)]) == 0
    # It is exported only where the graph scores as the model does.
    assert main(["export", str(output), "--output_dir", str(tmp_path / "graph"), "--format", "torch"]) == 0
    tuned = train(data, tmp_path / "tuned", model=output, max_steps=2, use_cpu=True, disable_tqdm=True)
    assert load_run(tuned)[0].config.num_members == 2


@pytest.mark.parametrize(("greater_is_better", "best"), [(True, "both"), (False, "causal")])
def test_the_reading_is_the_best_of_the_average_member(runs, tmp_path, greater_is_better, best):
    """The members' own readings, causal and both, are those of their best figure."""
    readings = [{"both": 0.5, "causal": 0.6, "masked": 0.59}, {"both": 0.9, "causal": 0.1, "masked": 0.7}]
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for copy, found in zip(copies, readings, strict=True):
        record, config = (json.loads((copy / name).read_text()) for name in ("run.json", "config.json"))
        record["readings"], config["reading"] = found, max(found, key=found.get)
        record["training_arguments"]["greater_is_better"] = greater_is_better
        (copy / "run.json").write_text(json.dumps(record))
        (copy / "config.json").write_text(json.dumps(config))
    made = ensemble_runs(copies, tmp_path / "made")
    assert load_run(made)[0].config.reading == best
    means = {"both": 0.7, "causal": 0.35, "masked": 0.645}
    assert json.loads((made / "run.json").read_text())["readings"] == pytest.approx(means)
    made = ensemble_runs(copies, tmp_path / "made", reading="masked", overwrite=True)
    assert load_run(made)[0].config.reading == "masked"
    assert json.loads((made / "run.json").read_text())["readings"] == {}  # nobody measured that choice


def test_runs_of_other_data_are_refused(runs, folder, tmp_path, capsys):
    other = train(prepare(log(11), tmp_path / "other", **KEEP_ALL), tmp_path / "run", **QUICK)
    assert main(["ensemble", str(runs[0]), str(other), "--output_dir", str(tmp_path / "made")]) == 2
    assert "has other items than" in capsys.readouterr().err
    shorter = prepare(log(12)[:-1], tmp_path / "shorter", vocabulary=load_run(runs[0])[1].item_ids, **KEEP_ALL)
    other = train(shorter, tmp_path / "run-shorter", reading="causal", **QUICK)
    with pytest.raises(ValueError, match="was trained on other data than"):
        ensemble_runs([runs[0], other], tmp_path / "made")
    assert not list(tmp_path.glob("made*"))


def test_runs_of_other_objectives_are_refused_and_unfinished_ones_named(data, runs, tmp_path):
    other = train(data, tmp_path / "causal", causal_probability=1.0, reading="causal", **QUICK)
    with pytest.raises(
        ValueError, match=r"trained with causal_probability 1.0, .*run-1 with 0.5; give runs of the same"
    ):
        ensemble_runs([runs[0], other], tmp_path / "made")
    shutil.copytree(runs[0], tmp_path / "half.partial")
    with pytest.raises(FileNotFoundError, match=r"half.partial is an unfinished run: repeat its command"):
        ensemble_runs([runs[0], tmp_path / "half"], tmp_path / "made")


def test_the_record_keeps_what_members_share_and_ensembles_of_ensembles_name_all_runs(data, runs, tmp_path):
    taught = train(data, tmp_path / "taught", seed=3, reading="causal", teacher=runs[0], learning_rate=0.01, **QUICK)
    made = ensemble_runs([taught, runs[0]], tmp_path / "made")
    record = json.loads((made / "run.json").read_text())
    assert "teacher" not in record
    assert "teacher" not in record["options"] and "learning_rate" not in record["options"]
    assert record["options"]["hidden_size"] == 16
    nested = ensemble_runs([made, ensemble_runs(runs, tmp_path / "pair")], tmp_path / "nested")
    assert [member["seed"] for member in json.loads((nested / "run.json").read_text())["members"]] == [3, 1, 1, 2]
    assert evaluate_run(nested, data)["run"]["seeds"] == [3, 1, 1, 2]
    files = [tmp_path / "nested.json", tmp_path / "pair.json"]
    for file, run in zip(files, (nested, tmp_path / "pair"), strict=True):
        file.write_text(json.dumps(evaluate_run(run, data)))
    with pytest.raises(ValueError, match=r"of weights that are none of its members'"):
        write_model_card(nested, files)


def test_a_run_twice_is_refused_and_so_is_one_that_would_be_replaced(runs, tmp_path):
    with pytest.raises(ValueError, match=r"run-1 and .*run-1 have the same weights"):
        ensemble_runs([runs[0], runs[1], runs[0]], tmp_path / "made")
    with pytest.raises(FileExistsError, match="would be deleted"):
        ensemble_runs(runs, runs[0], overwrite=True)


def test_its_card_shows_the_members_beside_it_and_takes_figures_of_no_others(data, runs, tmp_path):
    ensemble, files = ensemble_runs(runs, tmp_path / "ensemble"), []
    stranger = train(data, tmp_path / "run-3", seed=3, reading="causal", **QUICK)
    for run in (ensemble, *runs, stranger):
        files.append(tmp_path / f"{run.name}.json")
        files[-1].write_text(json.dumps(evaluate_run(run, data)))
    text = write_model_card(ensemble, files[:3])[0].read_text()
    flowing = " ".join(text.split())
    assert (
        "with hidden size 32, an ensemble: 2 models stand side by side in it and their scores are averaged" in flowing
    )
    assert "Its members alone:" in text
    assert "The same training with other seeds" not in text
    found = [json.loads(file.read_text())["model"] for file in files]
    for seed, metrics in zip((1, 2), found[1:], strict=False):
        assert f"| {seed} | {metrics['ndcg@10']:.4f} | {metrics['recall@10']:.4f} |" in text
    mean = (found[1]["ndcg@10"] + found[2]["ndcg@10"]) / 2
    assert f"| mean ± standard deviation | {mean:.4f} ±" in text
    assert "| seed | 1, 2 |" in text
    assert "hf-bert4rec ensemble run-1 run-2 --output_dir ensemble" in text
    assert "One seed was trained" not in text
    with pytest.raises(
        ValueError, match=r"run-3.json holds metrics of weights that are none of its members', .*of its members"
    ):
        write_model_card(ensemble, [files[0], files[3]])
    with pytest.raises(ValueError, match="of the seed 1 a second time"):
        write_model_card(ensemble, [files[0], files[1], files[1]])
