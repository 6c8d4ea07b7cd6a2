"""
The metric of `next_item_ranking.py` for people who use Hugging Face's `evaluate`: loaded from the package, or as a folder for
the Hub.

*Source:* https://huggingface.co/docs/evaluate/creating_and_sharing; a Space named like the metric holds its script.

*Differences:* the Space is a static page: the widget that `evaluate` makes needs a version of gradio that is no longer kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

NAME = "next_item_ranking"
HERE = Path(__file__).parent
# `evaluate` loads the script and, by its relative import, the file beside it.
SCRIPTS = (f"{NAME}.py", "metrics.py")
REQUIREMENTS = ("datasets", "evaluate", "numpy")
PAGE = f"""<!doctype html>
<meta charset="utf-8">
<title>{NAME}</title>
<p>Recall@k, NDCG@k and MRR of next-item recommendation, for <a href="https://huggingface.co/docs/evaluate">evaluate</a>;
the card under “Files” says how to use them.</p>
"""


def ranking_metric(config_name: str = "lists", **options: Any) -> Any:
    r"""
    Recall@k, NDCG@k and MRR as a module of `evaluate`, loaded from this package without a network.

    Args:
        config_name (`str`, *optional*, defaults to `"lists"`):
            What the predictions are: `"lists"` of item ids, the best first, or rows of `"scores"`.
        options: For `evaluate.load`, such as `num_process`, `process_id` and `experiment_id`.

    Returns:
        `evaluate.EvaluationModule`: with `compute`, `add` and `add_batch`.

    Raises:
        ValueError: If there is no such configuration, or if `evaluate` is not installed.

    Example:
        >>> metric = ranking_metric()
        >>> metric.compute(predictions=[["b", "a"], ["c", "a"]], references=["a", "c"], ks=(1,))
        {'recall@1': 0.5, 'ndcg@1': 0.5, 'mrr': 0.75}
    """
    try:
        import evaluate
    except ImportError as error:
        raise ValueError(f"The metric needs evaluate ({error}): pip install 'hf_bert4rec[evaluate]'") from None
    return evaluate.load(str(HERE / SCRIPTS[0]), config_name, **options)


def save_ranking_metric(directory: str | Path) -> Path:
    r"""
    Write the metric as a folder that `evaluate.load` reads and the Hub takes as a Space; it needs nothing of this package.

    Args:
        directory (`str` or `Path`): Gets a folder `next_item_ranking`, which must be named so.

    Returns:
        `Path`: the folder.

    Example:
        ```python
        >>> folder = save_ranking_metric(".")  # doctest: +SKIP
        >>> huggingface_hub.create_repo("me/next_item_ranking", repo_type="space", space_sdk="static")  # doctest: +SKIP
        >>> huggingface_hub.upload_folder(repo_id="me/next_item_ranking", repo_type="space", folder_path=folder)  # doctest: +SKIP
        >>> evaluate.load("me/next_item_ranking")  # doctest: +SKIP
        ```
    """
    folder = Path(directory) / NAME
    folder.mkdir(parents=True, exist_ok=True)
    for script in SCRIPTS:
        shutil.copyfile(HERE / script, folder / script)
    shutil.copyfile(HERE / "ranking_metric_card.md", folder / "README.md")
    (folder / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    return folder
