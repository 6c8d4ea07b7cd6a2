"""
Command line options read from dataclasses: one flag per field, with the field's own default, type and help.

*Differences:* `transformers.HfArgumentParser` cannot resolve the types of a strict configuration.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

# Shown by --help; the other fields of `TrainingArguments` are listed by --help_all.
COMMON_ARGUMENTS = {
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "lr_scheduler_type",
    "bf16",
    "seed",
    "report_to",
    "eval_steps",
    "save_steps",
}


def add_options(
    parser: argparse.ArgumentParser,
    owner: type,
    fields: Mapping[str, dataclasses.Field],
    *,
    title: str,
    defaults: Mapping[str, Any] | None = None,
    shown: set[str] | None = None,
):
    r"""
    Add a flag for each field of a dataclass; options that are not given are absent from the namespace.

    Args:
        parser (`argparse.ArgumentParser`): Gets the flags.
        owner (`type`): The dataclass.
        fields (mapping of name to `dataclasses.Field`): Which of its fields.
        title (`str`): Heading in the help.
        defaults (mapping, *optional*): Defaults that differ from the dataclass' own, for the help.
        shown (`set` of `str`, *optional*): Fields that the help lists; all by default.
    """
    group = parser.add_argument_group(title)
    # Of these fields alone: types of inherited fields may be named in modules that cannot be seen from here.
    chosen = type("Chosen", (), {"__annotations__": {name: field.type for name, field in fields.items()}})
    annotations = typing.get_type_hints(chosen, globalns=vars(sys.modules[owner.__module__]))
    documented = _documented_arguments(owner)
    for name, field in fields.items():
        kind = _value_type(annotations[name])
        default = (defaults or {}).get(name, field.default)
        text = field.metadata.get("help") or documented.get(name, "")
        text = " ".join(text.split()) + ("" if default in (None, dataclasses.MISSING) else f" (default: {default})")
        is_flag = kind is _boolean
        text = text.replace("%", "%%")
        option = group.add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            type=kind,
            metavar=_METAVARS[kind],
            nargs="?" if is_flag else None,
            const=True if is_flag else None,
            help=text if shown is None or name in shown else argparse.SUPPRESS,
        )
        option.full_help = text  # type: ignore[attr-defined]


class HelpAll(argparse._HelpAction):
    """`--help_all`: the help with the options that `add_options` leaves out of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any):
        for action in parser._actions:
            action.help = getattr(action, "full_help", action.help)
        super().__call__(parser, *arguments)


def _value_type(annotation: Any) -> Any:
    """The function that reads a value of this type from the command line."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    parts = typing.get_args(annotation) if is_union else (annotation,)
    if bool in parts:
        return _boolean if set(parts) <= {bool, types.NoneType} else _any_value
    if dict in parts or any(typing.get_origin(part) is dict for part in parts):
        return _any_value
    if any(part is list or typing.get_origin(part) is list for part in parts):
        return _any_value
    if float in parts:
        return _number
    return int if int in parts and str not in parts else str


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _number(text: str) -> float | int:
    try:
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _any_value(text: str) -> Any:
    """JSON where the text is JSON (a list, a dict, true), else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


_METAVARS = {_boolean: "BOOL", _number: "NUMBER", int: "INT", str: "TEXT", _any_value: "VALUE"}


def _documented_arguments(owner: type) -> dict[str, str]:
    """The `Args:` section of a docstring, where the fields themselves carry no help."""
    text = owner.__doc__ or ""
    entries = re.findall(r"^ {8}(\w+) \((?:.*?)\):\s*((?:.|\n)*?)(?=^ {8}\w+ \(|^ {4}\S|\Z)", text, re.MULTILINE)
    return dict(entries)
