"""An export gives what the model gives, tells without this package how it is to be used, and is whole or absent."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hf_bert4rec.export
from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecTokenizer,
    ExportedScorer,
    compare,
    evaluate_run,
    prepare,
    write_export,
)
from hf_bert4rec.cli import main
from hf_bert4rec.ranking import top_k_items
from hf_bert4rec.scoring import ModelScorer

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "09_deployment.md").read_text("utf-8")
NUM_ITEMS, WINDOW = 10, 6
MODERN = {"reading": "both", "norm_position": "pre", "position_origin": "newest", "scale_embedding": True}


def needs_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX exports need: pip install 'hf_bert4rec[export]'")


def tiny_model(model_class=Bert4RecForMaskedLM, **options):
    """Random throughout: a bias or a norm that stayed as it begins would hide that it is missing."""
    sizes = {
        "vocab_size": NUM_ITEMS + 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": WINDOW,
    }
    torch.manual_seed(0)
    model = model_class(Bert4RecConfig(**sizes, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def random_histories(num_histories=12, longest=WINDOW + 4):
    generator = np.random.default_rng(0)
    lengths = [0, 1, longest, *generator.integers(0, longest, num_histories - 3)]
    return [generator.integers(3, NUM_ITEMS + 3, length) for length in lengths]


def scores_of(scorer, histories):
    return scorer(None, histories)(0, NUM_ITEMS + 3)


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data")


@pytest.fixture
def tokenizer():
    return Bert4RecTokenizer.from_items([f"i{item}" for item in range(NUM_ITEMS)])


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A model, and what each kind of export made of it."""
    folder = tmp_path_factory.mktemp("exports")
    model, tokenizer = tiny_model(**MODERN), Bert4RecTokenizer.from_items(range(100, 100 + NUM_ITEMS))
    write_export(model, tokenizer, folder / "torch", format="torch", num_histories=8)
    return model, folder


@pytest.fixture(scope="module")
def onnx_exports(exports):
    needs_onnx()
    model, folder = exports
    tokenizer = Bert4RecTokenizer.from_items(range(100, 100 + NUM_ITEMS), titles={103: "Löwe"})
    write_export(model, tokenizer, folder / "onnx", num_histories=8)
    write_export(model, tokenizer, folder / "int8", quantize="int8", num_histories=8)
    return model, folder


def check_scorer_of(folder, model):
    """The exported folder, in both of its outputs, for batches and lengths of all kinds."""
    scorer, reference, histories = ExportedScorer(folder), ModelScorer(model), random_histories()
    for some in (histories, histories[:1], histories[1:2], [histories[0]] * 3, histories[2:3]):
        torch.testing.assert_close(scores_of(scorer, some), scores_of(reference, some), atol=1e-4, rtol=0)
    torch.testing.assert_close(scorer.user_vectors(histories), reference.user_vectors(histories), atol=1e-4, rtol=0)
    assert scorer.item_ids == list(range(100, 100 + NUM_ITEMS))
    assert scorer(None, histories)(4, 7).shape == (len(histories), 3)


def test_a_torch_export_scores_batches_and_lengths_of_all_kinds(exports):
    check_scorer_of(exports[1] / "torch", exports[0])


def test_blocks_that_rotate_and_ensembles_are_exported_too(tmp_path):
    model = tiny_model(**MODERN, backbone="modernbert", num_members=2)
    tokenizer = Bert4RecTokenizer.from_items(range(100, 110))
    write_export(model, tokenizer, tmp_path / "export", format="torch", num_histories=8)
    check_scorer_of(tmp_path / "export", model)


def test_an_onnx_export_scores_batches_and_lengths_of_all_kinds(onnx_exports):
    check_scorer_of(onnx_exports[1] / "onnx", onnx_exports[0])


def test_batches_that_are_read_in_parts_give_the_same_scores(exports, monkeypatch):
    scorer, histories = ExportedScorer(exports[1] / "torch"), random_histories()
    expected = scores_of(scorer, histories)
    monkeypatch.setattr("hf_bert4rec.exported_scorer.TOKENS_AT_ONCE", 12)
    torch.testing.assert_close(scores_of(scorer, histories), expected, atol=1e-5, rtol=0)


def test_the_causal_sibling_and_a_model_in_half_precision_are_exported_and_left_as_they_are(tokenizer, tmp_path):
    model = tiny_model(Bert4RecForCausalLM, num_hidden_layers=1).to(torch.bfloat16)
    model.set_attn_implementation("eager")
    model.train()
    facts = write_export(model, tokenizer, tmp_path / "export", format="torch", num_histories=8)
    assert facts["check"]["max_score_difference"] <= 1e-4
    assert (model.dtype, model.config._attn_implementation, model.training) == (torch.bfloat16, "eager", True)
    assert ExportedScorer(tmp_path / "export").item_ids == tokenizer.item_ids  # text stays text
    check = ExportedScorer(tmp_path / "export"), ModelScorer(model.float())
    torch.testing.assert_close(*(scores_of(scorer, random_histories()) for scorer in check), atol=1e-4, rtol=0)


def test_a_torch_export_needs_nothing_of_ours_and_nothing_of_transformers(exports):
    program = """if True:
        import sys
        sys.modules["hf_bert4rec"] = sys.modules["transformers"] = None
        import torch
        graph = torch.export.load(sys.argv[1]).module()
        print(graph(torch.tensor([[3, 4, 1]]), torch.ones((1, 3), dtype=torch.long))[0][0].tolist())
    """
    path = str(exports[1] / "torch" / "model.pt2")
    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout
    expected = scores_of(ModelScorer(exports[0]), [np.array([3, 4])])[0].tolist()
    np.testing.assert_allclose(json.loads(found), expected, atol=1e-4)


def test_the_lines_of_the_docs_rank_with_an_onnx_export_and_nothing_of_ours(onnx_exports, tmp_path):
    model, folder = onnx_exports
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (lines,) = (block for block in blocks if "onnxruntime" in block)
    known = lines.replace('("f001", "f002")', "(103, 107)")
    assert known != lines
    block = 'import sys\nsys.modules["hf_bert4rec"] = sys.modules["transformers"] = sys.modules["torch"] = None\n'
    (tmp_path / "export").symlink_to(folder / "onnx")
    command = [sys.executable, "-c", block + known]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    history = np.array([6, 10])
    best, _ = top_k_items(ModelScorer(model)(None, [history]), 8, vocab_size=NUM_ITEMS + 3, seen=[history])
    assert json.loads(found)[:8] == [token + 97 for token in best[0].tolist()]


def test_items_stand_at_the_place_of_their_token_in_their_own_type_with_their_titles(onnx_exports):
    folder = onnx_exports[1]
    items = json.loads((folder / "onnx" / "items.json").read_text("utf-8"))
    assert items["item_ids"] == [None] * 3 + list(range(100, 110))
    assert items["titles"] == [None] * 6 + ["Löwe"] + [None] * 6
    assert json.loads((folder / "torch" / "items.json").read_text("utf-8"))["titles"] is None
    facts = json.loads((folder / "onnx" / "export.json").read_text("utf-8"))
    assert (facts["max_position_embeddings"], facts["pad_token_id"], facts["mask_token_id"]) == (WINDOW, 0, 1)
    assert "the newest 5 at most, then token 1" in facts["input_ids"]


def test_int8_is_other_and_close(onnx_exports):
    folder = onnx_exports[1]
    exact, small = (scores_of(ExportedScorer(folder / name), random_histories()) for name in ("onnx", "int8"))
    assert 1e-4 < (exact - small).abs().max() < 0.1 * exact.abs().max()
    facts = json.loads((folder / "int8" / "export.json").read_text("utf-8"))
    assert facts["quantize"] == "int8"
    assert 0.5 < facts["check"]["top_10_overlap"] <= 1
    assert sorted(path.name for path in (folder / "int8").iterdir()) == ["export.json", "items.json", "model.onnx"]
    import onnx

    operators = [node.op_type for node in onnx.load(folder / "int8" / "model.onnx").graph.node]
    assert not {"Gemm", "FusedGemm"} & set(operators)  # each product with weights is one of integers
    # Two readings of two blocks of six products, less the three that both share, and three in the head.
    assert operators.count("MatMulInteger") == 2 * 2 * 6 - 3 + 3


def test_an_export_is_evaluated_as_its_model_is(data, tmp_path):
    model = tiny_model(num_hidden_layers=1)
    own = Bert4RecTokenizer.from_items(data.item_ids.to_pylist())
    write_export(model, own, tmp_path / "export", format="torch", data=data, num_histories=4)
    expected, found = compare(model, data), evaluate_run(tmp_path / "export", data)
    assert found["model"] == expected["model"]
    assert found["run"].keys() == {"weights_hash", "format", "quantize"}
    assert found["run"]["format"] == "torch"
    items = json.loads((tmp_path / "export" / "items.json").read_text("utf-8"))
    items["item_ids"][5:7] = reversed(items["item_ids"][5:7])
    (tmp_path / "export" / "items.json").write_text(json.dumps(items))
    with pytest.raises(ValueError, match="was prepared with another vocabulary"):
        evaluate_run(tmp_path / "export", data)


def test_the_check_reads_the_histories_of_the_data_and_says_so(data, tokenizer, tmp_path, monkeypatch):
    read = []
    check = hf_bert4rec.export.check_scores
    monkeypatch.setattr(
        hf_bert4rec.export, "check_scores", lambda *arguments: read.append(arguments[2]) or check(*arguments)
    )
    model, options = tiny_model(num_hidden_layers=1), {"format": "torch", "overwrite": True}
    facts = write_export(model, tokenizer, tmp_path / "export", data=data, num_histories=4, **options)
    assert facts["check"]["histories"] == f"4 users of {data.folder} and 3 generated histories"
    for history, user in zip(read[0], (0, 3, 6, 9), strict=False):
        np.testing.assert_array_equal(history, data.history(user) + 3)
    assert [len(history) for history in read[0][4:]] == [0, 1, WINDOW + 1]
    facts = write_export(model, tokenizer, tmp_path / "export", num_histories=5, **options)
    assert facts["check"]["histories"] == "5 generated histories"
    assert json.loads((tmp_path / "export" / "export.json").read_text("utf-8")) == facts


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_graph_that_is_not_the_model_leaves_no_folder_and_the_old_one_untouched(
    tokenizer, tmp_path, monkeypatch, is_replaced
):
    folder = tmp_path / "export"
    if is_replaced:
        folder.mkdir()
        (folder / "old").write_text("kept")
    exported = hf_bert4rec.export._exported

    def damaged(model):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.bert4rec.embeddings.position_embeddings.weight.mul_(1.1)
        return exported(other)

    monkeypatch.setattr(hf_bert4rec.export, "_exported", damaged)
    with pytest.raises(
        ValueError, match=r"gives other scores than the model: by up to .* 0.0001 is allowed\. No folder"
    ):
        write_export(
            tiny_model(num_hidden_layers=1), tokenizer, folder, format="torch", num_histories=4, overwrite=is_replaced
        )
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == (
        [Path("export"), Path("export/old")] if is_replaced else []
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format is 'tflite'; choose 'onnx' or 'torch'"),
        ({"quantize": "int4"}, "quantize is 'int4'; choose None or 'int8'"),
        ({"index": "ivf"}, "index is 'ivf'; choose None or 'flat' or 'hnsw'"),
        ({"format": "torch", "quantize": "int8"}, "quantize 'int8' needs the format 'onnx', found 'torch'"),
        ({"num_histories": 0}, "num_histories is 0; give at least 1"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_before_anything_is_written(tokenizer, tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_export(tiny_model(), tokenizer, tmp_path / "export", **options)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_other_items_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The model has 10 items, its tokenizer 2; give the two that belong together"):
        write_export(tiny_model(), Bert4RecTokenizer.from_items(["a", "b"]), tmp_path / "export", format="torch")


def test_what_is_not_installed_is_named_with_its_pip_command(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_bert4rec.export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=re.escape("needs onnxscript: pip install 'hf_bert4rec[export]'")):
        write_export(tiny_model(), tokenizer, tmp_path / "export")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=re.escape("needs faiss: pip install 'hf_bert4rec[faiss]'")):
        write_export(tiny_model(), tokenizer, tmp_path / "export", format="torch", index="flat")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_export_is_refused(tmp_path, exports):
    with pytest.raises(FileNotFoundError, match=r"has no export.json; give the folder that hf-bert4rec export wrote"):
        ExportedScorer(tmp_path)
    (tmp_path / "export.json").write_text('{"kind": "other"}')
    with pytest.raises(ValueError, match="kind is not 'hf_bert4rec-export'"):
        ExportedScorer(tmp_path)
    (tmp_path / "export.json").write_text((exports[1] / "torch" / "export.json").read_text("utf-8"))
    with pytest.raises(FileNotFoundError, match=r"has no model.pt2; export the model again"):
        ExportedScorer(tmp_path)


def test_the_command_exports_what_evaluate_then_reads(data, tokenizer, tmp_path, capsys):
    tiny_model(num_hidden_layers=1).save_pretrained(tmp_path / "run")
    Bert4RecTokenizer.from_items(data.item_ids.to_pylist()).save_pretrained(tmp_path / "run")
    run, folder = str(tmp_path / "run"), str(tmp_path / "export")
    command = ["export", run, "--output_dir", folder, "--format", "torch"]
    assert main([*command, "--data", str(data.folder), "--num_histories", "4"]) == 0
    printed = capsys.readouterr().out
    assert f"Checked on 4 users of {data.folder} and 3 generated histories: scores within " in printed
    assert printed.endswith(f"Written {folder}\n")
    found = {}
    for name in (run, folder):
        assert main(["evaluate", name, "--data", str(data.folder), "--output_file", str(tmp_path / "file")]) == 0
        found[name] = json.loads((tmp_path / "file").read_text("utf-8"))
    assert found[run]["model"] == found[folder]["model"]
    capsys.readouterr()
    Bert4RecTokenizer.from_items(tokenizer.item_ids[::-1]).save_pretrained(run)  # the same items in another order
    for arguments, message in (
        (command, f"{folder} exists; give another folder, or --overwrite_output_dir (overwrite=True) to replace it."),
        (
            [*command, "--quantize", "int8"],
            "quantize 'int8' needs the format 'onnx', found 'torch'; change one of the two.",
        ),
        ([*command, "--data", str(data.folder)], "was prepared with another vocabulary"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("hf-bert4rec export: ") and message in error and error.count("\n") == 1
