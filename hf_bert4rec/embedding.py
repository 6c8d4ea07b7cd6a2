"""
Item and user vectors as Parquet, features for other models: score = user vector · item vector + item bias.

*Source:* the output layer of Sun et al. (CIKM 2019), section 3.5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .interactions import InteractionData
from .modeling_bert4rec import Bert4RecForMaskedLM
from .scoring import ModelScorer
from .tokenization_bert4rec import Bert4RecTokenizer
from .whole_file import whole_folder

ROWS_AT_ONCE = 1024


def write_vectors(
    model: Bert4RecForMaskedLM,
    tokenizer: Bert4RecTokenizer,
    output_dir: str | Path,
    *,
    data: InteractionData | None = None,
    overwrite: bool = False,
) -> list[Path]:
    r"""
    Write `item_vectors.parquet` (`item_id`, `vector`, `bias`) and, with data, `user_vectors.parquet` (`user_id`,
    `vector`, from the whole history), a batch at a time.

    Args:
        model ([`Bert4RecForMaskedLM`]): The trained model.
        tokenizer ([`Bert4RecTokenizer`]): Its tokenizer.
        output_dir (`str` or `Path`): Folder of the two files; must not exist.
        data ([`InteractionData`], *optional*): Whose users are embedded.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace the folder.

    Returns:
        list of `Path`: the files.

    Raises:
        FileExistsError: If the folder exists.
    """
    output_dir = Path(output_dir)
    names = ["item_vectors.parquet"]
    with whole_folder(output_dir, overwrite=overwrite) as partial:
        _write_items(model, tokenizer, partial / names[0])
        if data is not None:
            names.append("user_vectors.parquet")
            _write_users(ModelScorer(model), data, partial / names[1])
    return [output_dir / name for name in names]


def _write_items(model: Bert4RecForMaskedLM, tokenizer: Bert4RecTokenizer, path: Path):
    head = model.get_output_embeddings()
    vectors = head.weight.detach().float().cpu().numpy()[FIRST_ITEM_TOKEN:]
    bias = head.bias.detach().float().cpu().numpy()[FIRST_ITEM_TOKEN:]
    pq.write_table(pa.table({"item_id": tokenizer.item_ids, "vector": _lists(vectors), "bias": bias}), path)


def _write_users(scorer: ModelScorer, data: InteractionData, path: Path):
    size = scorer.model.config.hidden_size
    schema = pa.schema({"user_id": pa.string(), "vector": pa.list_(pa.float32(), size)})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, data.num_users, ROWS_AT_ONCE):
            users = range(start, min(start + ROWS_AT_ONCE, data.num_users))
            histories = [data.history(user).astype(np.int64) + FIRST_ITEM_TOKEN for user in users]
            vectors = scorer.user_vectors(histories).cpu().numpy()
            ids = data.user_ids[users.start : users.stop]
            ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
            writer.write_table(pa.table({"user_id": ids.cast(pa.string()), "vector": _lists(vectors)}, schema=schema))


def _lists(vectors: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
