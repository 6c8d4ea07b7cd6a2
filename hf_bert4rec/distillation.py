"""
A trained model as the teacher of a run: beside the items that users took the run learns what the teacher thinks of all items.

An item of a sparse log is seen a few times. The teacher's probabilities say of each of its events which others would have done
as well, so that a model does not learn single events by heart. On Beauty a model taught by two others ([`ensemble_runs`]) ranks
better than either, at a quarter of their parameters.

*Source:* Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network" (2015); Furlanello et al., "Born-Again Neural
Networks" (ICML 2018) for teachers of the student's own architecture.

*Differences:* none but that of [`soft_targets`]. Teacher and student read the same batch, masks and all, the teacher without
dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .comparison import check_vocabulary
from .configuration_bert4rec import Bert4RecConfig
from .fine_tuning import folder_of
from .interactions import InteractionData
from .modeling_bert4rec import Bert4RecForMaskedLM
from .run_folder import load_run, read_record, weights_hash
from .soft_targets import SoftTargets

# Losses that compare all items, or a sample that stands for all: those of pairs have no probabilities to teach.
TAUGHT_LOSSES = ("softmax", "sampled_softmax")


@dataclass
class TeacherOptions:
    """Who teaches a run, and how much; see [`distillation`]."""

    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Learn from this trained model too, a folder or a name on the Hub: a run on the same data, or an ensemble of "
            "some."
        },
    )
    teacher_weight: float = field(
        default=0.5, metadata={"help": "Share of the loss that compares with --teacher instead of with the log."}
    )

    def __post_init__(self):
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight is {self.teacher_weight}; give a share between 0 and 1.")


class Teacher:
    r"""
    A trained model that a run learns from; give it to the model that is trained as its `teacher`.

    Args:
        name (`str` or `Path`): Its folder, with the record of its training, or its name on the Hub.
        weight (`float`, *optional*, defaults to 0.5): Share of the loss that compares with it.

    Raises:
        OSError: If there is no such model, or if a file of it is missing.
        ValueError: If it is no BERT4Rec of ours.
    """

    def __init__(self, name: str | Path, weight: float = 0.5):
        self.name, self.weight, self.folder = str(name), weight, folder_of(name)
        self.model, self.tokenizer = load_run(self.folder)
        self.record = read_record(self.folder)
        is_local = self.folder == Path(name)
        # What the record of the run says of it. Of a path it keeps the last part.
        self.facts = {"model": self.folder.name if is_local else self.name, "weights_hash": weights_hash(self.folder)}
        self.facts |= {kind: self.record[kind] for kind in ("wall_seconds", "cpu_seconds") if kind in self.record}

    def check(self, config: Bert4RecConfig, causal_probability: float, data: InteractionData):
        r"""
        Refuse a teacher that knows other items or events, or that cannot read what the student reads.

        Args:
            config ([`Bert4RecConfig`]): The student's.
            causal_probability (`float`): Its share of samples that are read causally.
            data ([`InteractionData`]): What it is trained on.

        Raises:
            ValueError: See above; or if the student's loss compares pairs.
        """
        check_vocabulary(self.tokenizer, data)
        if self.record.get("data_hash") != data.content_hash():
            raise ValueError(
                f"The teacher {self.name} was trained on other data, which may hold what the run is evaluated on; train it on "
                f"{data.folder}."
            )
        own = self.record["sequence_options"]["causal_probability"]
        if not (causal_probability == own or 0 < own < 1):
            raise ValueError(
                f"The teacher {self.name} was trained with causal_probability {own:g}, now it is {causal_probability:g}; give "
                "the same, or a teacher of both objectives."
            )
        found, needed = self.model.config.max_position_embeddings, config.max_position_embeddings
        if found < needed:
            raise ValueError(
                f"The teacher {self.name} reads {found} events, the run {needed}; give max_position_embeddings {found}."
            )
        if config.training_loss not in TAUGHT_LOSSES:
            losses = " or ".join(map(repr, TAUGHT_LOSSES))
            raise ValueError(f"training_loss is {config.training_loss!r}, but a teacher needs {losses}.")

    def teach(self, student: Bert4RecForMaskedLM):
        """Become the teacher of a model, in whose own class it reads; samples take the fast road of training without dropout."""
        changes: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        changes["attn_implementation"] = student.config._attn_implementation
        self.model = type(student).from_pretrained(self.folder, **changes).requires_grad_(False).train()
        student.teacher = self

    @torch.no_grad()
    def soft_targets(self, inputs: Mapping[str, Any], labels: torch.Tensor, causal_rows: torch.Tensor | None):
        r"""
        What it thinks of the labels of a batch.

        Args:
            inputs (mapping): Those of the encoder, padded histories.
            labels (`torch.Tensor` of shape `(batch_size, sequence_length)`): As of its model.
            causal_rows (`torch.BoolTensor` of shape `(batch_size,)`, *optional*): As of its model.

        Returns:
            [`SoftTargets`]
        """
        self.model.to(labels.device)
        _, vectors, _ = self.model.labelled_vectors(dict(inputs), labels, causal_rows)
        return SoftTargets(vectors, self.model.get_output_embeddings(), self.weight)


def teacher_of(options: Mapping[str, Any]) -> Teacher | None:
    r"""
    The teacher of a run.

    Args:
        options (mapping): Fields of [`TeacherOptions`] that were given.

    Returns:
        [`Teacher`] or `None`: `None` where none is asked for.

    Raises:
        OSError: See [`Teacher`].
        ValueError: See [`Teacher`] and [`TeacherOptions`]; or if a weight is given to no teacher.
    """
    chosen = TeacherOptions(**options)
    if chosen.teacher is not None:
        return Teacher(chosen.teacher, chosen.teacher_weight)
    if "teacher_weight" in options:
        raise ValueError("teacher_weight is a teacher's share of the loss; give teacher too.")
    return None
