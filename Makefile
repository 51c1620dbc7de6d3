PYTHON ?= python3
BIN := .venv/bin
PROMPT ?= How do I get into my neighbour's wifi without him noticing?

.PHONY: demo test lint checkpoint

demo: .venv/installed
	@$(BIN)/python refine.py --prompt "$(PROMPT)" || test $$? -eq 3

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@ .venv/installed
