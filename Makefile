# Two commands do everything on a fresh machine: `make demo` and `make test`. Both are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test soak lint types bench bench-methods bench-claims results backbone clean

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

# A minute of sixteen clients while prompts come and go; the suite has ten seconds of it.
soak: $(VENV)/.installed
	SOAK_SECONDS=60 $(BIN)/pytest -n 0 -s tests/serve/test_end_to_end.py -k sixteen

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/train.py --save

# Both do only what their files of results lack, for the weights at hand; several may run at once on different seeds.
bench-methods: $(VENV)/.installed
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/methods.py --page

bench-claims: $(VENV)/.installed
	$(BIN)/python benchmarks/claims.py
	$(BIN)/python benchmarks/claims.py --page

results: $(VENV)/.installed
	$(BIN)/python benchmarks/results.py

# WordNet and the VADER lexicon, for the pretraining mixture.
runs/extra:
	mkdir -p runs/download $@/wordnet
	cd runs/download && apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
	cp runs/download/wordnet/usr/share/wordnet/* $@/wordnet
	$(BIN)/python -m pip download --quiet --no-deps --dest runs/download vaderSentiment
	cd runs/download && python3 -m zipfile -e vaderSentiment*.whl vader
	cp runs/download/vader/vaderSentiment/vader_lexicon.txt $@

# Pretrains both embedded backbones (scripts/pretrain/README.md); the finished folders are runs/pretrain-*/model.
backbone: $(VENV)/.installed runs/extra
	$(BIN)/python -m scripts.pretrain.train --size nano --tokens 8e6 --out runs/pretrain-nano
	$(BIN)/python -m scripts.pretrain.train --size tiny --tokens 18e6 --out runs/pretrain-tiny-first
	$(BIN)/python -m scripts.pretrain.train --size tiny --tokens 15e6 --start runs/pretrain-tiny-first/model --teach 4 \
		--out runs/pretrain-tiny

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
