"""README and docs do what they say: blocks run or parse, links lead somewhere, tables agree with the code."""

import configparser
import functools
import itertools
import json
import re
import runpy
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from document_blocks import BLOCK, LANGUAGES, ROOT, blocks, commands, run_blocks, wrong

import hf_bert4rec
from hf_bert4rec import demo, synthetic
from hf_bert4rec.cli import main
from hf_bert4rec.commands import train as train_command

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PAGES}
EVERY = ("python", "bash")
# What runs, and the files of `shop` that it starts from. The README's Python and its shell each begin anew.
RUNS = {
    "README.md": [(("python",), ""), (("bash",), "log.csv ratings.dat movies.dat new.csv")],
    "docs/01_install.md": [(EVERY, "")],
    "docs/02_first_run.md": [(EVERY, "")],
    "docs/03_own_data.md": [(EVERY, "log.csv items.csv ratings.dat movies.dat histories.jsonl")],
    "docs/04_evaluation.md": [(EVERY, "log.csv data run")],
    "docs/05_large_catalogues_and_logs.md": [(EVERY, "data run events histories.jsonl")],
    "docs/06_several_machines.md": [],  # has a test of its own
    "docs/07_fine_tuning.md": [(EVERY, "run new.csv vectors.parquet")],
    "docs/08_other_projects.md": [(EVERY, "log.csv run")],
    "docs/09_deployment.md": [(EVERY, "data run histories.jsonl")],
    "docs/10_hub.md": [(EVERY, "data run")],
}
NEEDS = {
    "docs/04_evaluation.md": ("evaluate", "matplotlib"),
    "docs/09_deployment.md": ("onnx", "onnxruntime", "onnxscript"),
}
# Names that a page takes from the program that it is read beside: RecBole's data set.
GIVEN = {"docs/08_other_projects.md": {"dataset": SimpleNamespace(field2id_token={"item_id": ["[PAD]", "f001"]})}}
USERS = 300


@pytest.fixture(scope="module", autouse=True)
def short():
    """Fewer users and steps, wherever a page trains in this process."""
    few, long = functools.partial(synthetic.SyntheticWorld, num_users=USERS), hf_bert4rec.train

    def train(*arguments, **options):
        steps = {"max_steps": 2, "disable_tqdm": True} | ({"eval_steps": 2} if "eval_steps" in options else {})
        return long(*arguments, **(options | steps))

    with pytest.MonkeyPatch.context() as patch:
        for module in (hf_bert4rec, train_command, demo):
            patch.setattr(module, "train", train)
        for module in (synthetic, demo):
            patch.setattr(module, "SyntheticWorld", few)
        yield


@pytest.fixture(scope="module")
def shop(short, tmp_path_factory):
    """What the pages find in their folder."""
    folder = tmp_path_factory.mktemp("shop")
    world = synthetic.SyntheticWorld()
    log = world.generate()
    number = log.user_id.str[1:].astype(int)
    log["user_id"] = number.map("u{:05d}".format)  # as in a log of 12,000 users
    log.to_csv(folder / "log.csv", index=False)
    log[log.item_id != "f000"].replace({"item_id": {"f001": "new"}}).to_csv(folder / "new.csv", index=False)
    (folder / "events").mkdir()
    for part in (0, 1):
        log[number % 2 == part].to_parquet(folder / "events" / f"{part}.parquet")
    pd.DataFrame(world.titles.items(), columns=["item_id", "title"]).to_csv(folder / "items.csv", index=False)
    vectors = {"item_id": [*world.titles, "new"], "vector": [[n, n % 7, 1.0] for n in range(len(world.titles) + 1)]}
    pd.DataFrame(vectors).to_parquet(folder / "vectors.parquet")
    ratings = zip(number, log.item_id.str[1:].astype(int), log.timestamp, strict=True)
    (folder / "ratings.dat").write_text("".join(f"{user}::{item}::5::{time}\n" for user, item, time in ratings))
    titles = "".join(f"{int(item[1:])}::{title} é::Drama\n" for item, title in world.titles.items())
    (folder / "movies.dat").write_text(titles, "latin-1")
    (folder / "histories.jsonl").write_text('["f001", "f002"]\n{"user_id": 7, "history": ["f050"]}\n')
    assert main(["prepare", str(folder / "log.csv"), "--output_dir", str(folder / "data")]) == 0
    assert main(["train", str(folder / "data"), "--output_dir", str(folder / "run")]) == 0
    return folder


def page_runs():
    for page, runs in RUNS.items():
        for languages, files in runs:
            yield pytest.param(page, languages, files.split(), id=f"{page} {'+'.join(languages)}")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, and the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "languages", "files"), list(page_runs()))
def test_a_page_runs_from_top_to_bottom(page, languages, files, shop, here):
    for package in NEEDS.get(page, ()):
        pytest.importorskip(
            package, reason=f"{page} needs {package}: pip install 'hf_bert4rec[evaluate,export,plots]'"
        )
    for name in files:
        (shutil.copytree if (shop / name).is_dir() else shutil.copy)(shop / name, here / name)
    assert run_blocks(page, TEXTS[page], languages, {"__name__": "page"} | GIVEN.get(page, {}))


def test_the_page_of_several_processes_trains_with_two_that_report_once(shop, here, capsys):
    shutil.copytree(shop / "data", here / "data")
    page = "docs/06_several_machines.md"
    assert run_blocks(page, TEXTS[page], EVERY, {}) == 1
    assert json.loads((here / "run2" / "run.json").read_text())["num_processes"] == 2
    assert capsys.readouterr().out.count("written to run2") == 1


@pytest.mark.parametrize("page", TEXTS)
def test_what_is_not_run_is_parsed_or_marked_as_something_else(page):
    assert {language for language, _ in BLOCK.findall(TEXTS[page])} <= LANGUAGES
    found = [words for _, block in blocks(TEXTS[page], "bash", "sh") for words in commands(block)]
    assert [message for words in found if (message := wrong(words))] == []
    if page not in RUNS:
        assert blocks(TEXTS[page], "bash", "python") == []


def anchors(text):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page):
    """Links to files of the repository that are not there, or to headings that their page has not."""
    folder, dead = (ROOT / page).parent, []
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)", BLOCK.sub("", TEXTS[page])):
        name, _, anchor = link.partition("#")
        target = (folder / name).resolve() if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_names_what_exists(page):
    assert dead_links(page) == []
    named = re.findall(r"`((?:examples|tests|benchmarks|hf_bert4rec|docs)/[\w./-]*)`", TEXTS[page])
    assert [name for name in named if not (ROOT / name).exists()] == []
    examples = {path.name for path in (ROOT / "examples").iterdir()}
    assert set(re.findall(r"`(\d\d_\w+\.py)`", TEXTS[page])) <= examples
    assert re.findall(r"@@\w*", TEXTS[page]) == []


def test_the_index_lists_the_pages_in_reading_order_and_each_leads_to_the_next():
    names = [name.removeprefix("docs/") for name in TEXTS if re.match(r"docs/\d", name)]
    assert re.findall(r"^\d+\. \[.*?\]\((.*?)\)", TEXTS["docs/README.md"], re.MULTILINE) == names
    for name, following in itertools.pairwise(names):
        assert re.findall(r"^Next: \[.*?\]\((.*?)\)", TEXTS[f"docs/{name}"], re.MULTILINE) == [following]
    linked = set(re.findall(r"\]\((docs/[^)#]*)", TEXTS["README.md"]))
    assert {f"docs/{name}" for name in names[2:]} <= linked


def test_the_page_of_options_is_the_one_that_make_docs_writes():
    written = runpy.run_path(str(ROOT / "docs" / "write_options.py"))["options_page"]()
    assert TEXTS["docs/11_options.md"] == written, "the options have changed: run make docs"


def test_the_page_of_options_says_flag_kind_default_and_one_sentence():
    page = TEXTS["docs/11_options.md"]
    for line in (
        "| `--hidden_size INT` | `64` | Width of item, position and hidden vectors; a multiple of `num_attention_heads`. |",
        "| `--output_dir` | *needed* | folder of the run; made as OUTPUT_DIR.partial |",
        "| `--keep_seen` | *off* | recommend items of the history too |",
        "| `--causal_probability NUMBER` | `0.5` | Share of samples that predict every item from those before it; 1 trains the "
        "causal sibling (SASRec). |",
        "| `--max_steps INT` | `-1` | Overrides `num_train_epochs`. |",
        "| `mlm_probability` | 0.2 | 0.2 | 0.4 | 0.2 | 0.2 | 0.15 | 0.2 |",
        "The options of [prepare: log](#prepare-log).",
    ):
        assert f"\n{line}\n" in page, line
    assert "`--fsdp " not in page  # refused


def test_the_page_of_the_installation_lists_every_extra():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", TEXTS["docs/01_install.md"], re.MULTILINE)
    assert sorted(listed) == sorted(setup["options.extras_require"])


def test_a_wrong_command_is_found():
    block = (
        "pip install . # make nothing\nhf-bert4rec train log --outputdir run && make demo ARGS=-x\nmake tests\n"
        "python examples/99.py\nhf-bert4rec recommend run \\\n  --history a 'b c' > f\n"
        "torchrun --nproc_per_node 2 -m hf_bert4rec train log --output_dir run\ntorchrun --processes 2 x.py\n"
        "accelerate launch --multi_gpu -m hf_bert4rec train log\npython examples/01_quickstart.py --epochs 1\n"
        "pip install 'hf_bert4rec[serve,none]'\npython -m benchmarks speed --data F\npython -m benchmarks.none\n"
    )
    found = commands(block)
    assert found[:4] == [
        ["pip", "install", "."],
        ["hf-bert4rec", "train", "log", "--outputdir", "run"],
        ["make", "demo", "ARGS=-x"],
        ["make", "tests"],
    ]
    assert found[5:7] == [["hf-bert4rec", "recommend", "run", "--history", "a", "b c"], ["f"]]
    expected = [True, False, True, False, False, True, True, True, False, False, False, False, True, False]
    assert [wrong(words) is None for words in found] == expected


def test_a_command_that_fails_and_one_that_cannot_run_fail_their_page(here):
    for command in ("hf-bert4rec evaluate nowhere --data nowhere", "curl http://localhost"):
        with pytest.raises(AssertionError):
            run_blocks("page", f"```bash\n{command}\n```\n", EVERY, {})
    with pytest.raises(NameError):
        run_blocks("page", "```python\nunknown\n```\n", EVERY, {})
    assert run_blocks("page", f"```sh\n{command}\n```\n", EVERY, {}) == 0
