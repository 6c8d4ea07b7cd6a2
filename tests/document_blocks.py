"""
The blocks of a page and what becomes of them: `bash` and `python` run from top to bottom, `sh` is parsed, `py` is run by a test
that cuts it out, anything else is shown.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from hf_bert4rec.cli import build_parser, main

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<"}
LANGUAGES = {"bash", "sh", "python", "py", "text", "bibtex"}
# What is added to a command that trains in processes of its own, where nothing can be patched.
SHORT = ("--max_steps", "2", "--disable_tqdm", "true", "--use_cpu", "true")


def blocks(text, *languages):
    return [(language, block) for language, block in BLOCK.findall(text) if language in languages]


def commands(block):
    """Commands of a shell block, as words."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
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
    """What is wrong with a command of ours, or one that starts ours; `None` for those of others."""
    name = words[0]
    if name == "hf-bert4rec" or words[:3] == ["python", "-m", "hf_bert4rec"]:
        return unparsed(build_parser(), words[3 if name == "python" else 1 :])
    if name == "torchrun" or words[:2] == ["accelerate", "launch"]:
        parser = get_args_parser() if name == "torchrun" else launch_command_parser()
        arguments = words[1 if name == "torchrun" else 2 :]
        if message := unparsed(parser, arguments):
            return message
        started = parser.parse_args(arguments)
        module = ["-m"] if started.module else []
        return wrong(["python", *module, started.training_script, *started.training_script_args])
    if name == "make":
        targets = set(re.findall(r"^([\w.-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        missing = {word for word in words[1:] if "=" not in word and not word.startswith("-")} - targets
        return f"no target {missing} in the Makefile" if missing else None
    if name == "pip":
        asked = re.findall(r"hf_bert4rec\[([\w,]+)\]", " ".join(words))
        extras = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text("utf-8"), re.MULTILINE)
        missing = {extra for group in asked for extra in group.split(",")} - set(extras)
        return f"no extra {missing} in setup.cfg" if missing else None
    if name == "python":
        return wrong_script(words[1:])
    return None


def unparsed(parser, arguments):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            parser.parse_args(arguments)
        except SystemExit as ended:
            return said.getvalue() if ended.code else None
    return None


def wrong_script(words):
    """What is wrong with a script or module of this repository: it is not there, or nowhere names the option."""
    if words[0] == "-m":
        base = ROOT / words[1].replace(".", "/")
        files = [file for file in (base.with_suffix(".py"), base / "__main__.py") if file.exists()]
        texts = [file.read_text("utf-8") for file in base.parent.rglob("*.py")] if base.parent != ROOT else []
        texts += [file.read_text("utf-8") for file in base.rglob("*.py")]
    else:
        files = [ROOT / words[0]] if (ROOT / words[0]).exists() else []
        texts = [file.read_text("utf-8") for file in files]
    if not files:
        return f"there is no {words[:2]}"
    missing = [word for word in words if word.startswith("--") and not any(f'"{word}"' in text for text in texts)]
    return f"{words[0]} has no {missing}" if missing else None


def run_command(words):
    """Run a command of ours in this process, or in those that its launcher starts."""
    if words[0] == "hf-bert4rec":
        try:
            assert main(words[1:]) == 0, words
        except SystemExit as ended:  # of --help
            assert ended.code == 0, words
    elif words[0] == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:], *SHORT]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        sys.stdout.write(done.stdout)
    else:
        raise AssertionError(f"{words} cannot be run here; a block of commands that are parsed alone is marked sh")


def run_blocks(name, text, languages, names):
    """Run the blocks of these languages from top to bottom, in the working folder; Python shares one namespace."""
    found = blocks(text, *languages)
    for number, (language, block) in enumerate(found, start=1):
        if language == "python":
            exec(compile(block, f"{name}, block {number}", "exec"), names)
        else:
            for words in commands(block):
                run_command(words)
    return len(found)
