"""
`BertForMaskedLM` with `Trainer`, as written by hand in one sitting: everything is padded to the maximum, and every position
is scored against the whole catalogue.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

from .. import task as sizes
from ..histories import Histories
from ..measurement import Launcher, main
from ..task import Task

PADDING, MASK, FIRST_ITEM = 0, 1, 2


class Plain(Launcher):
    packages = ("transformers", "accelerate")
    filters_seen = True

    def __init__(self, task: Task, histories: Histories):
        self.max_length, self.histories = task.max_length, histories
        self.items = np.unique(histories.items)
        self.steps_per_pass = histories.num_users / sizes.BATCH_SIZE
        config = BertConfig(
            vocab_size=len(self.items) + FIRST_ITEM,
            hidden_size=sizes.HIDDEN_SIZE,
            num_hidden_layers=sizes.NUM_LAYERS,
            num_attention_heads=sizes.NUM_HEADS,
            intermediate_size=sizes.INTERMEDIATE_SIZE,
            hidden_dropout_prob=sizes.DROPOUT,
            max_position_embeddings=task.max_length,
            pad_token_id=PADDING,
        )
        self.model = BertForMaskedLM(config)

    def _tokens(self, items: np.ndarray) -> list[int]:
        return (np.searchsorted(self.items, items) + FIRST_ITEM).tolist()

    def _padded(self, sequences: list[list[int]]) -> dict[str, torch.Tensor]:
        input_ids = torch.full((len(sequences), self.max_length), PADDING)
        for row, sequence in enumerate(sequences):
            input_ids[row, : len(sequence)] = torch.tensor(sequence)
        return {"input_ids": input_ids, "attention_mask": (input_ids != PADDING).long()}

    def _cloze(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Hides each event with probability rho, and the newest one of a sequence in which none was hidden."""
        batch = self._padded([example["input_ids"] for example in examples])
        hidden = (torch.rand(batch["input_ids"].shape) < sizes.MLM_PROBABILITY) & batch["attention_mask"].bool()
        newest = batch["attention_mask"].sum(1) - 1
        hidden[torch.arange(len(examples)), newest] |= ~hidden.any(1)
        labels = batch["input_ids"].masked_fill(~hidden, -100)
        return {**batch, "input_ids": batch["input_ids"].masked_fill(hidden, MASK), "labels": labels}

    def train(self, num_steps: int):
        examples = [
            {"input_ids": self._tokens(part[-self.max_length :])}
            for part in self.histories.without_last(2)
            if len(part)
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=sizes.BATCH_SIZE,
                learning_rate=sizes.LEARNING_RATE,
                max_steps=num_steps,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            )
            Trainer(self.model, arguments, train_dataset=examples, data_collator=self._cloze).train()  # type: ignore

    def get_ready(self, users: np.ndarray):
        parts = self.histories.without_last(1)
        self.known = {self.histories.user_ids[user].item(): self._tokens(parts[user]) for user in users}
        self.model.eval()

    @torch.no_grad()
    def recommend(self) -> dict[Any, list[Any]]:
        found: dict[Any, list[Any]] = {}
        users = list(self.known)
        for start in range(0, len(users), sizes.BATCH_SIZE):
            chosen = users[start : start + sizes.BATCH_SIZE]
            batch = self._padded([[*self.known[user][1 - self.max_length :], MASK] for user in chosen])
            logits = self.model(**batch).logits  # (batch, length, vocab)
            scores = logits[batch["input_ids"] == MASK]  # (batch, vocab)
            scores[:, :FIRST_ITEM] = -torch.inf
            for row, user in enumerate(chosen):
                scores[row, self.known[user]] = -torch.inf
            best = scores.topk(sizes.TOP_K).indices.numpy() - FIRST_ITEM
            found.update(zip(chosen, self.items[best].tolist(), strict=True))
        return found


if __name__ == "__main__":
    main(Plain)
