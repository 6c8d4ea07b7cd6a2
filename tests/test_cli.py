"""The command line as a person meets it: three commands to recommendations, one clear line for what is wrong."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError
from transformers import TrainingArguments

from hf_bert4rec import Bert4RecConfig, InteractionOptions, SequenceOptions
from hf_bert4rec.cli import build_parser, main
from hf_bert4rec.published_results import DATASETS, KnownDataset

TINY = ["--hidden_size", "16", "--intermediate_size", "32", "--use_cpu", "--disable_tqdm", "--max_steps", "2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A log, its data and a trained run, as `prepare` and `train` leave them."""
    folder = tmp_path_factory.mktemp("cli")
    rows = [(f"u{user}", f"0{(user + step) % 10}", 10 * step + user) for step in range(7) for user in range(10)]
    text = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    (folder / "log.csv").write_text(text)
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"0{n},Film {n}\n" for n in range(10)))
    titles = ["--items_file", str(folder / "items.csv")]
    assert main(["prepare", str(folder / "log.csv"), "--output_dir", str(folder / "data"), *titles]) == 0
    assert main(["train", str(folder / "data"), "--output_dir", str(folder / "run"), *TINY]) == 0
    return folder


def refused(capsys, arguments, message):
    """The command ends with code 2 and one line that says this."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith(f"hf-bert4rec {arguments[0]}: ")
    assert message in captured.err, captured.err


def test_prepare_prints_what_it_kept_and_where(world, capsys, tmp_path):
    assert main(["prepare", str(world / "log.csv"), "--output_dir", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out
    assert "70 events, 10 users, 10 items" in printed
    assert f"Data written to {tmp_path / 'data'}" in printed


def test_evaluate_writes_the_metrics_of_model_popularity_and_markov(world, capsys, tmp_path):
    file = tmp_path / "metrics.json"
    arguments = ["evaluate", str(world / "run"), "--data", str(world / "data"), "--output_file", str(file)]
    assert main(arguments) == 0
    assert "markov" in capsys.readouterr().out
    metrics = json.loads(file.read_text())
    assert metrics["protocol"] == "full-catalogue"
    assert metrics["split"] == "test"
    assert metrics["num_users"] == 10
    assert metrics["cold_targets"] == 0
    assert metrics["markov"]["recall@1"] == 1.0  # the ring: the last item tells the next
    for scorer in ("model", "popularity", "markov"):
        assert {"ndcg@10", "recall@10", "mrr"} < metrics[scorer].keys()
        low, high = metrics[scorer]["intervals"]["ndcg@10"]
        assert low <= metrics[scorer]["ndcg@10"] <= high


def test_split_and_protocol_change_what_is_evaluated(world, tmp_path):
    def metrics(*options):
        arguments = ["evaluate", str(world / "run"), "--data", str(world / "data"), *options]
        assert main([*arguments, "--output_file", str(tmp_path / "metrics.json")]) == 0
        return json.loads((tmp_path / "metrics.json").read_text())

    default = metrics()
    assert metrics("--split", "validation")["split"] == "validation"
    unfiltered = metrics("--protocol", "unfiltered")
    assert unfiltered["protocol"] == "unfiltered"
    assert unfiltered["popularity"]["mrr"] < default["popularity"]["mrr"]
    assert metrics("--protocol", "popularity-100")["model"]["mrr"] != unfiltered["model"]["mrr"]


def test_published_figures_stand_beside_those_of_a_known_data_set(world, capsys, monkeypatch):
    arguments = ["evaluate", str(world / "run"), "--data", str(world / "data")]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "Known for" not in captured.out
    assert captured.err == ""
    assert main([*arguments, "--dataset", "steam"]) == 0
    captured = capsys.readouterr()
    assert "Known for Steam, BERT4Rec's file:" in captured.out
    shown = captured.out[captured.out.index("Known for") :].splitlines()
    assert any(line.split()[:3] == ["BERT4Rec", "0.0734", "0.1361"] for line in shown)
    assert any(line.startswith("-> this model") for line in shown)
    assert len(captured.err.splitlines()) == 2  # the paper's BERT4Rec and its eight others
    assert all(line.startswith("warning: not comparable: ") for line in captured.err.splitlines())
    known = DATASETS | {"ring": KnownDataset("a ring", ((10, 10, 70),))}
    monkeypatch.setattr("hf_bert4rec.known_results.DATASETS", known)
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("Nothing that is known for a ring is comparable.\n")  # but recognised


def test_metrics_are_compared_only_where_they_can_be(world, capsys, tmp_path):
    files = {name: str(tmp_path / f"{name}.json") for name in ("one", "again", "unfiltered")}
    for name, protocol in (("one", "full-catalogue"), ("again", "full-catalogue"), ("unfiltered", "unfiltered")):
        options = ["--protocol", protocol, "--output_file", files[name]]
        assert main(["evaluate", str(world / "run"), "--data", str(world / "data"), *options]) == 0
    capsys.readouterr()
    assert main(["compare-metrics", files["one"], files["again"]]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [files["one"], files["again"]]
    assert rows[0].split()[1:] == rows[1].split()[1:]
    assert main(["compare-metrics", files["one"], files["unfiltered"]]) == 1
    captured = capsys.readouterr()
    assert captured.out == "not comparable: protocol: full-catalogue against unfiltered\n"
    assert captured.err == ""


def test_temporal_evaluation_says_who_was_warm_and_what_other_data_need(world, capsys, tmp_path):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["prepare", str(world / "log.csv"), "--output_dir", data, "--split", "global-time"]) == 0
    assert main(["train", data, "--output_dir", run, *TINY]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--data", data, "--protocol", "temporal"]) == 0
    printed = capsys.readouterr().out
    assert "10 warm items, 0 cold" in printed
    assert "warm targets alone:" in printed
    assert main(["evaluate", run, "--data", data]) == 0
    assert "the data are cut in time" in capsys.readouterr().out


def test_recommend_answers_a_history_a_user_and_nothing_at_all(world, capsys):
    def answer(*options):
        capsys.readouterr()
        assert main(["recommend", str(world / "run"), *options]) == 0
        return json.loads(capsys.readouterr().out)

    assert len(answer("--history", "01", "02", "--top_k", "3")["recommendations"]) == 3
    assert answer("--history", "01", "--top_k", "1")["recommendations"][0]["title"].startswith("Film ")
    user = answer("--user", "u3", "--data", str(world / "data"), "--top_k", "10")
    assert {entry["item_id"] for entry in user["recommendations"]} == {"00", "01", "02"}  # all but the seven seen
    assert answer("--history")["is_popularity"] is True
    assert len(answer("--history", "01", "--top_k", "10", "--keep_seen")["recommendations"]) == 10
    allowed = answer("--history", "01", "--allowed_items", "05", "06", "--denied_items", "06")
    assert [entry["item_id"] for entry in allowed["recommendations"]] == ["05"]


def test_a_file_is_answered_line_by_line_and_a_bad_line_does_not_stop_the_rest(world, capsys, tmp_path):
    lines = ['["01"]', '{"history": [2], "user_id": 7}', "no json", '{"items": []}', "", '"01"', b"\xff[]", "[]"]
    lines += [
        "[" * 100_000,
        r'{"history": ["01"], "user_id": "\ud800"}',
        r'{"history": ["01"], "user_id": "\ud83d\ude00"}',
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    assert main(["recommend", str(world / "run"), "--input_file", str(source), "--output_file", str(target)]) == 0
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer.get("line") for answer in answers] == [None, None, 3, 4, 6, 7, None, 9, 10, None]
    assert answers[1]["user_id"] == 7
    assert answers[1]["num_unknown"] == 1  # 2 is not 02: ids are text
    assert answers[6]["is_popularity"] is True
    assert answers[9]["user_id"] == "\U0001f600"
    reported = capsys.readouterr().err
    assert "line 3: no JSON" in reported
    assert "6 bad lines" in reported


def test_without_an_output_file_the_answers_go_to_standard_output(world, capsys, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('["01"]\n["02"]\n')
    assert main(["recommend", str(world / "run"), "--input_file", str(source), "--top_k", "1"]) == 0
    print("still open")
    *answers, last = capsys.readouterr().out.splitlines()
    assert [len(json.loads(answer)["recommendations"]) for answer in answers] == [1, 1]
    assert last == "still open"


def test_a_full_disk_is_one_line_whoever_runs_into_it(world, capsys, tmp_path, monkeypatch):
    for error in (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ):

        def full(*_, _error=error, **__):
            raise _error

        monkeypatch.setattr("hf_bert4rec.commands.train.train", full)
        refused(capsys, ["train", world / "data", "--output_dir", tmp_path / "run"], "no space left on device")
    monkeypatch.setattr("hf_bert4rec.commands.train.train", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its stack trace
        main(["train", str(world / "data"), "--output_dir", str(tmp_path / "run")])


def test_a_long_file_is_answered_in_order(world, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"history": [f"0{n % 10}"], "n": n}) + "\n" for n in range(2100)))
    assert main(["recommend", str(world / "run"), "--input_file", str(source), "--output_file", str(target)]) == 0
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["n"] for answer in answers] == list(range(2100))
    for n in (3, 1203):
        for one, other in zip(answers[n]["recommendations"], answers[n + 10]["recommendations"], strict=True):
            assert one["item_id"] == other["item_id"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_card_writes_the_page_of_a_run_from_its_metrics(world, capsys, tmp_path):
    metrics, card = tmp_path / "metrics.json", tmp_path / "card.md"
    evaluate = ["evaluate", str(world / "run"), "--data", str(world / "data"), "--output_file", str(metrics)]
    assert main(evaluate) == 0
    capsys.readouterr()
    arguments = ["card", str(world / "run"), "--metrics", str(metrics), "--output_file", str(card)]
    assert main([*arguments, "--dataset", "Ring", "--datasets", '["me/ring"]']) == 0
    assert capsys.readouterr().out.startswith(f"Written {card}")
    assert "# BERT4Rec on Ring\n" in card.read_text()
    assert "- me/ring\n" in card.read_text()
    refused(capsys, ["card", world / "run", "--metrics", world / "items.csv"], "items.csv is no JSON")
    refused(capsys, ["card", world / "run", "--metrics", tmp_path / "none.json"], "There is no file")
    refused(capsys, ["card", tmp_path, "--metrics", metrics], "has no run.json; give the folder of a run")


def test_embed_writes_vectors_whose_product_is_the_score(world, capsys, tmp_path):
    output_dir = tmp_path / "vectors"
    assert main(["embed", str(world / "run"), "--data", str(world / "data"), "--output_dir", str(output_dir)]) == 0
    items = pq.read_table(output_dir / "item_vectors.parquet").to_pylist()
    user = next(
        row for row in pq.read_table(output_dir / "user_vectors.parquet").to_pylist() if row["user_id"] == "u3"
    )
    scores = {
        item["item_id"]: sum(a * b for a, b in zip(user["vector"], item["vector"], strict=True)) + item["bias"]
        for item in items
    }
    capsys.readouterr()
    main(["recommend", str(world / "run"), "--user", "u3", "--data", str(world / "data"), "--keep_seen"])
    answer = json.loads(capsys.readouterr().out)["recommendations"]
    assert {entry["item_id"]: entry["score"] for entry in answer} == pytest.approx(scores, abs=1e-4)
    refused(capsys, ["embed", world / "run", "--output_dir", output_dir], "vectors exists; give another folder")


def test_a_new_log_is_encoded_with_the_vocabulary_of_a_model(world, capsys, tmp_path):
    log = tmp_path / "new.csv"
    log.write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u,{item},{n}\n" for n, item in enumerate(["09", "77", "03", "05"]))
    )
    data = tmp_path / "data"
    options = ["--tokenizer", str(world / "run"), "--min_user_events", "1", "--min_item_events", "1"]
    assert main(["prepare", str(log), "--output_dir", str(data), *options]) == 0
    assert main(["evaluate", str(world / "run"), "--data", str(data)]) == 0
    refused(
        capsys,
        ["prepare", log, "--output_dir", tmp_path / "strict", *options, "--unknown_items", "error"],
        "77",
    )


def test_every_declared_option_is_a_flag_of_train():
    arguments = ["train", "log", "--output_dir", "run"]
    for owner in (Bert4RecConfig, SequenceOptions, InteractionOptions, TrainingArguments):
        for field in dataclasses.fields(owner):
            if field.name in {"output_dir", "vocab_size"} or (
                owner is Bert4RecConfig and field.name not in Bert4RecConfig.__annotations__
            ):
                continue
            value = "true" if field.type in (bool, "bool") else "1"
            if field.name in {"pad_token_id", "mask_token_id", "unk_token_id", "use_cache", "add_cross_attention"}:
                continue
            assert hasattr(build_parser().parse_args([*arguments, f"--{field.name}", value]), field.name)


def test_values_have_the_types_of_their_fields():
    line = (
        "train log --output_dir run --bf16 --learning_rate 3e-4 --max_steps 5 --report_to tensorboard --hidden_size 8"
    )
    options = build_parser().parse_args(
        [*line.split(), "--lr_scheduler_kwargs", '{"num_cycles": 2}', "--head_layer_norm", "no"]
    )
    assert options.bf16 is True
    assert options.learning_rate == 3e-4
    assert options.max_steps == 5
    assert options.report_to == "tensorboard"
    assert options.lr_scheduler_kwargs == {"num_cycles": 2}
    assert options.head_layer_norm is False
    assert options.hidden_size == 8


def test_help_lists_every_command_and_the_options_people_need(capsys):
    for arguments, words in (
        (
            ["--help"],
            ["prepare", "train", "evaluate", "compare-metrics", "recommend", "card", "push", "embed", "demo"],
        ),
        (["evaluate", "--help"], ["temporal", "uniform-100", "as RecBole ranks", "--dataset"]),
        (["train", "--help"], ["--mlm_probability", "--num_train_epochs", "--min_rating", "(default: 0.2)"]),
        (["recommend", "--help"], ["--top_k", "--allowed_items"]),
        (["push", "--help"], ["--private", "--revision", "--commit_message", "--with_code"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)
        assert "--dataloader_num_workers" not in printed
    with pytest.raises(SystemExit):
        main(["train", "--help_all"])
    assert "--dataloader_num_workers" in capsys.readouterr().out


def test_what_is_wrong_with_a_log_is_said_in_one_line(world, capsys, tmp_path):
    out = tmp_path / "data"
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp,rating\nu,i,1,5\nu,j,noon,x\n")
    small = ["--min_user_events", "1", "--min_item_events", "1"]
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "null.csv").write_text("user_id,item_id,timestamp\nu,,1\n")
    for arguments, message in (
        (["prepare", tmp_path / "none.csv", "--output_dir", out], "none.csv"),
        (["prepare", log, "--output_dir", out, "--item_column", "item"], "item_id"),
        (["prepare", tmp_path / "empty.csv", "--output_dir", out], "empty"),
        (["prepare", log, "--output_dir", out, *small], "noon"),
        (["prepare", log, "--output_dir", out, *small, "--time_column", "none", "--min_rating", "3"], "line 3"),
        (["prepare", tmp_path / "null.csv", "--output_dir", out, *small], "line 2"),
        (["prepare", world / "log.csv", "--output_dir", out, "--min_user_events", "100"], "min_user_events"),
        (["prepare", world / "log.csv", "--output_dir", world / "data"], "--overwrite_output_dir"),
    ):
        refused(capsys, arguments, message)
        assert not out.exists()
        assert not (tmp_path / "data.partial").exists()
    assert main(["evaluate", str(world / "run"), "--data", str(world / "data")]) == 0  # what existed is as it was


def test_what_is_wrong_with_a_run_is_said_in_one_line(world, capsys, tmp_path):
    run, data, other = world / "run", world / "data", tmp_path / "other"
    log = tmp_path / "log.csv"
    log.write_text((world / "log.csv").read_text().replace(",00,", ",zz,"))
    assert main(["prepare", str(log), "--output_dir", str(other)]) == 0
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "bert" / name).touch()
    source = tmp_path / "in.jsonl"
    source.write_text("[]\n")
    for arguments, message in (
        (["train", data, "--output_dir", run, *TINY], "--overwrite_output_dir"),
        (
            ["train", data, "--output_dir", tmp_path / "x", *TINY, "--norm_position", "middle"],
            "choose 'post' or 'pre'",
        ),
        (["train", data, "--output_dir", tmp_path / "x", *TINY, "--num_attention_heads", "3"], "not a multiple"),
        (["train", data, "--output_dir", tmp_path / "x", *TINY, "--mlm_probability", "2"], "between 0 and 1"),
        (["train", tmp_path / "none", "--output_dir", tmp_path / "x"], "none"),
        (["evaluate", tmp_path / "none", "--data", data], "There is no folder"),
        (["evaluate", tmp_path / "bert", "--data", data], "type 'bert', not 'bert4rec'"),
        (["evaluate", data, "--data", data], "has no config.json"),
        (["evaluate", run, "--data", run], "data.json"),
        (["evaluate", run, "--data", other], "another vocabulary"),
        (["evaluate", run, "--data", data, "--protocol", "temporal"], "prepare the log with --split global-time"),
        (["compare-metrics", tmp_path / "none.json", source], "There is no file"),
        (["compare-metrics", source, source], "holds no metrics"),
        (["recommend", run, "--user", "u1", "--data", other], "another vocabulary"),
        (["recommend", run, "--user", "nobody", "--data", data], "nobody"),
        (["recommend", run, "--user", "u1"], "--user and --data belong together"),
        (["recommend", run, "--history", "01", "--top_k", "11"], "top_k is 11, but the catalogue has 10 items"),
        (["recommend", run, "--history", "who", "--unknown_items", "error"], "who"),
        (["recommend", run, "--input_file", tmp_path / "none.jsonl"], "none.jsonl"),
        (["recommend", run, "--input_file", source, "--output_file", source], "is the input file"),
        (["evaluate", run, "--data", data, "--output_file", data], "is a folder; give the name of a file"),
    ):
        refused(capsys, arguments, message)
    assert not (tmp_path / "x").exists()
    assert source.read_text() == "[]\n"


def test_no_space_left_is_one_line_and_leaves_the_old_file(world, capsys, tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    file.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(Path, "write_text", full)
    arguments = ["evaluate", str(world / "run"), "--data", str(world / "data"), "--output_file", str(file)]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"hf-bert4rec evaluate: {file}: No space left on device\n"
    monkeypatch.undo()
    assert file.read_text() == "old"


def test_the_module_runs_as_a_command_and_keeps_its_exit_code(tmp_path):
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "hf_bert4rec", "evaluate", "nowhere", "--data", "nowhere"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "hf-bert4rec evaluate: There is no folder nowhere; check the path.\n"
