"""
The `TrainingArguments` of a run, and what they take without a word and no run can go through with: said before the work begins.

*Source:* none; `Trainer` finds these at its first step or evaluation, by a division by zero or a missing key.
"""

from __future__ import annotations

import atexit
import dataclasses
import numbers
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import ParallelismConfig
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from .evaluation import CUTOFFS
from .metrics import ranking_metrics

# What no recipe changes.
RUN_DEFAULTS = {
    "per_device_eval_batch_size": 256,
    "metric_for_best_model": "ndcg@10",
    "save_total_limit": 1,
    "restore_callback_states_from_checkpoint": True,
    "ddp_find_unused_parameters": False,
}
# What the run's parts rely on; an option that breaks it is refused.
FIXED_ARGUMENTS = {
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "batch_eval_metrics": True,
    "label_names": ["labels", "seen_items"],
    "fsdp": None,  # ignored on CPUs; elsewhere refused: input and head share parameters
    "label_smoothing_factor": 0.0,  # needs the logits of every position, and there are those of labels alone
    "resume_from_checkpoint": None,  # a run goes on where its own folder says
    "dataloader_drop_last": False,  # would leave out users in validation too
    "neftune_noise_alpha": None,  # expects a row of vectors for each history where events come in one row
}
AT_LEAST_1 = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
ABOVE_0 = ("eval_steps", "save_steps", "logging_steps")
AT_LEAST_0 = ("learning_rate", "weight_decay", "adam_epsilon", "dataloader_num_workers")
BELOW_1 = ("adam_beta1", "adam_beta2")  # and at least 0
NUM_SEEDS = 1 << 32  # that numpy's generator takes


def check_number(field: dataclasses.Field, value: Any):
    r"""
    Refuse what is no number, or no whole one, where one is declared: what compares it later does not name the option.

    Args:
        field (`dataclasses.Field`): The option.
        value: What it was given.

    Raises:
        ValueError: If it is not of the kind that is declared.
    """
    words = set(re.findall(r"\w+", str(field.type)))  # of a text such as "float | None", or of the type itself
    may_be_none = words & {"None", "Optional"}
    kinds = words - {"None", "NoneType", "Optional", "typing", "class"}
    if not kinds or not kinds <= {"int", "float"} or (value is None and may_be_none):
        return
    kind = numbers.Real if "float" in kinds else numbers.Integral
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{field.name} is {value!r}; give a {'' if 'float' in kinds else 'whole '}number.")


def training_arguments(overrides: dict[str, Any], partial: Path) -> TrainingArguments:
    r"""
    `TrainingArguments` of a run on this machine.

    Args:
        overrides (`dict`): Fields of a recipe and of the user.
        partial (`Path`): Folder of the unfinished run.

    Returns:
        `TrainingArguments`

    Raises:
        ValueError: If `accelerator_config` has a key that Accelerate has not, or `parallelism_config` is no
            `accelerate.ParallelismConfig`.
    """
    _check_accelerate(overrides)
    has_accelerator = torch.accelerator.is_available()
    # `TrainingArguments` refuses bf16 without an accelerator unless it is told that the CPU is meant.
    machine = {"dataloader_pin_memory": has_accelerator, "use_cpu": not has_accelerator}
    return TrainingArguments(str(partial), **RUN_DEFAULTS | FIXED_ARGUMENTS | machine | overrides)


@atexit.register
def leave_other_processes():
    """
    End what connects this process to others, if anything does. gloo's threads, where they still run when the interpreter ends,
    now and then abort a process whose work is done, and the launcher counts the run as failed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_arguments(arguments: TrainingArguments):
    r"""
    Refuse numbers that a run divides by and must not, that its optimiser, loader or generators refuse without naming the option,
    and a metric that no validation has.

    Args:
        arguments (`TrainingArguments`): Those of a run.

    Raises:
        ValueError: If a number is out of its range, or the metric is unknown.
    """
    for name in AT_LEAST_1:
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name} is {getattr(arguments, name)}; give at least 1.")
    for name in ABOVE_0:
        if getattr(arguments, name) is not None and getattr(arguments, name) <= 0:
            raise ValueError(f"{name} is {getattr(arguments, name)}; give a number above 0, or leave it out.")
    for name in AT_LEAST_0:
        if not getattr(arguments, name) >= 0:
            raise ValueError(f"{name} is {getattr(arguments, name)}; give a number of at least 0.")
    for name in BELOW_1:
        if not 0 <= getattr(arguments, name) < 1:
            raise ValueError(f"{name} is {getattr(arguments, name)}; give a number from 0 up to, not including, 1.")
    if not 0 <= arguments.seed < NUM_SEEDS:
        raise ValueError(f"seed is {arguments.seed}; give a number from 0 to {NUM_SEEDS - 1}.")
    if arguments.max_steps <= 0 and arguments.num_train_epochs <= 0:
        raise ValueError(f"num_train_epochs is {arguments.num_train_epochs}; give a number above 0.")
    known = ["loss", *ranking_metrics(np.zeros(1), CUTOFFS)]
    metric = arguments.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model is {metric!r}; choose one of {', '.join(known)}.")


def _check_accelerate(options: dict[str, Any]):
    """Refuse settings of Accelerate that `TrainingArguments` itself fails over, or takes and the run fails over."""
    given, known = options.get("accelerator_config"), AcceleratorConfig().to_dict()
    if isinstance(given, dict) and (unknown := given.keys() - known):
        raise ValueError(f"accelerator_config has {', '.join(sorted(unknown))}; it can have {', '.join(known)}.")
    given = options.get("parallelism_config")
    if given is not None and not isinstance(given, ParallelismConfig):
        raise ValueError(
            f"parallelism_config is {given!r}, not an accelerate.ParallelismConfig; give one in Python, train(...)."
        )
