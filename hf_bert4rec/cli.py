"""The command `hf-bert4rec`: parse, call, print. What is wrong with the input is said in one line, with exit code 2."""

from __future__ import annotations

import argparse
import re
import sys
import typing

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from .commands import COMMANDS
from .error_text import one_line


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    values = vars(build_parser().parse_args(arguments))
    command = values.pop("command")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of loading and saving; that of the training stays
    try:
        return COMMANDS[command].run(**values) or 0
    # An ImportError names the package of an option, and mostly the pip command.
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        print(f"hf-bert4rec {command}: {one_line(error)}", file=sys.stderr)
        return 2
    except (SafetensorError, RuntimeError) as error:
        if "pip install" in str(error):  # how reporters say that their package is missing
            print(f"hf-bert4rec {command}: {one_line(error)}", file=sys.stderr)
            return 2
        # How a full disk reads when the writers of safetensors and torch run into it.
        if "No space left" not in str(error) and "failed writing file" not in str(error):
            raise
        print(f"hf-bert4rec {command}: no space left on device; free some and repeat the command", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hf-bert4rec {command}: stopped; what is unfinished stays in .partial", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """argparse's, which takes a value with a leading dash for an option, and says how to give an id that has one."""

    def error(self, message: str) -> typing.NoReturn:
        found = message.removeprefix("unrecognized arguments: ")
        if found != message and any(re.match("-[^-]", word) for word in found.split()):
            message += "; an id that begins with '-' can be given alone, as in --history=-7a, or in an --input_file"
        super().error(message)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="hf-bert4rec", description="BERT4Rec from a log of interactions to recommendations.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        usage = " ".join(f"hf-bert4rec {name} {command.USAGE} [options]".split())
        description = {"help": command.HELP, "description": command.HELP}
        command.add_arguments(commands.add_parser(name, usage=usage, allow_abbrev=False, **description))
    return parser
