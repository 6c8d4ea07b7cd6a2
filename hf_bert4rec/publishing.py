"""
A run on the Hub: weights, tokenizer with titles, model card, record and, where asked for, the code that reads them.

*Source:* Transformers' `push_to_hub` and its custom code on the Hub (`auto_map`, `custom_pipelines`).

*Differences:* all files go in one commit, so that a repository is whole or as it was; of the folder only those go that make
the model, and the record goes without local paths.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperation,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    SpaceInfo,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

from .configuration_bert4rec import Bert4RecConfig
from .modeling_bert4rec import Bert4RecForMaskedLM, Bert4RecModel
from .modeling_bert4rec_causal import Bert4RecForCausalLM
from .modeling_bert4rec_classification import Bert4RecForSequenceClassification, Bert4RecForTokenClassification
from .pipeline_recommendation import NextItemRecommendationPipeline
from .run_folder import RUN_FILE, check_run
from .tokenization_bert4rec import Bert4RecTokenizer

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
MODEL_FILES = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "titles.json")
TASK = "next-item-recommendation"
# What loads a folder with its code, by the Auto class that looks for it.
AUTO_CLASSES = {
    "AutoConfig": Bert4RecConfig,
    "AutoModel": Bert4RecModel,
    "AutoModelForMaskedLM": Bert4RecForMaskedLM,
    "AutoModelForCausalLM": Bert4RecForCausalLM,
    "AutoModelForSequenceClassification": Bert4RecForSequenceClassification,
    "AutoModelForTokenClassification": Bert4RecForTokenClassification,
}
ENTRIES = (*AUTO_CLASSES.values(), Bert4RecTokenizer, NextItemRecommendationPipeline)
SECRETS = {"hub_token"}
PICTURE = re.compile(r"!\[[^\]]*\]\(([\w.-]+)\)")
HOW_TO_LOAD = re.compile(
    r"^import hf_bert4rec\b[^\n]*\n\n?(?P<comment>#[^\n]*\n)?"
    r'(?P<call>\w+ = pipeline\("next-item-recommendation", model=)"[^"\n]*"\)$',
    re.MULTILINE,
)


@dataclass
class PushOptions:
    """How a run is pushed; the fields are options of `hf-bert4rec push`."""

    private: bool | None = field(
        default=None,
        metadata={"help": "Whether a repository that is made is private (default: as its owner has set)."},
    )
    revision: str | None = field(
        default=None, metadata={"help": "Branch to push to, made where there is none (default: the main branch)."}
    )
    commit_message: str = field(default="Upload BERT4Rec", metadata={"help": "Message of the commit."})
    with_code: bool = field(
        default=False,
        metadata={"help": "Push the code too: trust_remote_code=True then loads the model without this package."},
    )


def push_run(run: str | Path, repo_id: str, *, token: str | bool | None = None, **options: Any) -> CommitInfo:
    r"""
    Push a run to the Hub, in one commit: its configuration, weights, tokenizer with titles, README.md with the pictures it
    shows, and `run.json` without local paths and tokens. Nothing else of the folder goes. Files of these kinds that an
    earlier push left in the repository and this run does not have are deleted there; others stay.

    Args:
        run (`str` or `Path`): Folder that [`train`] or `save_pretrained` of model and tokenizer wrote.
        repo_id (`str`): Name of the repository, after its owner and a slash where that is not you; made where there is none.
        token (`str` or `bool`, *optional*): As everywhere in huggingface_hub; by default the one of `hf auth login`.
        options: Fields of [`PushOptions`].

    Returns:
        `CommitInfo`: The commit, with its `commit_url` and `repo_url`.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If the folder holds another model, `repo_id` is no id, or a public repository was to be private.
        OSError: If the Hub cannot be reached or refuses; the repository is then as it was.

    Example:
        ```python
        >>> push_run("run", "me/films", with_code=True).repo_url  # doctest: +SKIP
        RepoUrl('https://huggingface.co/me/films', ...)
        ```
    """
    chosen, api = PushOptions(**options), HfApi(token=token, library_name="hf_bert4rec")
    files = hub_files(run, with_code=chosen.with_code)
    found = open_repository(repo_id, private=chosen.private, revision=chosen.revision, token=token)
    present = {sibling.rfilename for sibling in found.siblings or []}
    if CARD_FILE in files:
        text = _content(files[CARD_FILE]).decode("utf-8")
        files[CARD_FILE] = card_of_repository(text, found.id, chosen.with_code).encode("utf-8")
    else:
        shown = "the results of whatever was there before" if CARD_FILE in present else "no results"
        logger.warning("%s has no README.md, so %s shows %s; hf-bert4rec card writes one.", run, found.id, shown)
    left = _left_behind(present - files.keys())
    operations: list[CommitOperation] = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
    operations += [CommitOperationDelete(name, is_folder=False) for name in left]
    with clear_errors(found.id, api.endpoint):
        message = chosen.commit_message
        return api.create_commit(found.id, operations, commit_message=message, revision=chosen.revision)


def open_repository(
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    is_space: bool = False,
) -> ModelInfo | SpaceInfo:
    r"""
    A repository that can be pushed to, made where there is none.

    Args:
        repo_id (`str`): Its name, after its owner and a slash where that is not you.
        private (`bool`, *optional*): Whether it is to be private.
        revision (`str`, *optional*): A branch, made where there is none.
        token (`str` or `bool`, *optional*): As everywhere in huggingface_hub.
        is_space (`bool`, *optional*, defaults to `False`): Whether it is a Space of Gradio rather than a model.

    Returns:
        `ModelInfo` or `SpaceInfo`: What the Hub knows of it, its whole `id` among others.

    Raises:
        ValueError: If `repo_id` is no id, or a public repository was to be private.
        OSError: If the Hub cannot be reached or refuses.
    """
    api = HfApi(token=token, library_name="hf_bert4rec")
    repo_type, space_sdk, prefix = ("space", "gradio", "spaces/") if is_space else (None, None, "")
    with clear_errors(f"{prefix}{repo_id}", api.endpoint):
        validate_repo_id(repo_id)
        made = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True, space_sdk=space_sdk)
        repo_id = made.repo_id
        find = api.space_info if is_space else api.model_info
        found: ModelInfo | SpaceInfo = find(repo_id)
        if private and not found.private:
            raise ValueError(
                f"{prefix}{repo_id} exists and is public; make it private in its settings, or push without private."
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
            found = find(repo_id, revision=revision)
    return found


def hub_files(run: str | Path, *, with_code: bool = False) -> dict[str, Path | bytes]:
    r"""
    What goes to the Hub of the folder of a run.

    Args:
        run (`str` or `Path`): The folder.
        with_code (`bool`, *optional*, defaults to `False`): Whether the code goes too.

    Returns:
        `dict` of name to content: a `Path` where the file goes as it is, `bytes` where it is changed or written.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If it holds a model that is not BERT4Rec, or is unfinished.
    """
    folder = Path(run)
    check_run(folder)
    patterns = (*MODEL_FILES, *TOKENIZER_FILES, CARD_FILE)
    files: dict[str, Path | bytes] = {
        path.name: path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in patterns)
    }
    if CARD_FILE in files:
        pictures = set(PICTURE.findall((folder / CARD_FILE).read_text("utf-8")))
        files |= {name: folder / name for name in pictures if (folder / name).is_file()}
    if (folder / RUN_FILE).exists():
        files[RUN_FILE] = _json(_public(json.loads((folder / RUN_FILE).read_text("utf-8"))))
    for name in ("config.json", "tokenizer_config.json"):
        found = json.loads((folder / name).read_text("utf-8"))
        references = _references(name) if with_code else {}
        if references or found.keys() & {"auto_map", "custom_pipelines"}:
            plain = {key: value for key, value in found.items() if key not in ("auto_map", "custom_pipelines")}
            files[name] = _json(plain | references)
    return files | (_code() if with_code else {})


def _references(name: str) -> dict[str, Any]:
    """What a configuration file says of the code beside it."""
    if name == "tokenizer_config.json":
        return {"auto_map": {"AutoTokenizer": [_reference(Bert4RecTokenizer), None]}}
    impl = _reference(NextItemRecommendationPipeline)
    return {
        "auto_map": {name: _reference(entry) for name, entry in AUTO_CLASSES.items()},
        "custom_pipelines": {TASK: {"impl": impl, "pt": ["AutoModelForMaskedLM"], "type": "text"}},
    }


def _reference(entry: type) -> str:
    return f"{entry.__module__.rpartition('.')[2]}.{entry.__name__}"


def _code() -> dict[str, Path | bytes]:
    """The modules that load and run a model, and all that they import of this package."""
    files: dict[str, Path | bytes] = {}
    for entry in ENTRIES:
        source = Path(str(sys.modules[entry.__module__].__file__))
        files |= {path.name: path for path in map(Path, [source, *get_relative_import_files(source)])}
    # A loaded model that is saved again takes along what its module imports, as the text says. What else is in the folder
    # is named here, so that the copy loads with every class that this one does.
    others = [f"    from .{_reference(entry).replace('.', ' import ')}\n" for entry in ENTRIES]
    named = (
        "\n\nif False:  # the other files of this folder, for Transformers to copy where the model is saved again\n"
    )
    for model in (Bert4RecModel, Bert4RecForCausalLM, Bert4RecForSequenceClassification):
        name = f"{_reference(model).partition('.')[0]}.py"
        own = f"from .{name.removesuffix('.py')} import"
        files[name] = _content(files[name]) + (named + "".join(o for o in others if own not in o)).encode("utf-8")
    return files


def _public(value: Any) -> Any:
    """A record as strangers may see it: files without their folders, no tokens."""
    if isinstance(value, dict):
        return {
            name: [_public_command(command) for command in entry] if name == "commands" else _public(entry)
            for name, entry in value.items()
            if name not in SECRETS
        }
    if isinstance(value, list):
        return [_public(entry) for entry in value]
    return _without_folder(value) if isinstance(value, str) else value


def _public_command(command: str) -> str:
    words = shlex.split(command)
    secret = {place + step for place, word in enumerate(words) for step in (0, 1) if word.lstrip("-") in SECRETS}
    return shlex.join(_without_folder(word) for place, word in enumerate(words) if place not in secret)


def _without_folder(text: str) -> str:
    is_windows = PureWindowsPath(text).is_absolute()
    if not (is_windows or PurePosixPath(text).is_absolute() or text.startswith("~/")):
        return text
    return (PureWindowsPath(text) if is_windows else PurePosixPath(text)).name or text


def card_of_repository(text: str, repo_id: str, with_code: bool) -> str:
    """The card with the example that loads this repository."""

    def example(found: re.Match) -> str:
        call = f"{found['call']}{json.dumps(repo_id)}"
        if with_code:
            return f"# the code is in the repository: read it before you trust it\n{call}, trust_remote_code=True)"
        return found[0].replace(found["comment"] or "", "").rpartition(found["call"])[0] + f"{call})"

    return HOW_TO_LOAD.sub(example, text)


def _left_behind(names: set[str]) -> list[str]:
    """Those of some files that an earlier push of a run wrote."""
    code, kinds = _code(), (*MODEL_FILES, *TOKENIZER_FILES, RUN_FILE)
    return sorted(name for name in names if name in code or any(fnmatch(name, kind) for kind in kinds))


def _content(file: Path | bytes) -> bytes:
    return file if isinstance(file, bytes) else file.read_bytes()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


@contextmanager
def clear_errors(repo_id: str, endpoint: str) -> Iterator[None]:
    """What the Hub's client raises, in one line that says what to do."""
    remedy = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"
    try:
        yield
    except HFValidationError as error:
        raise ValueError(
            f"{repo_id!r} cannot be the id of a repository; give NAME or OWNER/NAME of letters, digits, '-', '_' and '.'."
        ) from error
    except LocalTokenNotFoundError as error:
        raise OSError(f"There is no token for {endpoint}; {remedy}.") from error
    except HfHubHTTPError as error:
        status, said = error.response.status_code, error.server_message or error.response.reason_phrase
        if status == 401:
            raise OSError(f"The Hub at {endpoint} takes no such token; {remedy}.") from error
        if status == 403:
            raise OSError(f"The token may not write to {repo_id} ({said}); {remedy} to it.") from error
        raise OSError(f"The Hub answered {status} to the push to {repo_id}: {said}; nothing was pushed.") from error
    except HTTPError as error:
        raise OSError(
            f"The Hub at {endpoint} cannot be reached ({error}); nothing was pushed, repeat it with a network."
        ) from error


__all__ = ["PushOptions", "card_of_repository", "clear_errors", "hub_files", "open_repository", "push_run"]
