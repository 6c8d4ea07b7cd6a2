"""
A trained model as the teacher of a run: beside the items that users took the run learns what the teacher thinks of all items.

An item of a sparse log is seen a few times. The teacher's probabilities say of each of its events which others would have done
as well, so that a model does not learn single events by heart. On Beauty a model that the ensemble of two others teaches
([`ensemble_runs`]) ranks better than the ensemble, at half of its size.

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
from .configuration_bert4rec import FIRST_ITEM_TOKEN, Bert4RecConfig
from .fine_tuning import folder_of
from .interactions import InteractionData
from .modeling_bert4rec import Bert4RecForMaskedLM
from .run_folder import check_not_adjusted, load_run, read_record, weights_hash
from .run_record import last_part
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
    A trained model that a run learns from.

    Args:
        name (`str` or `Path`): Its folder, with the record of its training, or its name on the Hub.
        weight (`float`, *optional*, defaults to 0.5): Share of the loss that compares with it.

    Raises:
        OSError: If there is no such model, or if a file of it is missing.
        ValueError: If it is no BERT4Rec of ours, or its record does not say what it was trained on.

    Example:
        ```python
        >>> Teacher("run", weight=0.8).teach(model)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        ```
    """

    def __init__(self, name: str | Path, weight: float = 0.5):
        self.name, self.weight, self.folder = str(name), weight, folder_of(name)
        self.model, self.tokenizer = load_run(self.folder)
        record = read_record(self.folder)
        check_not_adjusted(name, record)
        if "data_hash" not in record or "causal_probability" not in record.get("sequence_options", {}):
            raise ValueError(f"The record of the teacher {name} does not say what it was trained on; train it again.")
        self.data_hash: str = record["data_hash"]
        self.causal_probability: float = record["sequence_options"]["causal_probability"]
        # What the record of the run says of it. Of a path it keeps the last part.
        is_local = self.folder == Path(name)
        self.facts: dict[str, Any] = {"model": last_part(self.folder) if is_local else self.name}
        self.facts["weights_hash"] = weights_hash(self.folder)
        self.facts |= {kind: record[kind] for kind in ("wall_seconds", "cpu_seconds") if kind in record}

    def __str__(self) -> str:
        return f"{self.facts['model']} ({self.facts['weights_hash'][:12]})"

    def check_student(self, config: Bert4RecConfig):
        r"""
        Refuse a student that reads more events than the teacher, or whose loss has no place for it.

        Args:
            config ([`Bert4RecConfig`]): The student's.

        Raises:
            ValueError: See above.
        """
        found, needed = self.model.config.max_position_embeddings, config.max_position_embeddings
        if found < needed:
            raise ValueError(
                f"The teacher {self.name} reads {found} events, the run {needed}; give max_position_embeddings {found}."
            )
        if config.training_loss not in TAUGHT_LOSSES:
            losses = " or ".join(map(repr, TAUGHT_LOSSES))
            raise ValueError(f"training_loss is {config.training_loss!r}, but a teacher needs {losses}.")

    def check_training(self, data: InteractionData, causal_probability: float):
        r"""
        Refuse a teacher of other items or events, or one that has not learned to read what the student reads.

        Args:
            data ([`InteractionData`]): What the student is trained on.
            causal_probability (`float`): Its share of samples that are read causally.

        Raises:
            ValueError: See above.
        """
        try:
            check_vocabulary(self.tokenizer, data)
        except ValueError as error:
            raise ValueError(f"The teacher {self.name} has other items. {error}") from None
        if self.data_hash != data.content_hash():
            raise ValueError(
                f"The teacher {self.name} was trained on other data, which may hold what the run is evaluated on; train it on "
                f"{data.folder}."
            )
        own = self.causal_probability
        if not (causal_probability == own or 0 < own < 1):
            raise ValueError(
                f"The teacher {self.name} was trained with causal_probability {own:g}, now it is {causal_probability:g}; give "
                "the same, or a teacher of both objectives."
            )

    def teach(self, student: Bert4RecForMaskedLM):
        r"""
        Become the teacher of a model, in whose own class it reads; samples take the fast road of training without dropout.

        Args:
            student ([`Bert4RecForMaskedLM`]): About to be trained on the data of the teacher; it has the same items.

        Raises:
            ValueError: If it has other items, or see [`Teacher.check_student`].
        """
        self.check_student(student.config)
        if self.model.config.vocab_size != student.config.vocab_size:
            raise ValueError(
                f"The teacher {self.name} has {self.model.config.vocab_size - FIRST_ITEM_TOKEN} items, the model "
                f"{student.config.vocab_size - FIRST_ITEM_TOKEN}; they need the same."
            )
        changes: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        changes["attn_implementation"] = student.config._attn_implementation
        self.model = type(student).from_pretrained(self.folder, **changes).requires_grad_(False).train()
        student.teacher = self

    @torch.no_grad()
    def soft_targets(
        self, inputs: Mapping[str, Any], labels: torch.Tensor, causal_rows: torch.Tensor | None, num_labels: int
    ) -> SoftTargets:
        r"""
        What it thinks of the labels of a batch.

        Args:
            inputs (mapping): Those of the student's encoder, padded histories of tokens.
            labels (`torch.Tensor` of shape `(batch_size, sequence_length)`): As the student takes them.
            causal_rows (`torch.BoolTensor` of shape `(batch_size,)`, *optional*): As the student takes them.
            num_labels (`int`): How many labels the student found.

        Returns:
            [`SoftTargets`]

        Raises:
            ValueError: If the histories are vectors, or longer than the student reads.
        """
        if inputs["inputs_embeds"] is not None:
            raise ValueError(
                "A teacher reads tokens, found inputs_embeds; give input_ids, or train without a teacher."
            )
        self.model.to(labels.device)
        _, vectors, _ = self.model.labelled_vectors(dict(inputs), labels, causal_rows)
        if len(vectors) != num_labels:
            raise ValueError(
                f"The teacher found {len(vectors)} labels, the model {num_labels}: histories are longer than it reads; cut them "
                "to its max_position_embeddings."
            )
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
