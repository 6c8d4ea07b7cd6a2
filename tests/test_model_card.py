"""The card of a run says what the run recorded and what was measured, refuses figures of other weights, and its code runs."""

import json
import re
import shutil
import sys

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from hf_bert4rec import evaluate_run, prepare, train, write_model_card
from hf_bert4rec.run_record import hardware

TINY = {"hidden_size": 16, "intermediate_size": 32, "use_cpu": True, "disable_tqdm": True, "num_train_epochs": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two seeds of a run on a ring of items, a run with another option, and the metrics of each."""
    folder = tmp_path_factory.mktemp("card")
    rows = [(f"u{user}", (user + step) % 10, 10 * step + user) for step in range(7) for user in range(60)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    log.to_csv(folder / "films.csv", index=False)
    data = prepare(folder / "films.csv", folder / "data")
    for name, options in {"run": {}, "seed7": {"seed": 7}, "paper": {"recipe": "paper", "seed": 8}}.items():
        train(data, folder / name, **TINY, **{"recipe": "default"} | options)
        for protocol in ("full-catalogue", "unfiltered"):
            found = evaluate_run(folder / name, data, protocol=protocol, with_coverage=True)
            (folder / f"{name}-{protocol}.json").write_text(json.dumps(found))
    other = prepare(log.assign(user_id="x" + log.user_id), folder / "other")
    (folder / "other.json").write_text(json.dumps(evaluate_run(folder / "run", other)))
    return folder


@pytest.fixture
def metrics(world):
    return json.loads((world / "run-full-catalogue.json").read_text())


def card_of(world, *names, output_file, **options):
    """Text of a card that is made of metrics files."""
    files = [world / f"{name}.json" for name in names]
    written = write_model_card(world / "run", files, output_file, **options)
    assert written[0] == output_file
    return output_file.read_text()


def section(text, heading):
    return re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def test_the_hub_reads_model_data_protocol_and_results(world, metrics, tmp_path):
    file = tmp_path / "card.md"
    names = ("run-full-catalogue", "run-unfiltered")
    card_of(world, *names, output_file=file, dataset="Films", license="mit", datasets=["me/films"])
    data = ModelCard.load(file).data
    assert (data.library_name, data.license, data.datasets) == ("transformers", "mit", ["me/films"])
    assert data.model_name == "BERT4Rec on Films"
    assert {"bert4rec", "hf_bert4rec", "next-item-recommendation"} <= set(data.tags)
    results = {(result.dataset_config, result.metric_type): result for result in data.eval_results}
    assert len(results) == 8
    found = results["full-catalogue", "ndcg@10"]
    assert found.metric_value == pytest.approx(metrics["model"]["ndcg@10"], abs=1e-5)
    assert (found.dataset_name, found.dataset_type, found.dataset_split) == ("Films", "films", "test")
    assert results["unfiltered", "ndcg@10"].metric_value != found.metric_value


def test_figures_stand_beside_their_intervals_baselines_and_leads(world, metrics, tmp_path):
    text = section(card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md"), "Results")
    assert "### full-catalogue, test" in text
    assert "60 users;\n0.00% of the targets never occur" in text
    assert f"checksum of the targets `{metrics['conditions']['targets']}`" in text
    assert "Published by others" not in text
    for scorer in ("model", "popularity", "markov"):
        for name in ("ndcg@10", "recall@10", "recall@20", "mrr"):
            low, high = metrics[scorer]["intervals"][name]
            assert f"| {metrics[scorer][name]:.4f} [{low:.4f}, {high:.4f}] |" in text
    low, high = metrics["markov"]["first_minus_this"]["ndcg@10"]
    assert f"| – lead over it, user by user | {low:+.4f} to {high:+.4f} |" in text
    assert text.count("lead over it") == 2


def test_published_figures_stand_beside_those_of_the_same_events(world, metrics, tmp_path):
    metrics["conditions"]["data"] |= {"num_users": 6040, "num_items": 3416, "num_events": 999_611}
    for name in ("targets", "trained_on"):
        del metrics["conditions"][name]
    (tmp_path / "m.json").write_text(json.dumps(metrics))
    write_model_card(world / "run", [tmp_path / "m.json"], tmp_path / "card.md")
    text = section((tmp_path / "card.md").read_text(), "Results").split("Published by others", 1)[1]
    assert "| SASRec, 3,000 negatives | 0.1857 | 0.3159 | " in text
    assert "popularity" not in text  # that is measured, not published


BREAKDOWNS = {
    "by_popularity": ("training_events", "Recall by popularity of the target"),
    "by_history_length": ("history_events", "Recall by length of the history"),
}


@pytest.mark.parametrize("breakdown", BREAKDOWNS)
def test_a_breakdown_has_a_row_for_each_group(world, metrics, tmp_path, breakdown):
    edges, heading = BREAKDOWNS[breakdown]
    text = section(card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md"), heading)
    assert "Under" not in text
    for group in metrics[breakdown]:
        assert f"| {group[edges][0]}–{group[edges][1]} | {group['num_users']} |" in text
        assert f"| {group['model']['recall@10']:.4f} [" in text
    del metrics[breakdown]
    (tmp_path / "less.json").write_text(json.dumps(metrics))
    files = [tmp_path / "less.json", world / "run-unfiltered.json"]
    write_model_card(world / "run", files, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert "Under unfiltered, test.\n" in section(text, heading)  # the file that tells more
    assert "older version" not in text


def test_coverage_has_a_row_for_each_scorer(world, metrics, tmp_path):
    text = section(card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md"), "Coverage of the catalogue")
    assert "| first 1 | first 5 | first 10 | first 20 |" in text
    for name, words in (("model", "**BERT4Rec**"), ("popularity", "popularity"), ("markov", "Markov counts")):
        shares = " | ".join(f"{metrics[name][f'coverage@{k}']:.1%}" for k in (1, 5, 10, 20))
        assert f"| {words} | {shares} |" in text


def test_the_training_section_is_the_record(world, tmp_path):
    record = json.loads((world / "run" / "run.json").read_text())
    text = section(card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md"), "Training")
    for command in record["commands"]:
        assert f"\n{command}\n" in text
    assert f"| data, SHA-256 | `{record['data_hash']}` |" in text
    assert "| seed | 42 |" in text
    assert f"torch {record['versions']['torch']}" in text
    assert hardware()["cpu"] in text
    assert f"{record['cpu_seconds'] / 60:.1f} CPU minutes" in text
    for entry in record["log_history"]:
        if "eval_ndcg@10" in entry:
            assert re.search(rf"\| {entry['step']}( \(kept\))? \| .* \| {entry['eval_ndcg@10']:.4f} \|", text)
    assert f"| {record['best_step']} (kept) |" in text
    given = section(card_of(world, "run-full-catalogue", output_file=tmp_path / "b.md", command="make it"), "Training")
    assert "```bash\nmake it\n```" in given


def test_the_training_section_names_what_is_not_by_default(world, tmp_path):
    def row(name, text):
        return re.search(rf"^\| {name} \| (.*) \|$", text, re.MULTILINE)[1].split(", ")

    text = card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md")
    assert row("recipe", text) == [
        "default",
        "but for `hidden_size`",
        "`intermediate_size`",
        "`num_train_epochs`",
    ]
    fields = ["`intermediate_size=32`", "`norm_position='pre'`", "`position_origin='newest'`", "`reading='both'`"]
    fields += ["`embedding_layer_norm=False`", "`scale_embedding=True`", "`head_transform=False`"]
    assert sorted(row("architecture", text)) == sorted(fields)
    run = shutil.copytree(world / "run", tmp_path / "run")
    sparse = {"linear_initializer": "xavier", "value_initializer": "identity"}
    config = json.loads((run / "config.json").read_text()) | sparse
    (run / "config.json").write_text(json.dumps(config))
    write_model_card(run, [world / "run-full-catalogue.json"], tmp_path / "card.md")
    added = set(row("architecture", (tmp_path / "card.md").read_text())) - set(fields)
    assert added == {"`linear_initializer='xavier'`", "`value_initializer='identity'`"}


def test_that_seen_items_are_forbidden_is_said_once(world, metrics, tmp_path):
    def told(protocol):
        (tmp_path / "m.json").write_text(json.dumps(metrics | {"protocol": protocol}))
        write_model_card(world / "run", [tmp_path / "m.json"], tmp_path / "card.md")
        return section((tmp_path / "card.md").read_text(), "Results")

    text = told("full-catalogue")
    assert text.count("forbidden") == 1
    assert "occur in training. A tie counts half an item, events of equal time stand" in text
    assert "Items of the history are forbidden. A tie counts" in told("temporal")
    assert "Items of the history are" not in told("popularity-100")


@pytest.mark.parametrize("country", ["France", None])
def test_energy_is_told_where_it_was_measured_to_people_and_to_the_hub(world, tmp_path, country):
    run = shutil.copytree(world / "run", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    energy = {"kwh": 0.0123456, "emissions_kg": 0.00069136, "seconds": 90.0, "tracker": "codecarbon 3.3.2"}
    (run / "run.json").write_text(json.dumps(record | {"energy": energy | {"country": country}}))
    write_model_card(run, [world / "run-full-catalogue.json"], tmp_path / "card.md")
    place = "the electricity of France" if country else "the world's average electricity"
    expected = f"| energy | 0.0123 kWh, with {place} 0.691 g of CO₂; of the whole machine in 1.5 minutes, estimated by"
    assert f"{expected} codecarbon 3.3.2 |" in (tmp_path / "card.md").read_text()
    told = ModelCard.load(tmp_path / "card.md").data.to_dict()["co2_eq_emissions"]
    assert (told["emissions"], told["training_type"]) == (0.6914, "pre-training")
    assert told["hardware_used"].startswith(hardware()["cpu"])
    assert told.get("geographical_location") == country
    assert told["source"] == "codecarbon 3.3.2" + ("" if country else ", at the world's average electricity")
    plain = card_of(world, "run-full-catalogue", output_file=tmp_path / "plain.md")
    assert "co2" not in plain and "| energy |" not in plain


def test_other_seeds_give_a_spread_and_one_seed_is_said_to_be_one(world, tmp_path):
    file = tmp_path / "card.md"
    assert "One seed was trained" in section(card_of(world, "run-full-catalogue", output_file=file), "Limits")
    text = card_of(world, "run-full-catalogue", "seed7-full-catalogue", output_file=file)
    assert "One seed was trained" not in text
    one, other = (
        json.loads((world / f"{name}-full-catalogue.json").read_text())["model"]["ndcg@10"]
        for name in ("run", "seed7")
    )
    assert f"| 42 | {one:.4f} |" in text
    assert f"| 7 | {other:.4f} |" in text
    spread = abs(one - other) / 2**0.5
    assert f"| mean ± standard deviation | {(one + other) / 2:.4f} ± {spread:.4f} |" in text


def test_the_code_of_the_card_runs(world, tmp_path, monkeypatch, capsys):
    text = card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md")
    code = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    monkeypatch.chdir(world)
    exec(compile(code, "card.md", "exec"), {"__name__": "card"})
    answers = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 5
    assert all(0 <= int(item) <= 9 for item, _ in answers)
    assert 'model="me/model"' in card_of(
        world, "run-full-catalogue", output_file=tmp_path / "c.md", model_id="me/model"
    )


def test_limits_are_those_of_the_figures_and_one_of_ones_own(world, metrics, tmp_path):
    text = section(
        card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md", limits="It is a toy."), "Limits"
    )
    assert "It knows the 10 items of its log" in text
    assert "Leave-one-out trains on events of other users" in text
    assert "never occur in training and cannot be found" not in text
    assert "\n- It is a toy.\n" in text
    cold = metrics | {
        "cold_targets": 0.125,
        "by_popularity": [rare(metrics, [0, 0], 0.0), rare(metrics, [3, 9], 0.75)],
    }
    (tmp_path / "cold.json").write_text(json.dumps(cold))
    write_model_card(world / "run", [tmp_path / "cold.json"], tmp_path / "card.md")
    text = section((tmp_path / "card.md").read_text(), "Limits")
    assert "12.5% of the targets never occur in training and cannot be found" in text
    assert "Recall@10 is 0.000 for targets with 0 training events and 0.750 for those with 3–9" in text


def rare(metrics, edges, recall):
    group = json.loads(json.dumps(metrics["by_popularity"][0]))
    group["model"]["recall@10"] = recall
    return group | {"training_events": edges, "num_users": 50}


def test_by_default_the_card_is_the_readme_of_the_run_with_its_pictures(world):
    pytest.importorskip("matplotlib")
    written = write_model_card(world / "run", [world / "run-full-catalogue.json"])
    pictures = ["validation.png", "cutoffs.png", "popularity.png", "history.png", "coverage.png"]
    assert [path.name for path in written] == ["README.md", *pictures]
    text = written[0].read_text()
    for picture in written[1:]:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert text.count(f"]({picture.name})") == 1
    assert "no pictures" not in text
    before = [path.read_bytes() for path in written]
    assert write_model_card(world / "run", [world / "run-full-catalogue.json"]) == written
    assert [path.read_bytes() for path in written] == before


def test_pictures_of_cards_in_one_folder_have_names_of_their_own(world, tmp_path):
    pytest.importorskip("matplotlib")
    written = write_model_card(world / "run", [world / "run-full-catalogue.json"], tmp_path / "films.md")
    names = ("validation", "cutoffs", "popularity", "history", "coverage")
    assert [path.name for path in written] == ["films.md", *(f"films-{name}.png" for name in names)]


def test_without_matplotlib_the_card_has_its_tables_and_says_so(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = card_of(world, "run-full-catalogue", output_file=tmp_path / "card.md")
    assert [path.name for path in tmp_path.iterdir()] == ["card.md"]
    assert "This card has no pictures. Plots need matplotlib: pip install 'hf_bert4rec[plots]'" in text
    assert "| training events of the target | users |" in text
    assert ".png" not in text


def test_a_run_and_metrics_of_an_older_version_make_a_card_that_says_what_is_missing(world, metrics, tmp_path):
    run = shutil.copytree(world / "run", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    counted = ("wall_seconds", "cpu_seconds", "sessions", "hardware")
    for name in ("commands", "options", "seed", "data_hash", "num_parameters", *counted):
        del record[name]
    (run / "run.json").write_text(json.dumps(record))
    for name in ("run", "data_hash", "by_popularity", "by_history_length"):
        del metrics[name]
    for scorer in ("model", "popularity", "markov"):
        metrics[scorer] = {name: value for name, value in metrics[scorer].items() if not name.startswith("coverage")}
    (tmp_path / "old.json").write_text(json.dumps(metrics))
    write_model_card(run, [tmp_path / "old.json"], tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert (
        "which did not record: the exact commands; a hash of the data; the time that training took; the machine; the number of"
        in text
    )
    assert (
        "those of these weights; recall by the popularity of the target; recall by the length of the history." in text
    )
    assert f"{metrics['model']['ndcg@10']:.4f}" in text
    for absent in ("## Recall by", "## Coverage", "```bash", "SHA-256", "None"):
        assert absent not in text
    new = card_of(world, "run-full-catalogue", output_file=tmp_path / "new.md")
    assert "older version" not in new and "sums are rounded in another order" in new


def test_time_that_nobody_counted_is_missing(world, tmp_path):
    run = shutil.copytree(world / "run", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["sessions"][0]["first_step"] = 1200
    (run / "run.json").write_text(json.dumps(record))
    write_model_card(run, [world / "run-full-catalogue.json"], tmp_path / "card.md")
    assert "which did not record: the time of the first 1,200 steps." in (tmp_path / "card.md").read_text()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["seed7-full-catalogue"],
            "None of the metrics files is of the weights in .*run; write one with hf-bert4rec evaluate",
        ),
        (["run-full-catalogue", "paper-full-catalogue"], "of a run with another recipe, not those of"),
        (["run-full-catalogue", "run-full-catalogue"], "is a second file for full-catalogue and test"),
        (["run-full-catalogue", "seed7-full-catalogue", "seed7-full-catalogue"], "of the seed 7 a second time"),
        (["other"], r"other.json was measured on other data \([0-9a-f]{12}\) than the run was trained on"),
    ],
)
def test_metrics_that_are_not_of_this_run_are_refused_in_one_line(world, tmp_path, names, message):
    with pytest.raises(ValueError, match=message) as caught:
        card_of(world, *names, output_file=tmp_path / "card.md")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_metrics_of_changed_weights_are_refused(world, tmp_path):
    run = shutil.copytree(world / "run", tmp_path / "run")
    shutil.copy(world / "paper" / "model.safetensors", run)
    with pytest.raises(ValueError, match="holds metrics of other weights with the seed 42, not those of"):
        write_model_card(run, [world / "run-full-catalogue.json"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "m.json is no JSON"),
        ("[]", "m.json holds no metrics"),
        ('{"protocol": "full-catalogue", "split": "test", "num_users": 1}', "m.json holds no metrics of a model"),
        ('{"protocol": "own", "split": "test", "num_users": 1, "model": {"intervals": {}}}', "under a known protocol"),
    ],
)
def test_a_file_that_holds_no_metrics_is_refused_in_one_line(world, tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        write_model_card(world / "run", [tmp_path / "m.json"])
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="There is no folder nowhere; check the path"):
        write_model_card("nowhere", [tmp_path / "m.json"])


def test_a_causal_model_is_called_by_its_name(world, tmp_path):
    run = train(world / "data", tmp_path / "run", causal_probability=1.0, **TINY)
    (tmp_path / "m.json").write_text(json.dumps(evaluate_run(run, world / "data")))
    write_model_card(run, [tmp_path / "m.json"], tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert "# SASRec on films\n" in text
    assert "| samples | 100% predict each item from those before it |" in text
    assert "Kang and McAuley" in text


def test_a_model_of_both_objectives_keeps_its_name_whatever_its_reading(world, tmp_path):
    run = train(world / "data", tmp_path / "run", causal_probability=0.5, **TINY)
    record = json.loads((run / "run.json").read_text())
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"reading": "causal"}))
    record["readings"] = {"both": 0.1, "causal": 0.25, "masked": 0.125}
    (run / "run.json").write_text(json.dumps(record))
    (tmp_path / "m.json").write_text(json.dumps(evaluate_run(run, world / "data")))
    write_model_card(run, [tmp_path / "m.json"], tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert "# BERT4Rec on films\n" in text
    assert "| reading | causal, best on validation (both 0.1000, causal 0.2500, masked 0.1250) |" in text


@pytest.mark.parametrize(("name", "base_model"), [("someone/films", "someone/films"), ("run", None)])
def test_the_card_of_a_continued_model_names_what_it_was(world, tmp_path, name, base_model):
    shutil.copytree(world / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["start"] = {"model": name, "hub_model": base_model}
    record["start"] |= {"num_known_items": 1010, "num_new_items": 2, "num_retired_items": 3}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    file, *_ = write_model_card(tmp_path / "run", [world / "run-full-catalogue.json"])
    assert f"| continued from | {name}; items: 1,010 known, 2 new, 3 retired |" in section(
        file.read_text(), "Training"
    )
    assert ModelCard.load(file).data.base_model == base_model
