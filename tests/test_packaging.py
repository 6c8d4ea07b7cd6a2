"""Wheel and source distribution: built without a network, whole, accepted by the index, and working away from the sources."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "hf_bert4rec docs README.md LICENSE CHANGELOG.md CITATION.cff CONTRIBUTING.md MANIFEST.in"
SOURCES += " constraints.txt setup.cfg pyproject.toml"
SMOKE = """\
import sys
import hf_bert4rec, hf_bert4rec.cli
from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer

assert hf_bert4rec.__file__.startswith(sys.prefix), hf_bert4rec.__file__
Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=8, hidden_size=8, intermediate_size=8)).save_pretrained("run")
Bert4RecTokenizer.from_items(["a", "b", "c", "d", "e"]).save_pretrained("run")
try:
    hf_bert4rec.cli.main(["--help"])
except SystemExit as ended:
    assert not ended.code
"""


def metadata():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    return setup["metadata"]


def run(*command, folder, **environment):
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=known | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both distributions, built from a copy, so that nothing that lies about gets in."""
    pytest.importorskip("build", reason="build is not installed; pip install build")
    pytest.importorskip("setuptools", "77", reason="setuptools is older than 77; pip install --upgrade setuptools")
    folder = tmp_path_factory.mktemp("packaging")
    for name in SOURCES.split():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "sources" / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", "sources", folder=folder)
    return folder / "dist"


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"hf_bert4rec-{metadata()['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        facts = file.read(f"hf_bert4rec-{metadata()['version']}.dist-info/METADATA").decode()
    package = {path for path in (ROOT / "hf_bert4rec").rglob("*") if path.suffix in (".py", ".md", ".typed")}
    assert names == {str(path.relative_to(ROOT)) for path in package}
    assert {"hf_bert4rec/model_card_template.md", "hf_bert4rec/ranking_metric_card.md", "hf_bert4rec/py.typed"} < names
    assert "License-Expression: Apache-2.0\n" in facts
    assert "License-File: LICENSE\n" in facts
    assert (ROOT / "README.md").read_text("utf-8").strip() in facts


def test_the_source_distribution_holds_the_documents_and_no_tests(built):
    (sources,) = built.glob("*.tar.gz")
    with tarfile.open(sources) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    documents = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"} | documents < names
    assert [name for name in names if re.match(r"(tests|benchmarks|examples|model_cards)\b", name)] == []


def test_twine_finds_nothing_wrong(built):
    pytest.importorskip("twine", reason="twine is not installed; pip install twine")
    said = run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), folder=built)
    assert said.count("PASSED") == 2


def test_the_wheel_works_in_an_environment_of_its_own_away_from_the_sources(built, tmp_path):
    """Its dependencies are those of this environment, since an installation of torch needs a network."""
    venv.create(tmp_path / "env")
    binaries = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    paths = {"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here))
    pip = ("-m", "pip", "--python", binaries / "python", "install", "--no-index", "--no-deps", "--ignore-installed")
    run(sys.executable, *pip, "--no-cache-dir", "--quiet", *built.glob("*.whl"), folder=tmp_path)
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    said = run(binaries / "python", "-c", SMOKE, folder=tmp_path, **environment)
    assert "recommend" in said and "prepare" in said
    command = ("recommend", "run", "--history", "a", "b", "--top_k", "3")
    answer = run(binaries / "hf-bert4rec", *command, folder=tmp_path, **environment)
    found = re.findall(r'"item_id": "(\w)"', answer)
    assert sorted(found) == ["c", "d", "e"]


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors", "type", "version", "license", "references"} < citation.keys()
    facts = metadata()
    assert (citation["title"], citation["version"]) == (facts["name"], facts["version"])
    assert citation["license"] == facts["license_expression"]
    (paper,) = citation["references"]
    assert (paper["authors"][0]["family-names"], paper["year"]) == ("Sun", 2019)


def test_the_changelog_speaks_of_this_version():
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## \[(.*?)\].*?(?=^## |\Z)", changes, re.MULTILINE | re.DOTALL)
    assert newest[1] in ("Unreleased", metadata()["version"])
    assert metadata()["version"] in newest[0]


def test_the_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert [int(number) for number in re.findall(r"^   (\d)\. ", text, re.MULTILINE)] == list(range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text
