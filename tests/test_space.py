"""A Space that is pushed beside its model holds all that its page runs, and runs it where this package is not installed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import RepoCard
from local_hub import LocalHub, Repository

from hf_bert4rec.space import space_files

gradio = pytest.importorskip("gradio", reason="a Space needs Gradio: pip install 'hf_bert4rec[web]'")

ROOT = Path(__file__).resolve().parent.parent

OWNER = """
import contextlib, io, json, os
import torch
from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer
from hf_bert4rec.cli import main

def run(folder, title):
    config = Bert4RecConfig(vocab_size=15, hidden_size=16, intermediate_size=32)
    Bert4RecForMaskedLM(config).save_pretrained(folder)
    Bert4RecTokenizer.from_items(range(12), titles={3: title}).save_pretrained(folder)
    with open(f"{folder}/README.md", "w") as card:
        card.write("# Films\\n")

def said(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["push", *arguments, "--space"])
    return [code, out.getvalue(), err.getvalue()]

run("run", "Three"), run("other", "Drei")
answers = {"first": said("run", "films"), "branch": said("other", "me/films", "--revision", "next")}
answers["private"] = said("run", "me/secret", "--private")
answers["public"] = said("run", "me/open", "--private")
os.environ["HF_TOKEN"] = "stranger"
answers["foreign"] = said("run", "me/films")
print("ANSWERS", json.dumps(answers))
"""

# As on the Hub: app.py in its own folder, with nothing of ours installed nor what only the rest of the package needs.
SPACE = """
import json, sys, urllib.request
for absent in ("duckdb", "pyarrow", "accelerate", "datasets"):
    sys.modules[absent] = None
import app, hf_bert4rec
_, address, _ = app.page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **app.page_options())
with urllib.request.urlopen(address + "config") as answer:
    found = json.load(answer)
values = [component["props"].get("value") for component in found["components"]]
app.page.close()
print("ANSWERS", json.dumps({"shown": json.dumps(values), "code": hf_bert4rec.__file__, "title": found["title"]}))
"""


@pytest.fixture(scope="module")
def hub():
    with LocalHub() as hub:
        yield hub


def answers_of(hub, folder, source, token=None, **environment):
    """What a process of its own found out; it sees the Hub and none of this one's caches."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("HF_")}
    known |= hub.environment(folder / "home", token) | {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=folder, env=known | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("ANSWERS")[2])


@pytest.fixture(scope="module")
def owner(hub, tmp_path_factory):
    # A Space that an earlier version made, with a file of the visitor's own; and one that is public.
    old = hub.repositories["spaces/me/films"] = Repository(private=False)
    old.commit("main", {"hf_bert4rec/gone.py": b"", "notes.txt": b"mine"}, "before")
    hub.repositories["spaces/me/open"] = Repository(private=False)
    hub.repositories["spaces/me/open"].commit("main", {}, "before")
    return answers_of(hub, tmp_path_factory.mktemp("owner"), OWNER, token="writer", PYTHONPATH=str(ROOT))


def test_model_and_space_are_pushed_under_one_name(hub, owner):
    code, out, err = owner["first"]
    assert (code, err) == (0, "")
    first = list(hub.repositories["me/films"].commits)[1]
    pushed = f"Pushed to {hub.url}/me/films/commit/{first}"
    assert out.splitlines() == [pushed, f"The page is {hub.url}/spaces/me/films"]
    space = hub.repositories["spaces/me/films"]
    assert not space.private
    assert space.messages == ["before", "Upload page", "Upload page"]
    files = space.files()
    assert {"app.py", "README.md", "requirements.txt", "hf_bert4rec/__init__.py", "hf_bert4rec/web.py"} < files.keys()
    assert "hf_bert4rec/gone.py" not in files and files["notes.txt"] == b"mine"
    assert not {name for name in files if name.endswith((".safetensors", "tokenizer.json"))}
    assert "app.py" not in hub.repositories["me/films"].files()
    assert hub.unknown_requests == []


def test_the_space_of_a_private_model_is_private_and_says_what_it_needs(hub, owner):
    code, out, _ = owner["private"]
    assert code == 0 and hub.repositories["spaces/me/secret"].private
    assert out.splitlines()[-1].startswith("It needs a secret HF_TOKEN that may read me/secret: add one")


@pytest.mark.parametrize(
    ("case", "message"),
    [("public", "spaces/me/open exists and is public"), ("foreign", "The token may not write to me/films")],
)
def test_a_push_that_cannot_be_ends_in_one_line(owner, case, message):
    code, _, err = owner[case]
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(f"hf-bert4rec push: {message}")


def test_the_space_shows_its_branch_of_the_model_where_the_package_is_not_installed(hub, owner, tmp_path):
    first, second = list(hub.repositories["spaces/me/films"].commits.values())[1:]
    assert {name for name in first if first[name] != second[name]} == {"app.py"}
    assert b'MODEL, REVISION = "me/films", None\n' in first["app.py"]
    assert b'MODEL, REVISION = "me/films", "next"\n' in second["app.py"]
    for name, content in second.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    found = answers_of(hub, tmp_path, SPACE)
    assert Path(found["code"]).parent == tmp_path / "hf_bert4rec"
    assert "Deny Drei" in found["shown"] and "12 items" in found["shown"]
    assert found["title"].startswith("me/films")


def test_the_code_of_a_space_imports_its_own_files_and_what_is_required_there():
    files = space_files("me/films")
    modules = {Path(name).stem for name in files if name.startswith("hf_bert4rec/")}
    installed = {"torch", "numpy", "safetensors", "tokenizers", "transformers", "huggingface_hub", "gradio"}
    for name, content in files.items():
        for node in ast.walk(ast.parse(content)) if name.endswith(".py") else ():
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in modules, f"{name}, line {node.lineno}"
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                packages = {imported.split(".")[0] for imported in names} - set(sys.stdlib_module_names)
                assert packages <= installed | {"hf_bert4rec"}, f"{name}, line {node.lineno}"


def test_the_front_matter_and_the_requirements_name_the_versions_at_hand():
    files = {name: content.decode("utf-8") for name, content in space_files("me/films", revision='a"b').items()}
    card = RepoCard(files["README.md"]).data.to_dict()
    assert (card["title"], card["sdk"], card["app_file"], card["models"]) == (
        "films",
        "gradio",
        "app.py",
        ["me/films"],
    )
    assert card["sdk_version"] == gradio.__version__
    assert card["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    required = files["requirements.txt"].splitlines()
    assert f"transformers=={transformers.__version__}" in required
    assert "torch==" + re.match(r"[\d.]+", torch.__version__)[0] in required
    assert 'MODEL, REVISION = "me/films", "a\\"b"' in files["app.py"]
