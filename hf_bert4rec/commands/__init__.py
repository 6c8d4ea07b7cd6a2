"""
The commands of `hf-bert4rec`, one file each, in the order of the help.

A command is a module with `USAGE`, what stands behind its name; `HELP`, one sentence; `add_arguments(parser)`; and
`run(**values)`, which prints, and returns the exit code unless it is 0.
"""

from __future__ import annotations

from types import ModuleType

from . import (
    adjust,
    card,
    compare_metrics,
    convert,
    demo,
    embed,
    ensemble,
    evaluate,
    export,
    prepare,
    push,
    recommend,
    serve,
    similar,
    train,
    web,
)

COMMANDS: dict[str, ModuleType] = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "compare-metrics": compare_metrics,
    "recommend": recommend,
    "similar": similar,
    "card": card,
    "push": push,
    "ensemble": ensemble,
    "adjust": adjust,
    "embed": embed,
    "convert": convert,
    "export": export,
    "serve": serve,
    "web": web,
    "demo": demo,
}
