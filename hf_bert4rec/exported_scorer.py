"""
An exported model as a scorer: what `compare` and `evaluate` rank is the graph that will serve, not the model it came from.

*Source:* none; the folder is what [`write_export`] writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .data_collator import DataCollatorForCloze
from .ranking_graph import INPUT_NAMES, OUTPUT_NAMES

EXPORT_FILE, ITEMS_FILE, INDEX_FILE = "export.json", "items.json", "items.faiss"
GRAPH_FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
EXPORT_FORMAT = "hf_bert4rec-export"
# Tokens that are read at once: a batch of histories of 200 items is faster in parts whose attention stays in the cache.
TOKENS_AT_ONCE = 1 << 11

Graph = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]


class ExportedScorer:
    r"""
    Follows [`ranking.Scorer`] on the graph of an exported folder. The graph gives the scores of the whole catalogue, so that
    a batch takes `batch_size * vocab_size` numbers of memory, however small the slices that are asked for.

    Args:
        folder (`str` or `Path`): What [`write_export`] wrote.
        num_threads (`int`, *optional*): Threads of onnxruntime; by default as many as torch uses.

    Raises:
        FileNotFoundError: If the folder or its graph is missing.
        ValueError: If it holds no export, or onnxruntime is missing.
    """

    def __init__(self, folder: str | Path, *, num_threads: int | None = None):
        self.folder = Path(folder)
        self.facts = _read_facts(self.folder)
        self.vocab_size: int = self.facts["vocab_size"]
        self.collator = DataCollatorForCloze(
            max_length=self.facts["max_position_embeddings"],
            pad_token_id=self.facts["pad_token_id"],
            mask_token_id=self.facts["mask_token_id"],
        )
        path = self.folder / GRAPH_FILES[self.facts["format"]]
        if not path.exists():
            raise FileNotFoundError(f"{self.folder} has no {path.name}; export the model again.")
        is_onnx = self.facts["format"] == "onnx"
        self._graph = _onnx_graph(path, num_threads or torch.get_num_threads()) if is_onnx else _torch_graph(path)

    @cached_property
    def item_ids(self) -> list[str | int]:
        """`list`: Raw ids of all items in token order, in the type they came in."""
        item_ids = json.loads((self.folder / ITEMS_FILE).read_text(encoding="utf-8"))["item_ids"]
        return item_ids[self.facts["first_item_token"] :]

    def graph_hash(self) -> str:
        """SHA-256 of the graph and its weights, which tells which graph a figure belongs to."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob(GRAPH_FILES[self.facts["format"]] + "*")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def user_vectors(self, histories: list[np.ndarray]) -> torch.Tensor:
        """Vectors of shape `(num_histories, hidden_size)`, see [`Bert4RecForMaskedLM.user_vectors`]."""
        return self._outputs("user_vectors", histories)

    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> Callable[[int, int], torch.Tensor]:
        """`score_items(start, stop)` gives float32 scores of shape `(num_histories, stop - start)`."""
        scores = self._outputs("scores", histories)
        return lambda start, stop: scores[:, start:stop]

    def _outputs(self, name: str, histories: list[np.ndarray]) -> torch.Tensor:
        """One output of the graph for all histories, `(num_histories, columns)`."""
        max_length = self.facts["max_position_embeddings"]
        longest = min(max(map(len, histories), default=0) + 1, max_length)
        rows = max(1, TOKENS_AT_ONCE // longest)
        outputs = []
        for start in range(0, len(histories), rows):
            batch = self.collator.ranking_batch(histories[start : start + rows])
            outputs.append(self._graph(name, *(batch[input_name] for input_name in INPUT_NAMES)))
        return torch.cat(outputs)


def _read_facts(folder: Path) -> dict[str, Any]:
    file = folder / EXPORT_FILE
    if not file.exists():
        raise FileNotFoundError(f"{folder} has no {EXPORT_FILE}; give the folder that hf-bert4rec export wrote.")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}; export the model again.") from error
    if not isinstance(facts, dict) or facts.get("kind") != EXPORT_FORMAT:
        raise ValueError(f"{file} is not that of an export (kind is not {EXPORT_FORMAT!r}); export the model again.")
    return facts


def _onnx_graph(path: Path, num_threads: int) -> Graph:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("An ONNX graph runs on onnxruntime: pip install 'hf_bert4rec[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    only_what_is_asked = onnxruntime.RunOptions()
    only_what_is_asked.only_execute_path_to_fetches = True

    def run(name: str, *inputs: torch.Tensor) -> torch.Tensor:
        feeds = {input_name: tensor.numpy() for input_name, tensor in zip(INPUT_NAMES, inputs, strict=True)}
        return torch.from_numpy(session.run([name], feeds, only_what_is_asked)[0])

    return run


def _torch_graph(path: Path) -> Graph:
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(name: str, *inputs: torch.Tensor) -> torch.Tensor:
        return module(*inputs)[OUTPUT_NAMES.index(name)]

    return run
