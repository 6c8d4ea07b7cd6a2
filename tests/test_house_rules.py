"""
The rules of the house that ruff does not know, held on the syntax trees: import direction, sizes, forbidden names.
"""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("hf_bert4rec", "tests", "examples", "benchmarks", "docs")
SOURCES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in SOURCES if path.parts[0] == "hf_bert4rec"]

# A module imports from lower levels only. A new module gets its level here.
LEVELS = (
    {"token_pairs", "sharded_items", "cpu_parallelism", "ranking_metric", "product_sizes", "item_ids"}
    | {"block_parts", "member_norm", "soft_targets", "dropout"},
    {"configuration_bert4rec", "tokenization_bert4rec", "losses", "ranking", "metrics", "interactions", "synthetic"}
    | {"randomness", "pruned_layer", "row_attention", "event_window", "process_memory", "published_results"}
    | {"error_text", "whole_file", "energy", "reporting", "batching", "item_index", "token_gate", "web_lists"},
    {"item_embeddings", "next_item_ranking", "cpu_attention", "sampled_losses", "sequences", "data_collator"}
    | {"item_search", "encoders"},
    {"item_head", "protocols", "packed_rows"},
    {"row_parts"},
    {"modeling_bert4rec", "known_results"},
    {"modeling_bert4rec_causal", "modeling_bert4rec_classification", "ranking_graph"}
    | {"evaluation", "scoring", "rowwise_adam", "metrics_text", "attention_rollout"},
    {"exported_scorer", "export_check"},
    {"pipeline_recommendation", "export", "catalogue", "plots", "baselines", "recipes"}
    | {"embedding", "run_folder", "run_arguments", "answer_files"},
    {"run_record", "publishing", "convert", "serving_requests", "fine_tuning", "comparison", "card_facts"},
    {"distillation", "ensemble", "logit_adjustment", "serving", "web"},
    {"training"},
    {"model_card", "space", "hyperparameter_search"},
    {"reproduction"},
    {"__init__"},
    {"command_options", "demo"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
# Scripts that another package loads, and so imports: none of ours does.
LOADED_BY_OTHERS = {"next_item_ranking": {"datasets", "evaluate"}}
LEVEL_OF = {module: level for level, modules in enumerate(LEVELS) for module in modules}
# Written in halves, so that a search for loose ends does not find this file.
LOOSE_END = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")


def own_imports(path: Path, source: str) -> set[str]:
    """Modules of hf_bert4rec that a file imports, also inside a function; `__init__` stands for the package itself."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = path.parent.parts[: len(path.parent.parts) + 1 - node.level] if node.level else ()
            base = ".".join((*folder, node.module) if node.module else folder)
            names += [f"{base}.{alias.name}" for alias in node.names]
    modules = [name.split(".")[1] if "." in name else "" for name in names if name.split(".")[0] == "hf_bert4rec"]
    return {module if module in LEVEL_OF else "__init__" for module in modules}


def wrong_imports(path: Path, source: str) -> list[str]:
    own = path.with_suffix("").parts[1]
    if own not in LEVEL_OF:
        return [f"{own} has no level: add it to LEVELS"]
    imports = own_imports(path, source) - {own}
    return sorted(f"{own} imports {module}" for module in imports if LEVEL_OF[module] >= LEVEL_OF[own])


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function without its docstring, blank lines and comments."""
    numbers = set(range(function.lineno, function.end_lineno + 1))
    if ast.get_docstring(function) is not None:
        numbers -= set(range(function.body[0].lineno, function.body[0].end_lineno + 1))
    return sum(1 for number in numbers if not re.match(r"\s*(#|$)", lines[number - 1]))


def oversized(source: str) -> list[str]:
    lines = source.splitlines()
    found = [f"file has {len(lines)} lines, at most 400"] if len(lines) > 400 else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            positional = len(parameters) - (parameters[:1] in (["self"], ["cls"]))
            # The parameters of forward are those of Transformers' models.
            if positional > 5 and node.name != "forward":
                found.append(f"{node.name} has {positional} positional parameters, at most 5")
            if (length := lines_of_code(node, lines)) > 40:
                found.append(f"{node.name} has {length} lines of code, at most 40")
    return found


def forbidden_statements(path: Path, source: str) -> list[str]:
    """`print` belongs to the command line; `assert` vanishes under `python -O` and so checks no input."""
    found, talks = [], path.name == "cli.py" or path.parent.name == "commands"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            found.append(f"assert in line {node.lineno}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and not talks:
            found.append(f"print in line {node.lineno}")
    return found


def names_no_thing(path: Path) -> bool:
    return any(re.fullmatch(r"(.*_)?(utils?|common|helpers?)", part) for part in path.with_suffix("").parts)


def packages_at_import(source: str) -> set[str]:
    """Other people's packages without which a module cannot be imported; those imported in a function are optional."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"hf_bert4rec"}


@pytest.mark.parametrize("path", PACKAGE, ids=str)
def test_imports_go_one_way(path):
    assert wrong_imports(path, (ROOT / path).read_text("utf-8")) == []


@pytest.mark.parametrize("path", PACKAGE, ids=str)
def test_the_package_neither_prints_nor_asserts(path):
    assert forbidden_statements(path, (ROOT / path).read_text("utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_files_and_functions_stay_short(path):
    assert oversized((ROOT / path).read_text("utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_is_left_for_later_or_filed_under_no_name(path):
    assert LOOSE_END.findall((ROOT / path).read_text("utf-8")) == []
    assert not names_no_thing(path)


def test_what_is_imported_is_required_and_nothing_else():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    required = {re.split(r"[<>=]", line)[0] for line in setup["options"]["install_requires"].split()}
    imported = {path.stem: packages_at_import((ROOT / path).read_text("utf-8")) for path in PACKAGE}
    assert required == set().union(
        *(names - LOADED_BY_OTHERS.get(module, set()) for module, names in imported.items())
    )
    for path in PACKAGE:
        assert not own_imports(path, (ROOT / path).read_text("utf-8")) & LOADED_BY_OTHERS.keys() - {path.stem}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("losses", "from .ranking import target_ranks", ["losses imports ranking"]),
        ("losses", "from . import ranking", ["losses imports ranking"]),
        ("losses", "import hf_bert4rec.cli", ["losses imports cli"]),
        ("losses", "def f():\n    from hf_bert4rec import Bert4RecConfig", ["losses imports __init__"]),
        ("losses", "import torch\nfrom transformers.models import bert", []),
        ("evaluation", "from .ranking import target_ranks\nfrom .sequences import EvaluationSequences", []),
        ("ranking", "from .evaluation import evaluate", ["ranking imports evaluation"]),
        ("cli", "from . import __version__\nfrom .training import train", []),
        ("baselines/popularity", "from ..ranking import top_k_items\nfrom .markov import Markov", []),
        ("baselines/popularity", "from ..training import train", ["baselines imports training"]),
        ("surprise", "", ["surprise has no level: add it to LEVELS"]),
    ],
)
def test_an_import_against_the_direction_is_found(module, source, wrong):
    assert wrong_imports(Path(f"hf_bert4rec/{module}.py"), source) == wrong


def test_a_package_that_is_imported_is_found_unless_it_is_optional():
    assert packages_at_import("import os, torch.nn\nfrom numpy import array") == {"torch", "numpy"}
    assert packages_at_import("from .losses import x\ndef f():\n    import matplotlib") == set()


def test_what_is_too_long_is_found():
    body = '    """\n    Said in three lines.\n    """\n\n    # why\n' + "    x = 1\n" * 39
    assert oversized("def f():\n" + body) == []
    assert oversized("def f():\n" + body + "    y = 2\n") == ["f has 41 lines of code, at most 40"]
    assert oversized("x = 1\n" * 400) == []
    assert oversized("x = 1\n" * 401) == ["file has 401 lines, at most 400"]


def test_too_many_positional_parameters_are_found():
    assert oversized("def f(a, b, c, d, e, *, f, g): pass") == []
    assert oversized("class A:\n    def f(self, a, b, c, d, e): pass") == []
    assert oversized("def f(a, b, /, c, d, e, f): pass") == ["f has 6 positional parameters, at most 5"]
    assert oversized("class A:\n    def forward(self, a, b, c, d, e, f): pass") == []


def test_a_print_and_an_assert_are_found():
    source = "def f(x):\n    assert x\n    print(x)"
    assert forbidden_statements(Path("hf_bert4rec/losses.py"), source) == ["assert in line 2", "print in line 3"]
    for path in ("hf_bert4rec/cli.py", "hf_bert4rec/commands/train.py"):
        assert forbidden_statements(Path(path), source) == ["assert in line 2"]


def test_a_loose_end_and_a_module_that_names_no_thing_are_found():
    assert LOOSE_END.findall("x = 1  # TO" + "DO: later")
    for name in ("utils", "common", "helpers", "data_utils", "test_helpers"):
        assert names_no_thing(Path(f"hf_bert4rec/{name}.py"))
    assert not names_no_thing(Path("hf_bert4rec/metrics.py"))
