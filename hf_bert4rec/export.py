"""
A trained model as a folder that needs neither this package nor Transformers: an ONNX or `torch.export` graph, the list of
items, and on demand an index of the item vectors. It is checked against the model before it takes its name.

*Source:* none; the graph is [`RankingGraph`].
*Differences:* weights and arithmetic are float32 whatever the model was loaded in; `quantize="int8"` is onnxruntime's dynamic
quantisation, whose cost is measured and stated instead of held to a bound.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .export_check import check_index, check_scores, overlap
from .exported_scorer import EXPORT_FILE, EXPORT_FORMAT, GRAPH_FILES, INDEX_FILE, ITEMS_FILE, ExportedScorer
from .interactions import InteractionData
from .item_index import KINDS, ItemIndex
from .modeling_bert4rec import Bert4RecForMaskedLM
from .ranking_graph import INPUT_NAMES, OUTPUT_NAMES, RankingGraph
from .scoring import ModelScorer
from .tokenization_bert4rec import Bert4RecTokenizer
from .whole_file import whole_folder

QUANTIZATIONS = ("int8",)


def write_export(
    model: Bert4RecForMaskedLM,
    tokenizer: Bert4RecTokenizer,
    output_dir: str | Path,
    *,
    format: str = "onnx",
    quantize: str | None = None,
    index: str | None = None,
    data: InteractionData | None = None,
    num_histories: int = 1000,
    overwrite: bool = False,
) -> dict[str, Any]:
    r"""
    Write a model as a graph, check it on histories against the model itself, and only then give the folder its name.

    The graph takes `input_ids` and `attention_mask` of shape `(batch_size, length)` (the newest events of each history and
    [MASK] behind them, padded on either side) and gives `scores` of shape `(batch_size, vocab_size)` and `user_vectors` of
    shape `(batch_size, hidden_size)`. Beside it lie `items.json`, whose `item_ids` and `titles` stand at the place of their
    token, and `export.json`, which says how the graph is to be called and what the check has found.

    Args:
        model ([`Bert4RecForMaskedLM`]): The trained model; it is not changed.
        tokenizer ([`Bert4RecTokenizer`]): Its tokenizer.
        output_dir (`str` or `Path`): Folder to write; must not exist.
        format (`str`, *optional*, defaults to `"onnx"`): `"onnx"`, or `"torch"` for a program of `torch.export` (`.pt2`).
        quantize (`str`, *optional*): `"int8"`: weights of matrix products and item embeddings in 8 bits. ONNX only.
        index (`str`, *optional*): `"flat"` or `"hnsw"` adds a FAISS index of the items, see [`ItemIndex`].
        data ([`InteractionData`], *optional*): Whose histories the check reads; without, they are generated.
        num_histories (`int`, *optional*, defaults to 1000): How many, evenly over the users.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace the folder.

    Returns:
        `dict`: the content of `export.json`.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If an option is unknown or does not fit, a package is missing, or the graph does not give the scores and
            lists of the model; then no folder is left.
    """
    output_dir = Path(output_dir)
    _check_options(format, quantize, index, num_histories)
    num_items = model.config.vocab_size - FIRST_ITEM_TOKEN
    if tokenizer.num_items != num_items:
        raise ValueError(
            f"The model has {num_items} items, its tokenizer {tokenizer.num_items}; give the two that belong together."
        )
    # A copy: float32 on the CPU, and with the attention that a graph can hold.
    model = copy.deepcopy(model).float().cpu().eval()
    model.set_attn_implementation("sdpa")
    facts = _facts(model, format, quantize, index)
    histories, what = _histories(model, data, num_histories)
    with whole_folder(output_dir, overwrite=overwrite) as partial:
        _write_items(tokenizer, partial / ITEMS_FILE)
        _write_facts(facts, partial)  # says how the graph is to be read
        found = _write_checked_graph(model, partial, facts, histories)
        _write_facts(facts | {"check": {"histories": what} | found}, partial)
    return facts | {"check": {"histories": what} | found}


def _write_checked_graph(
    model: Bert4RecForMaskedLM, folder: Path, facts: dict[str, Any], histories: list[np.ndarray]
) -> dict[str, float]:
    """Write the graph, and the index, into a folder that tells how they are to be read; returns what the checks found."""
    path, reference = folder / facts["graph"], ModelScorer(model)
    (_write_onnx if facts["format"] == "onnx" else _write_torch)(model, path)
    found = check_scores(ExportedScorer(folder), reference, histories)
    if facts["quantize"] is not None:
        _quantize(path)
        found["top_10_overlap"] = overlap(ExportedScorer(folder), reference, histories)
    if facts["index"] is not None:
        head = model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[FIRST_ITEM_TOKEN:]
        ItemIndex.build(head.weight[FIRST_ITEM_TOKEN:], bias, facts["index"]).save(folder / INDEX_FILE)
        item_index = ItemIndex.load(folder / INDEX_FILE)
        found |= check_index(item_index, reference, histories, is_exact=facts["index"] == "flat")
    return found


def _check_options(format: str, quantize: str | None, index: str | None, num_histories: int):
    for name, value, choices in (
        ("format", format, tuple(GRAPH_FILES)),
        ("quantize", quantize, (None, *QUANTIZATIONS)),
        ("index", index, (None, *KINDS)),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; choose {' or '.join(map(repr, choices))}.")
    if quantize is not None and format != "onnx":
        raise ValueError(f"quantize {quantize!r} needs the format 'onnx', found {format!r}; change one of the two.")
    if num_histories < 1:
        raise ValueError(f"num_histories is {num_histories}; give at least 1.")
    needed = ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ()
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ValueError(f"The format 'onnx' needs {', '.join(missing)}: pip install 'hf_bert4rec[export]'")


def _facts(model: Bert4RecForMaskedLM, format: str, quantize: str | None, index: str | None) -> dict[str, Any]:
    """How the graph is to be called, for people and programs that do not have this package."""
    config = model.config
    newest = config.max_position_embeddings - 1
    return {
        "kind": EXPORT_FORMAT,
        "format": format,
        "graph": GRAPH_FILES[format],
        "quantize": quantize,
        "index": index,
        "input_ids": f"int64 (batch, length): tokens of each history, oldest first, the newest {newest} at most, then token "
        f"{config.mask_token_id}; shorter rows are filled up with token {config.pad_token_id} on either side",
        "attention_mask": "int64 (batch, length): 1, and 0 where a row was filled up",
        "scores": "float32 (batch, vocab_size): column = token; the first columns are no items; higher is better; items of "
        "the history have scores too",
        "user_vectors": "float32 (batch, hidden_size): queries of the index, followed by 1 and then zeros",
        "items": f"{ITEMS_FILE}: item_ids and titles at the place of their token",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "max_position_embeddings": config.max_position_embeddings,
        "first_item_token": FIRST_ITEM_TOKEN,
        "pad_token_id": config.pad_token_id,
        "mask_token_id": config.mask_token_id,
        "torch_version": torch.__version__,
    }


def _write_facts(facts: dict[str, Any], folder: Path):
    (folder / EXPORT_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _write_items(tokenizer: Bert4RecTokenizer, path: Path):
    special = [None] * FIRST_ITEM_TOKEN
    titles = tokenizer.titles and special + [tokenizer.titles.get(item_id) for item_id in tokenizer.item_ids]
    items = {"item_id_type": tokenizer.item_id_type, "item_ids": special + tokenizer.item_ids, "titles": titles}
    path.write_text(json.dumps(items, ensure_ascii=False) + "\n", encoding="utf-8")


def _exported(model: Bert4RecForMaskedLM) -> torch.export.ExportedProgram:
    mask = model.config.mask_token_id
    example = torch.tensor([[FIRST_ITEM_TOKEN, FIRST_ITEM_TOKEN, mask]] * 2), torch.ones((2, 3), dtype=torch.long)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with torch.no_grad():
        return torch.export.export(RankingGraph(model), example, dynamic_shapes=dict.fromkeys(INPUT_NAMES, shape))


def _write_torch(model: Bert4RecForMaskedLM, path: Path):
    with _quiet():
        torch.export.save(_exported(model), path)


def _write_onnx(model: Bert4RecForMaskedLM, path: Path):
    with _quiet():
        program = torch.onnx.export(
            _exported(model),
            dynamo=True,
            input_names=list(INPUT_NAMES),
            output_names=list(OUTPUT_NAMES),
            verbose=False,
        )
        if program is None:
            raise ValueError("torch.onnx.export gave no graph; use the versions of constraints.txt.")
        program.save(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say to their own developers: deprecations inside torch, operators of torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _quantize(path: Path):
    """Replace a graph by one with 8-bit weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if path.with_name(f"{path.name}.data").exists():
        raise ValueError(
            "The graph has more than 2 GB, which onnxruntime does not quantise; export it without quantize."
        )
    folded, small = path.with_name("folded.onnx"), path.with_name("small.onnx")
    with _quiet():
        # Folds the transposes that stand between weights and products, which would hide that these are constant.
        quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)
        # Seven bits of the eight: processors without VNNI add products in pairs of 16 bits, which eight bits overflow.
        options = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
        quantize_dynamic(str(folded), str(small), **options)
    folded.unlink()
    small.replace(path)


def _histories(
    model: Bert4RecForMaskedLM, data: InteractionData | None, num_histories: int
) -> tuple[list[np.ndarray], str]:
    """Tokens of the histories of a check, and what they are."""
    generator, window = np.random.default_rng(0), model.config.max_position_embeddings
    if data is None:
        lengths, real = generator.integers(0, window + 2, num_histories), []
    else:
        users = np.unique(np.linspace(0, data.num_users - 1, num_histories).astype(np.int64))
        real = [data.history(user).astype(np.int64) + FIRST_ITEM_TOKEN for user in users]
        lengths = np.array([0, 1, window + 1])  # what real histories may lack: none, one, more than the model reads
    generated = [generator.integers(FIRST_ITEM_TOKEN, model.config.vocab_size, length) for length in lengths]
    of_users = f"{len(real):,} users of {data.folder} and " if data is not None else ""
    return real + generated, f"{of_users}{len(generated):,} generated histories"
