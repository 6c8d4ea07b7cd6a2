# Everything runs in .venv. Another interpreter: make install PYTHON=python3.12
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo bench test lint format coverage docs build clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## create .venv with the package, editable, and its test tools (again only when their files change)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make install PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

$(STAMP): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(STAMP) ## train on the synthetic world, compare with baselines and the best possible (ARGS='--output_file demo.json')
	$(BIN)/hf-bert4rec demo $(ARGS)

bench: $(STAMP) ## time and memory beside the peers, installed into .peers/; see benchmarks/README.md (ARGS='--data FOLDER')
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plots]'
	$(BIN)/python -m benchmarks speed $(ARGS)

test: $(STAMP) ## run every test and every docstring example, two at a time (ARGS='tests/test_metrics.py -k recall')
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: $(STAMP) ## check style, formatting and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(STAMP) ## run the tests and list the lines that none of them reached
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

docs: $(STAMP) ## write the page of options anew from the parser
	$(BIN)/python docs/write_options.py

build: $(STAMP) ## build wheel and source distribution into dist/, and check them as the package index would
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*

clean: ## delete build outputs and caches; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis .coverage htmlcov
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
