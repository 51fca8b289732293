# Two commands do everything on a fresh machine: `make demo` and `make test`. Both are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types bench results clean

# The stamp is newer than the files that decide what is installed, so an up-to-date environment costs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/softprompt demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/train_step.py --save

results: $(VENV)/.installed
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
