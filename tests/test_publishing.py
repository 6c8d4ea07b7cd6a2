"""What goes to the Hub and what does not; the code that goes is complete, and needless where this package is installed."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    pipeline,
)

import hf_bert4rec
from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForMaskedLM,
    Bert4RecTokenizer,
    NextItemRecommendationPipeline,
    push_run,
    train,
    training,
)
from hf_bert4rec.model_card import TEMPLATE
from hf_bert4rec.publishing import card_of_repository, hub_files

TOKENS = torch.tensor([[3, 9, 5, 1]])
CARD = TEMPLATE.read_text("utf-8").replace("{{model_id}}", '"run"')
TINY = {"hidden_size": 16, "intermediate_size": 32, "use_cpu": True, "disable_tqdm": True, "max_steps": 1}
RECORD = {
    "format": "hf_bert4rec-run",
    "commands": [
        "hf-bert4rec train data --output_dir run --deepspeed '/home/me/my plan.json' --hub_token hf_secret --seed 3"
    ],
    "options": {"deepspeed": "/home/me/my plan.json", "hub_token": "hf_secret", "separator": "/"},
    "data": {"report": {"log": "C:\\Users\\me\\log.csv", "titles": {"log": "~/films/items.csv"}}},
    "sessions": [{"wall_seconds": 1.5, "hardware": {"cpu": "a processor"}}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with all that gathers in such a folder."""
    folder = tmp_path_factory.mktemp("publishing") / "run"
    torch.manual_seed(0)
    config = Bert4RecConfig(vocab_size=15, hidden_size=16, intermediate_size=32, initializer_range=0.5, reading="both")
    Bert4RecForMaskedLM(config).save_pretrained(folder)
    Bert4RecTokenizer.from_items(list(range(12)), titles={3: "Three"}).save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps(RECORD))
    (folder / "README.md").write_text(CARD + "\n![Curve](validation.png) ![Other](https://example.org/far.png)\n")
    (folder / "checkpoint-5").mkdir()
    for name in ("checkpoint-5/model.safetensors", "optimizer.pt", "training_args.bin", "options.json"):
        (folder / name).write_text("private")
    for name in ("sessions.json", "validation.png", "other.png", "notes.txt", ".env", "train.py", "log.csv"):
        (folder / name).write_text("private")
    return folder


@pytest.fixture(scope="module")
def folder_with_code(run, tmp_path_factory):
    """What a clone of the repository is."""
    folder = tmp_path_factory.mktemp("clone") / "films"
    folder.mkdir()
    for name, content in hub_files(run, with_code=True).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


def test_what_makes_the_model_goes_and_nothing_else(run):
    assert sorted(hub_files(run)) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "run.json",
        "titles.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "validation.png",
    ]


def test_weights_in_parts_go_with_their_index(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "model.safetensors").unlink()
    Bert4RecForMaskedLM.from_pretrained(run).save_pretrained(folder, max_shard_size="4KB")
    parts = {path.name for path in folder.glob("model*.safetensors")}
    assert len(parts) > 1
    assert parts | {"model.safetensors.index.json"} <= hub_files(folder).keys()


def test_the_record_goes_without_local_paths_and_tokens(run):
    record = json.loads(hub_files(run)["run.json"])
    assert record["commands"] == ["hf-bert4rec train data --output_dir run --deepspeed 'my plan.json' --seed 3"]
    assert record["options"] == {"deepspeed": "my plan.json", "separator": "/"}
    assert record["data"] == {"report": {"log": "log.csv", "titles": {"log": "items.csv"}}}
    assert record["sessions"] == RECORD["sessions"]


def test_nothing_that_goes_names_a_folder_of_this_machine(run, folder_with_code):
    for path in folder_with_code.iterdir():
        content = path.read_bytes()
        assert str(run.parent).encode() not in content, path
        assert str(Path(hf_bert4rec.__file__).parent).encode() not in content, path


def test_a_folder_that_is_no_whole_run_is_refused_before_the_hub_is_asked(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        push_run(tmp_path / "none", "films")
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        push_run(folder, "films")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").touch()
    with pytest.raises(ValueError, match="type 'bert', not 'bert4rec'"):
        push_run(folder, "films")


def test_offline_nothing_is_pushed(run):
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        push_run(run, "me/films")


def test_the_code_imports_its_siblings_alone_and_what_transformers_installs(folder_with_code):
    modules = {path.stem: ast.parse(path.read_text("utf-8")) for path in folder_with_code.glob("*.py")}
    assert {"configuration_bert4rec", "modeling_bert4rec_causal", "tokenization_bert4rec"} <= modules.keys()
    installed = {"torch", "numpy", "safetensors", "tokenizers", "transformers", "huggingface_hub"}
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in modules, f"{name}, line {node.lineno}"
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                packages = {imported.split(".")[0] for imported in names} - set(sys.stdlib_module_names)
                assert packages <= installed, f"{name}, line {node.lineno}"


def test_a_folder_with_code_gives_the_installed_classes_and_asks_nobody(run, folder_with_code, monkeypatch):
    monkeypatch.setattr("builtins.input", None)  # where Transformers would ask whether the code is trusted
    assert type(AutoConfig.from_pretrained(folder_with_code)) is Bert4RecConfig
    for auto, own in (
        (AutoModel, hf_bert4rec.Bert4RecModel),
        (AutoModelForMaskedLM, Bert4RecForMaskedLM),
        (AutoModelForCausalLM, hf_bert4rec.Bert4RecForCausalLM),
        (AutoTokenizer, Bert4RecTokenizer),
    ):
        assert type(auto.from_pretrained(folder_with_code)) is own
    recommend = pipeline("next-item-recommendation", model=str(folder_with_code))
    assert type(recommend) is NextItemRecommendationPipeline
    assert recommend([1, 5], top_k=3) == pipeline("next-item-recommendation", model=str(run))([1, 5], top_k=3)


def test_what_the_installed_classes_save_names_no_code(run, folder_with_code, tmp_path):
    AutoModelForMaskedLM.from_pretrained(folder_with_code).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder_with_code).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    for name in ("config.json", "tokenizer_config.json"):
        named = json.loads((folder_with_code / name).read_text())
        assert "auto_map" in named
        assert not {"auto_map", "custom_pipelines"} & json.loads((tmp_path / name).read_text()).keys()
        plain = json.loads(hub_files(folder_with_code)[name])
        assert plain == json.loads((run / name).read_text())  # pushed without code, it names none either


def test_every_class_is_named_for_its_auto_class(folder_with_code):
    config = json.loads((folder_with_code / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_bert4rec.Bert4RecConfig",
        "AutoModel": "modeling_bert4rec.Bert4RecModel",
        "AutoModelForMaskedLM": "modeling_bert4rec.Bert4RecForMaskedLM",
        "AutoModelForCausalLM": "modeling_bert4rec_causal.Bert4RecForCausalLM",
        "AutoModelForSequenceClassification": "modeling_bert4rec_classification.Bert4RecForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_bert4rec_classification.Bert4RecForTokenClassification",
    }
    assert config["custom_pipelines"]["next-item-recommendation"]["pt"] == ["AutoModelForMaskedLM"]


@pytest.mark.parametrize("with_code", [False, True])
def test_the_card_shows_how_to_load_the_repository(with_code):
    card = card_of_repository(CARD, "me/films", with_code)
    before, own, after = CARD.partition(re.search(r"\nimport hf_bert4rec.*?\nanswer", CARD, re.DOTALL)[0])
    assert card.startswith(before) and card.endswith(after) and own not in card
    assert ("import hf_bert4rec" in card) is not with_code
    call = next(line for line in card.splitlines() if line.startswith("recommend = "))
    trusting = ", trust_remote_code=True" if with_code else ""
    assert call == f'recommend = pipeline("next-item-recommendation", model="me/films"{trusting})'
    assert card_of_repository("# Mine\n\nNo example.\n", "me/films", with_code) == "# Mine\n\nNo example.\n"


def test_a_token_that_train_is_given_is_in_no_file(interaction_log, tmp_path):
    train(interaction_log, tmp_path / "run", hub_token="hf_secret", hub_model_id="me/films", **TINY)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes()


def test_a_hub_that_cannot_be_reached_is_found_before_a_training_begins(interaction_log, tmp_path):
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        train(interaction_log, tmp_path / "run", push_to_hub=True, **TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_not_pushed_in_the_end_is_whole(interaction_log, tmp_path, monkeypatch):
    asked = []

    def fail(folder, **hub):
        raise OSError("the Hub is full")

    monkeypatch.setattr(training, "open_repository", lambda **hub: asked.append(hub))
    monkeypatch.setattr(training, "push_run", fail)
    again = f"hf-bert4rec push {tmp_path / 'run'} run repeats what failed: the Hub is full"
    with pytest.raises(OSError, match=re.escape(again)):
        train(interaction_log, tmp_path / "run", push_to_hub=True, hub_revision="next", **TINY)
    assert asked == [{"repo_id": "run", "private": None, "revision": "next", "token": None}]
    assert sorted(hub_files(tmp_path / "run")) == [
        "config.json",
        "model.safetensors",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("option", [{"hub_strategy": "every_save"}, {"hub_always_push": True}])
def test_an_unfinished_run_is_not_pushed(interaction_log, tmp_path, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is .* a run is pushed when it is whole"):
        train(interaction_log, tmp_path / "run", push_to_hub=True, **option)
