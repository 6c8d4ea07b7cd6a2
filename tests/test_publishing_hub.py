"""The real client of the Hub against a Hub on this machine: pushed by one process, loaded by one that lacks this package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from local_hub import LocalHub

from hf_bert4rec import Bert4RecForMaskedLM

ROOT = Path(__file__).resolve().parent.parent

# Has the package and a token. Answers by name are what a test looks at.
OWNER = """
import contextlib, io, json, os, shutil, sys
import torch
from huggingface_hub import constants
from transformers import AutoModelForMaskedLM, AutoTokenizer, Trainer, TrainingArguments, pipeline
from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, push_run, train
from hf_bert4rec.cli import main

def run(folder, seed, titles=None):
    torch.manual_seed(seed)
    config = Bert4RecConfig(vocab_size=43, hidden_size=16, intermediate_size=32, initializer_range=0.5, reading="both")
    model, tokenizer = Bert4RecForMaskedLM(config).eval(), Bert4RecTokenizer.from_items(list(range(40)), titles=titles)
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    with open(f"{folder}/README.md", "w") as card:
        card.write("---\\ntags:\\n- bert4rec\\n---\\n# Films\\n")
    with open(f"{folder}/run.json", "w") as record:
        json.dump({"format": "hf_bert4rec-run", "options": {"deepspeed": "/home/me/plan.json"}}, record)
    return model, tokenizer

def said(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["push", *arguments])
    return [code, out.getvalue(), err.getvalue()]

def scores(model):
    return model(tokens, logits_to_keep=tokens == 1).logits[0].tolist()

tokens = torch.tensor([[3, 9, 5, 1]])
answers = {}
model, tokenizer = run("run", 0, titles={3: "Three"})
other, _ = run("other", 1)
for found in (model, other):
    answers.setdefault("scores", []).append(scores(found))
answers["answer"] = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)([1, 5], top_k=3)
commit = push_run("run", "films", with_code=True)
answers["commit"], answers["url"] = commit.oid, str(commit.repo_url)
answers["told"] = said("other", "films", "--revision", "next", "--commit_message", "Other weights", "--with_code")
answers["private"] = said("run", "me/secret", "--private")
loaded = AutoModelForMaskedLM.from_pretrained("me/films")
answers["own"] = [type(loaded).__module__, type(AutoTokenizer.from_pretrained("me/films")).__module__, scores(loaded)]
answers["own_answer"] = pipeline("next-item-recommendation", model="me/films")([1, 5], top_k=3)
shutil.copytree("run", "again")
os.remove("again/titles.json")
answers["again"] = [said("again", "me/replaced", "--with_code"), said("run", "me/replaced")]
os.remove("again/README.md")
answers["again"].append(said("again", "me/replaced"))

model.push_to_hub("stock"), tokenizer.push_to_hub("stock")
arguments = {"use_cpu": True, "report_to": "none", "max_steps": 2, "save_steps": 1, "disable_tqdm": True}
arguments |= {"push_to_hub": True, "hub_model_id": "me/trained", "hub_private_repo": True}
rows = [{"input_ids": [3, 9, 5, 1], "labels": [-100, -100, -100, 7]}] * 8
trainer = Trainer(other, TrainingArguments("trained", **arguments), train_dataset=rows, processing_class=tokenizer)
trainer.train()
trainer.push_to_hub()
answers["trained"] = scores(other.eval())

with open("log.csv", "w") as log:
    rows = [f"u{user},i{(user + step) % 10},{10 * step + user}" for step in range(7) for user in range(10)]
    log.write("\\n".join(["user_id,item_id,timestamp", *rows]))
tiny = {"hidden_size": 16, "intermediate_size": 32, "use_cpu": True, "disable_tqdm": True, "max_steps": 1}
train("log.csv", "run of train", push_to_hub=True, hub_model_id="me/fresh", hub_token="writer", hub_private_repo=True, **tiny)

answers["refused"] = {
    "foreign": said("run", "you/films"),
    "id": said("run", "me/my films"),
    "path": said("run", "a/b/c"),
    "public": said("run", "me/films", "--private", "--revision", "unheard_of"),
    "full": said("run", "me/films", "--commit_message", "too large"),
}
os.environ["HF_TOKEN"] = "wrong"
answers["refused"]["token"] = said("run", "me/films")
del os.environ["HF_TOKEN"]
answers["refused"]["no token"] = said("run", "me/films")
constants.ENDPOINT = "http://127.0.0.1:9"
answers["refused"]["network"] = said("run", "me/films")
print("ANSWERS", json.dumps(answers))
"""

# Transformers, torch and what they install; no package of ours, no token.
STRANGER = """
import json, sys
for absent in ("hf_bert4rec", "pandas", "pyarrow", "duckdb", "accelerate", "datasets"):
    sys.modules[absent] = None  # as if it were not installed
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

TRUST = {"trust_remote_code": True}
tokens = torch.tensor([[3, 9, 5, 1]])

def scores(model):
    return model(tokens, logits_to_keep=tokens == 1).logits[0].tolist()

def everything(folder, **options):
    options |= TRUST
    config = AutoConfig.from_pretrained(folder, **options)
    model = AutoModelForMaskedLM.from_pretrained(folder, **options)
    causal = AutoModelForCausalLM.from_pretrained(folder, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    encoder = AutoModel.from_pretrained(folder, **options)
    recommend = pipeline("next-item-recommendation", model=folder, **options)
    unnamed = pipeline(model=folder, **options)
    return model, tokenizer, recommend, {
        "classes": [type(found).__name__ for found in (config, encoder, model, causal, tokenizer, recommend, unnamed)],
        "modules": [type(found).__module__.split(".")[0] for found in (config, encoder, model, causal, tokenizer)],
        "scores": scores(model),
        "causal": scores(causal),
        "answers": [recommend([1, 5], top_k=3), unnamed([1, 5], top_k=3)],
        "title": tokenizer.title(3),
    }

def refusal(load, *arguments, **options):
    try:
        load(*arguments, **options)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"

answers = {}
try:
    import hf_bert4rec
except ImportError:
    answers["lacks"] = True
answers["untrusted"] = refusal(AutoModelForMaskedLM.from_pretrained, "me/films", trust_remote_code=False)
answers["not there yet"] = refusal(AutoConfig.from_pretrained, "me/films", local_files_only=True, **TRUST)
model, tokenizer, recommend, answers["main"] = everything("me/films")
answers["commit"] = scores(AutoModelForMaskedLM.from_pretrained("me/films", revision=sys.argv[1], **TRUST))
answers["next"] = scores(AutoModelForMaskedLM.from_pretrained("me/films", revision="next", **TRUST))
answers["absent"] = refusal(AutoConfig.from_pretrained, "me/films", revision="nowhere", **TRUST)
answers["private"] = refusal(AutoConfig.from_pretrained, "me/secret", **TRUST)
answers["local"] = everything("me/films", local_files_only=True)[-1]
model.save_pretrained("saved"), tokenizer.save_pretrained("saved")
recommend.save_pretrained("saved by pipeline")
answers["saved"] = everything("saved")[-1], everything("saved by pipeline")[-1]
exec(sys.argv[2])  # what the docs show
answers["readme"] = [type(model).__name__, type(tokenizer).__name__, recommend(["f001", "f002"], top_k=3)["num_unknown"]]
print("ANSWERS", json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub():
    with LocalHub() as hub:
        hub.refused_messages.add("too large")
        yield hub


def answers_of(hub, folder, source, *arguments, token=None, **environment):
    """What a process of its own found out; it sees the Hub and none of this one's caches."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("HF_")}
    known |= hub.environment(folder / "home", token) | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-c", source, *arguments]
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("ANSWERS")[2])


@pytest.fixture(scope="module")
def owner(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("owner")
    return answers_of(hub, folder, OWNER, token="writer", PYTHONPATH=str(ROOT))


@pytest.fixture(scope="module")
def stranger(hub, owner, tmp_path_factory):
    blocks = re.findall(
        r"^```py\n(.*?)^```", (ROOT / "docs" / "10_hub.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (shown,) = (block for block in blocks if "trust_remote_code" in block)
    return answers_of(hub, tmp_path_factory.mktemp("stranger"), STRANGER, owner["commit"], shown)


def close(scores):
    """Equal but for the last bits, which depend on where in memory the weights lie."""
    return pytest.approx(scores, abs=1e-5)


def same_answer(one, other):
    items, scores = [
        [[entry[name] for entry in answer["recommendations"]] for answer in (one, other)]
        for name in ("item_id", "score")
    ]
    return items[0] == items[1] and scores[0] == close(scores[1])


def same(one, other):
    """Whether a folder gave a stranger the same classes, scores and answers as another."""
    return (
        all(one[name] == other[name] for name in ("classes", "modules", "title"))
        and all(one[name] == close(other[name]) for name in ("scores", "causal"))
        and all(same_answer(*answers) for answers in zip(one["answers"], other["answers"], strict=True))
    )


def test_a_run_is_pushed_in_one_commit(hub, owner):
    repository = hub.repositories["me/films"]
    assert not repository.private
    assert repository.messages == ["initial commit", "Upload BERT4Rec", "Other weights"]
    assert owner["commit"] == repository.branches["main"]
    assert owner["url"] == f"{hub.url}/me/films"
    files = repository.files()
    assert {
        "config.json",
        "model.safetensors",
        "titles.json",
        "tokenizer.json",
        "README.md",
        "run.json",
    } < files.keys()
    assert b"# Films" in files["README.md"]
    assert json.loads(files["run.json"])["options"] == {"deepspeed": "plan.json"}


def test_another_branch_has_another_commit(hub, owner):
    repository = hub.repositories["me/films"]
    code, out, err = owner["told"]
    assert (code, err) == (0, "")
    assert out == f"Pushed to {hub.url}/me/films/commit/{repository.branches['next']}\n"
    assert repository.files("next")["model.safetensors"] != repository.files()["model.safetensors"]
    assert "titles.json" not in repository.files("next")  # the other run has none


def test_a_private_repository_is_seen_by_its_owner_alone(hub, owner, stranger):
    assert owner["private"][0] == 0
    assert hub.repositories["me/secret"].private
    assert not [name for name in hub.repositories["me/secret"].files() if name.endswith(".py")]
    assert stranger["private"].startswith(
        "OSError: me/secret is not a local folder and is not a valid model identifier"
    )


def test_where_the_package_is_installed_its_own_classes_load_the_repository(owner):
    assert owner["own"][:2] == ["hf_bert4rec.modeling_bert4rec", "hf_bert4rec.tokenization_bert4rec"]
    assert owner["own"][2] == close(owner["scores"][0])
    assert same_answer(owner["own_answer"], owner["answer"])


def test_what_an_earlier_push_left_behind_is_deleted(hub, owner):
    assert [code for code, _, _ in owner["again"]] == [0, 0, 0]
    repository = hub.repositories["me/replaced"]
    first, second, third = [set(files) for files in list(repository.commits.values())[1:]]
    assert "modeling_bert4rec.py" in first and "titles.json" not in first
    assert "titles.json" in second and not [name for name in second if name.endswith(".py")]
    assert third == second - {"titles.json"}
    card = "again has no README.md, so me/replaced shows the results of whatever was there before; hf-bert4rec card writes one."
    assert [err for _, _, err in owner["again"]] == ["", "", card + "\n"]
    assert ".gitattributes" in third
    assert "auto_map" not in json.loads(repository.files()["config.json"])


def test_where_the_package_is_absent_every_auto_class_and_the_pipeline_load_the_repository(owner, stranger):
    assert stranger["lacks"]
    found = stranger["main"]
    own = ["Bert4RecConfig", "Bert4RecModel", "Bert4RecForMaskedLM", "Bert4RecForCausalLM", "Bert4RecTokenizer"]
    assert found["classes"] == [*own, *["NextItemRecommendationPipeline"] * 2]
    assert set(found["modules"]) == {"transformers_modules"}
    assert found["scores"] == close(owner["scores"][0])
    assert found["causal"] != close(found["scores"])
    assert all(same_answer(answer, owner["answer"]) for answer in found["answers"])
    assert found["title"] == "Three"


def test_code_that_is_not_trusted_is_not_run(stranger):
    assert "trust_remote_code=True" in stranger["untrusted"]


def test_revisions_are_branches_and_commits(owner, stranger):
    assert stranger["commit"] == close(owner["scores"][0])
    assert stranger["next"] == close(owner["scores"][1])
    assert stranger["absent"].startswith("OSError: nowhere is not a valid git identifier")


def test_local_files_only_loads_what_was_loaded_before(stranger):
    assert stranger["not there yet"].startswith("OSError: ")
    assert same(stranger["local"], stranger["main"])


def test_what_is_saved_again_is_as_whole_as_what_was_loaded(stranger):
    for found in stranger["saved"]:
        assert same(found, stranger["main"])


def test_the_readme_loads_a_repository(stranger):
    assert stranger["readme"] == ["Bert4RecForMaskedLM", "Bert4RecTokenizer", 2]


def test_models_and_tokenizers_push_themselves(hub, owner):
    files = hub.repositories["me/stock"].files()
    names = {"config.json", "model.safetensors", "titles.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert files.keys() == {".gitattributes"} | names
    assert files["model.safetensors"] == hub.repositories["me/films"].files()["model.safetensors"]
    assert files["titles.json"] == hub.repositories["me/films"].files()["titles.json"]


def test_the_stock_trainer_pushes(hub, owner, tmp_path):
    repository = hub.repositories["me/trained"]
    assert repository.private
    assert {"Training in progress, step 1", "End of training"} <= set(repository.messages)
    for name, content in repository.files().items():
        (tmp_path / name).write_bytes(content)
    tokens = torch.tensor([[3, 9, 5, 1]])
    scores = Bert4RecForMaskedLM.from_pretrained(tmp_path)(tokens, logits_to_keep=tokens == 1).logits[0].tolist()
    assert scores == close(owner["trained"])


def test_train_pushes_the_run_when_it_is_whole(hub, owner):
    repository = hub.repositories["me/fresh"]
    assert repository.private
    assert repository.messages == ["initial commit", "Upload BERT4Rec"]
    files = repository.files()
    names = {"config.json", "model.safetensors", "run.json", "tokenizer.json", "tokenizer_config.json"}
    assert files.keys() == {".gitattributes"} | names
    assert b"writer" not in files["run.json"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("foreign", "The token may not write to you/films (no rights in the namespace you); log in"),
        ("id", "'me/my films' cannot be the id of a repository; give NAME or OWNER/NAME"),
        ("path", "'a/b/c' cannot be the id of a repository; give NAME or OWNER/NAME"),
        ("public", "me/films exists and is public"),
        ("full", "The Hub answered 413 to the push to me/films: too large; nothing was pushed"),
        ("token", "takes no such token; log in with `hf auth login`, or set HF_TOKEN"),
        ("no token", "takes no such token; log in with `hf auth login`, or set HF_TOKEN"),
        ("network", "The Hub at http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_a_push_that_cannot_be_ends_in_one_line_and_changes_nothing(hub, owner, case, message):
    code, out, err = owner["refused"][case]
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("hf-bert4rec push: ")
    assert message in err
    assert hub.repositories["me/films"].branches["main"] == owner["commit"]
    assert "unheard_of" not in hub.repositories["me/films"].branches
    assert "you/films" not in hub.repositories


def test_the_hub_was_asked_nothing_that_it_does_not_know(hub, stranger):
    assert hub.unknown_requests == []
