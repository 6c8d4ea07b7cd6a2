"""
Write `docs/11_options.md`, every option of every command with its default, from the parser that reads them: `make docs`.
"""

import argparse
import re
from pathlib import Path

from hf_bert4rec.cli import build_parser
from hf_bert4rec.commands import COMMANDS
from hf_bert4rec.recipes import RECIPES
from hf_bert4rec.run_arguments import FIXED_ARGUMENTS
from hf_bert4rec.training import NUM_EVALUATIONS, option_fields

PAGE = Path(__file__).resolve().parent / "11_options.md"
BEGINNING = """\
# Every option

`make docs` writes this page from the parser itself. `hf-bert4rec COMMAND --help` says the same, and more of each option.

- A default in *italics* is said in words: it is no value that could be given.
- `BOOL` is `true` or `false`, and may be left out for `true`. `VALUE` is JSON (a list, an object, `true`) or plain text.
- In Python the options of `prepare` and `train` are keyword arguments of the same names: `train(data, "run", hidden_size=128)`.
"""
TRAINING = f"""\
The defaults below are those of the recipe `default`; the [others](#train-the-recipes) set others. `train` validates and saves
about {NUM_EVALUATIONS} times, at most once an epoch, and keeps the best weights, unless `eval_strategy`, `eval_steps`,
`save_strategy`, `save_steps` or `load_best_model_at_end` are given. `reading` is the best on validation where a model is
trained on both objectives. Of `transformers.TrainingArguments` these are fixed, and
refused with another value: {", ".join(f"`{name}`" for name in FIXED_ARGUMENTS)}.
"""


def main():
    PAGE.write_text(options_page(), "utf-8")


def options_page() -> str:
    """The whole page."""
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    parts, tables = [BEGINNING], {}
    for name, parser in commands.choices.items():
        usage = " ".join(f"hf-bert4rec {name} {COMMANDS[name].USAGE}".split())
        parts.append(f"## {name}\n\n{COMMANDS[name].HELP}\n\n`{usage}`\n")
        positional, options, *groups = parser._action_groups
        parts.append(table(positional._group_actions + options._group_actions))
        if name == "train":
            parts.append(TRAINING)
        for group in groups:
            rows = table(group._group_actions)
            known = next((heading for heading, found in tables.items() if found == rows), None)
            heading = f"{name}: {group.title}"
            tables.setdefault(heading, rows)
            same = f"The options of [{known}](#{anchor(known)}).\n" if known else rows
            parts.append(f"### {heading}\n\n{same}")
        if name == "train":
            parts.append(recipes_table())
    return "\n".join(parts)


def anchor(heading: str) -> str:
    """The link that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def table(actions: list[argparse.Action]) -> str:
    hidden = FIXED_ARGUMENTS.keys() | {"help", "help_all"}
    rows = [row(action) for action in actions if action.dest not in hidden]
    return "\n".join(["| option | default | |", "|---|---|---|", *rows, ""])


def row(action: argparse.Action) -> str:
    """One line of a table: flag with the kind of its value, default, the first sentence of its help."""
    text = " ".join((getattr(action, "full_help", None) or action.help or "").split())
    text = text.replace("%(default)s", str(action.default)).replace("%%", "%")
    found = re.search(r" ?\(default: (.*?)\)(?=$|[;.])", text)
    if found:
        text = text.replace(found[0], "", 1)
    return f"| {named(action)} | {default_text(action, found and found[1])} | {cell(first_sentence(text))} |"


def named(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar}`"
    kind = "{" + ", ".join(action.choices) + "}" if action.choices else action.metavar
    return f"`{action.option_strings[0]}{f' {kind}' if kind else ''}`"


def default_text(action: argparse.Action, said: str | None) -> str:
    if action.required or not action.option_strings:
        return "*needed*"
    if isinstance(action, argparse._StoreTrueAction):
        return "*off*"
    if not said:
        return "*none*"
    if said in ("True", "False"):
        said = said.lower()
    return f"*{said}*" if " " in said else f"`{said}`"


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence; one in brackets or after `e.g` does not."""
    for stop in re.finditer(r"(?<!e\.g)(?<!i\.e)(?<!etc)\.(?= [A-Z`'])", text):
        start = text[: stop.end()]
        if start.count("(") == start.count(")"):
            return start
    return text


def cell(text: str) -> str:
    """As a cell of a table: Markdown's own signs outside of code are plain text."""
    text = re.sub(r"\[(`[^`]+`)\]", r"\1", text).replace("|", "\\|")
    parts = text.split("`")
    return "`".join(part if number % 2 else re.sub(r"([<*])", r"\\\1", part) for number, part in enumerate(parts))


def recipes_table() -> str:
    """What each recipe sets; where it sets nothing, the default of the dataclass that declares the option."""
    plain = {name: field.default for fields in option_fields().values() for name, field in fields.items()}
    lines = [
        "### train: the recipes",
        "",
        "`--recipe auto`, the default, takes `sparse`, `small` or `default`; see `--recipe`.",
        "",
    ]
    lines += ["| option | " + " | ".join(RECIPES) + " |", "|---|" + "---|" * len(RECIPES)]
    for name in sorted({name for recipe in RECIPES.values() for name in recipe}):
        values = [str(recipe.get(name, plain[name])) for recipe in RECIPES.values()]
        lines.append(f"| `{name}` | " + " | ".join(values) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
