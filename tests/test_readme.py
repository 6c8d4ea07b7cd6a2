"""The README does what it says: its Python runs from top to bottom, its commands parse, its files and targets exist."""

import re
import shlex
from pathlib import Path

import pytest

import hf_bert4rec
from hf_bert4rec.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<"}


def blocks(text, *languages):
    return [block for language, block in BLOCK.findall(text) if language in languages]


def commands(text):
    """Commands of the shell blocks, as words. In a block with prompts (`$ `) the other lines are output."""
    found = []
    for block in blocks(text, "bash", "console", "sh", "shell"):
        lines = block.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            found.append([])
            for word in lexer:
                if word in OPERATORS:
                    found.append([])
                else:
                    found[-1].append(word)
    return [words for words in found if words]


def wrong(words):
    """What is wrong with a command of ours; `None` for those of others."""
    if "hf-bert4rec" in words[0] or words[:3] == ["python", "-m", "hf_bert4rec"]:
        try:
            build_parser().parse_args(words[3 if words[0] == "python" else 1 :])
        except SystemExit as ended:  # argparse has said why on standard error
            return f"{' '.join(words)} does not parse" if ended.code else None
    elif words[0] == "make":
        targets = set(re.findall(r"^([\w.-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        missing = {word for word in words[1:] if "=" not in word and not word.startswith("-")} - targets
        return f"no target {missing} in the Makefile" if missing else None
    elif words[0].startswith("python") and len(words) > 1 and words[1].endswith(".py"):
        return None if (ROOT / words[1]).exists() else f"there is no {words[1]}"
    return None


def test_the_python_blocks_run_in_order(tmp_path, monkeypatch):
    train = hf_bert4rec.train

    def short(*arguments, **options):
        return train(*arguments, **(options | {"num_train_epochs": 1, "disable_tqdm": True}))

    monkeypatch.setattr(hf_bert4rec, "train", short)
    monkeypatch.chdir(tmp_path)
    found = blocks(README, "python")
    assert found
    namespace = {"__name__": "readme"}
    for number, block in enumerate(found, start=1):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_a_command_of_the_readme_works(words):
    assert wrong(words) is None


def test_the_readme_names_what_exists():
    assert {"prepare", "train", "recommend"} <= {words[1] for words in commands(README) if words[0] == "hf-bert4rec"}
    named = re.findall(r"`((?:examples|tests|benchmarks|hf_bert4rec)/[\w./-]*)`", README)
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert set(re.findall(r"`(\d\d_\w+\.py)`", README)) <= {path.name for path in (ROOT / "examples").iterdir()}
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_in_the_readme_waits_to_be_filled_in():
    assert re.findall(r"@@\w*", README) == []


def test_a_wrong_command_is_found():
    text = (
        "```bash\npip install . # make nothing\nhf-bert4rec train log --outputdir run && make demo ARGS=-x\n```\n"
        "```console\n$ make tests\n42 users\n$ python examples/99.py\n"
        "$ hf-bert4rec recommend run \\\n  --history a 'b c' > f\n```\n"
        "```python\nmake('x')\n```\n"
    )
    found = commands(text)
    assert found == [
        ["pip", "install", "."],
        ["hf-bert4rec", "train", "log", "--outputdir", "run"],
        ["make", "demo", "ARGS=-x"],
        ["make", "tests"],
        ["python", "examples/99.py"],
        ["hf-bert4rec", "recommend", "run", "--history", "a", "b c"],
        ["f"],
    ]
    assert [wrong(words) is None for words in found] == [True, False, True, False, False, True, True]
