"""
The page of a model as a Space of the Hub: an `app.py` that loads the model's repository by its name, and the modules of this
package that it runs, so that nothing has to be installed but torch and Transformers.

*Source:* https://huggingface.co/docs/hub/spaces-config-reference.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import torch
import transformers
from huggingface_hub import CommitInfo, CommitOperation, CommitOperationAdd, CommitOperationDelete, HfApi
from transformers.dynamic_module_utils import get_relative_import_files

from .publishing import clear_errors, open_repository
from .web import check_gradio

FOLDER = "hf_bert4rec/"

APP = '''\
"""The page of a BERT4Rec, written by `hf-bert4rec push --space`. It loads the model anew whenever the Space starts."""

from hf_bert4rec.modeling_bert4rec import Bert4RecForMaskedLM
from hf_bert4rec.pipeline_recommendation import NextItemRecommendationPipeline
from hf_bert4rec.tokenization_bert4rec import Bert4RecTokenizer
from hf_bert4rec.web import page_options, web_page

MODEL, REVISION = {model}, {revision}

model = Bert4RecForMaskedLM.from_pretrained(MODEL, revision=REVISION)
tokenizer = Bert4RecTokenizer.from_pretrained(MODEL, revision=REVISION)
page = web_page(NextItemRecommendationPipeline(model=model, tokenizer=tokenizer), name=MODEL)

if __name__ == "__main__":
    page.launch(**page_options())
'''
README = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
models:
- {repo_id}
---

A page to try the model [{repo_id}](https://huggingface.co/{repo_id}) on: make a history of items, watch the recommendations
change.
"""
# Processors are what a Space has unless one pays for more; the wheels of PyPI would bring gigabytes for GPUs.
REQUIREMENTS = """\
--extra-index-url https://download.pytorch.org/whl/cpu
torch=={torch}
transformers=={transformers}
"""


def push_space(
    repo_id: str, *, private: bool | None = None, revision: str | None = None, token: str | bool | None = None
) -> CommitInfo:
    r"""
    Push the page of a model that is on the Hub, as a Space of the same name, in one commit. Modules that an earlier push left
    there and the page does not run any more are deleted; other files stay.

    Args:
        repo_id (`str`): Whole name of the model's repository, owner included.
        private (`bool`, *optional*): Whether a Space that is made is private.
        revision (`str`, *optional*): Branch of the model that the page loads.
        token (`str` or `bool`, *optional*): As everywhere in huggingface_hub.

    Returns:
        `CommitInfo`: The commit, with its `repo_url`.

    Raises:
        ValueError: If Gradio is missing, whose version the Space takes, or a public Space was to be private.
        OSError: If the Hub cannot be reached or refuses; the Space is then as it was.
    """
    files = space_files(repo_id, revision=revision)
    api = HfApi(token=token, library_name="hf_bert4rec")
    found = open_repository(repo_id, private=private, token=token, is_space=True)
    present = {sibling.rfilename for sibling in found.siblings or []}
    left = sorted(name for name in present - files.keys() if name.startswith(FOLDER))
    operations: list[CommitOperation] = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
    operations += [CommitOperationDelete(name, is_folder=False) for name in left]
    with clear_errors(f"spaces/{found.id}", api.endpoint):
        return api.create_commit(found.id, operations, commit_message="Upload page", repo_type="space")


def space_files(repo_id: str, *, revision: str | None = None) -> dict[str, bytes]:
    r"""
    What a Space holds.

    Args:
        repo_id (`str`): Whole name of the model's repository.
        revision (`str`, *optional*): Its branch.

    Returns:
        `dict` of name to content.

    Raises:
        ValueError: If Gradio is missing.
    """
    check_gradio()
    import gradio

    texts = {
        "app.py": APP.format(model=json.dumps(repo_id), revision=None if revision is None else json.dumps(revision)),
        "README.md": README.format(
            title=json.dumps(repo_id.rpartition("/")[2]),
            repo_id=repo_id,
            gradio=gradio.__version__,
            python=".".join(platform.python_version_tuple()[:2]),
        ),
        "requirements.txt": REQUIREMENTS.format(
            torch=torch.__version__.partition("+")[0], transformers=transformers.__version__
        ),
        f"{FOLDER}__init__.py": '"""Those modules of hf_bert4rec that the page runs."""\n',
    }
    page = Path(str(sys.modules[check_gradio.__module__].__file__))
    modules = {Path(name) for name in (page, *get_relative_import_files(page))}
    code = {f"{FOLDER}{path.name}": path.read_bytes() for path in modules}
    return {name: text.encode("utf-8") for name, text in texts.items()} | code


__all__ = ["push_space", "space_files"]
