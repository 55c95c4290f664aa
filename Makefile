# Everything runs from .venv; `make setup` creates it with what a bare machine has: Python 3.11, pip, make.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= unveil-out
# Processes that share the tests: one for each core, four at most; each takes about 1.5 GB of memory.
WORKERS ?= logical
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 25

.PHONY: help setup packages demo serve docs docs-serve notebooks pictures test test-fast test-thorough test-gpu rehearse lint lint-style lint-types lint-words format train results clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install into .venv

# The interpreter may be called python3 only; its version is checked either way.
$(STAMP): pyproject.toml constraints.txt
	@python=$$(command -v $(PYTHON) || command -v python3 || true); \
	if [ -z "$$python" ] || ! $$python -c 'import sys; raise SystemExit(sys.version_info[:2] < (3, 11))'; then \
	  echo "Python 3.11 or newer is needed; install it or name it: make PYTHON=/path/to/python3.11"; exit 1; fi; \
	$$python -m venv $(VENV)
	# constraints.txt is the whole closure, so nothing is left to resolve; `pip check` says when it is not.
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --no-deps --no-compile -r constraints.txt -e .
	# Bytecode on all cores, which pip makes on one; some packages carry files that are not meant to compile.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	$(BIN)/python -m pip check --disable-pip-version-check
	@touch $@

demo: setup ## restore the shipped sample into unveil-out/
	$(BIN)/unveil demo --out $(OUT)

serve: setup ## show it in STAC Browser
	$(BIN)/unveil serve --out $(OUT)

test: packages lint ## linters, types, and all tests that decide whether a change lands
	$(PYTEST) -m "not thorough"

# Debian packages that some tests need; where they cannot be installed, these tests are skipped and say why.
packages: ## Debian packages that some tests need
	@bash infra/ci/install_debian.sh

# What takes minutes for one answer: long training, every deployment through a worker.
test-thorough: setup packages ## tests that take minutes for one answer
	$(PYTEST) -m thorough

# On a machine with a GPU and a torch that knows it.
test-gpu: setup ## tests on a machine with a GPU
	$(BIN)/python -c "import torch, sys; sys.exit(None if torch.cuda.is_available() else 'torch sees no GPU here')"
	$(BIN)/pytest tests/gpu

# The image built and its services started without a container engine (root, debootstrap; docs/results/rehearsal.md).
rehearse: setup ## image and services without a container engine
	$(BIN)/python -m tests.rehearsal --out docs/results

test-fast: setup ## quick tests
	$(BIN)/pytest tests/unit -m "not slow"

# Types take as long as all the rest; each of the two prints its output in one piece.
lint: setup ## style, types, layers, words
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint-style lint-words lint-types

lint-style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

lint-words:
	$(BIN)/python -m infra.lint.words

lint-types:
	$(BIN)/mypy

format: setup ## format and fix style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## build the documentation site into site/, without network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: setup ## show the site at http://127.0.0.1:8000/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

notebooks: setup ## execute the notebooks of the documentation in place
	$(BIN)/python -m infra.docs.notebooks

pictures: setup ## the pictures of README and documentation
	$(BIN)/python -m infra.docs.pictures docs/figures

# The recipe of the shipped weights in one run, from the imagery that the listing names below DATA: two to three hours on
# one core. They themselves were trained in four runs, each on top of the last, so the bits differ; the card lists the
# steps. It may be stopped at any time; the same command goes on. Then the places that were held out say how wide intervals are and what
# fills which kind of pixel.
DATA ?= data
train: setup ## train the shipped weights
	$(BIN)/unveil train --places de_model/weights/places.yaml --data $(DATA) --effort 1 --seed 0 --no-mlflow --out de_model/weights/unveil-de-small.safetensors
	$(BIN)/python -m benchmarks.places --data $(DATA) --widths --record --out docs/results

# Every table in docs/results.
results: setup ## every table in docs/results
	$(BIN)/python -m benchmarks.quality --out docs/results
	$(BIN)/python -m benchmarks.demo --out docs/results
	$(BIN)/python -m benchmarks.composite --out docs/results
	$(BIN)/python -m tests.chaos.kill_runs --out docs/results
	$(BIN)/python -m tests.load.publish_many --out docs/results
	$(BIN)/python -m tests.load.census_many --out docs/results
	$(BIN)/python -m tests.load.index_many --out docs/results
	$(BIN)/python -m benchmarks.drift --out docs/results
	$(BIN)/python -m benchmarks.ledger --out docs/results
	$(BIN)/python -m benchmarks.scale --out docs/results
	for name in no-reference fixed-weights coarse-to-fine eta-sweep resolution-transfer reference-quality \
	  cross-data; do \
	  $(BIN)/python -m benchmarks.ablations $$name --out docs/results/experiments || exit 1; done

clean: ## remove .venv and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
