"""
Where `report_to` sends what a run logs: checked before the work begins, and ended when training ends.

*Source:* Transformers' reporting callbacks.

*Differences:* a callback that hears of an evaluation after the end of training opens a second run (trackio) or a second file
(TensorBoard) for it; here it is not told. What is measured then is in the record of the run.
"""

from __future__ import annotations

from transformers import Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.integration_utils import (
    is_codecarbon_available,
    is_tensorboard_available,
    is_trackio_available,
)

# What is tested here: whether it is installed, and the extra that installs it.
REPORTERS = {
    "codecarbon": (is_codecarbon_available, "energy"),
    "tensorboard": (is_tensorboard_available, "report"),
    "trackio": (is_trackio_available, "report"),
}


def check_reporters(arguments: TrainingArguments):
    r"""
    Refuse to train without a package that was asked for.

    Args:
        arguments (`TrainingArguments`): With its `report_to`.

    Raises:
        ValueError: If codecarbon, TensorBoard or trackio is named there but not installed.
    """
    for name in arguments.report_to:
        is_available, extra = REPORTERS.get(name, (lambda: True, ""))
        if not is_available():
            raise ValueError(f"report_to {name} needs {name}: pip install 'hf_bert4rec[{extra}]', or leave it out.")


def stop_reporting(trainer: Trainer):
    """Take the callbacks of `report_to` from a `Trainer` that has trained."""
    for callback in get_reporting_integration_callbacks(trainer.args.report_to):
        trainer.remove_callback(callback)
