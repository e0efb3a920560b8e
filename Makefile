# Everything a newcomer needs. Plain commands stand behind each target.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# vLLM is two packages of one name: the GPU build where there is a GPU, else the CPU build.
ACCELERATOR ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
# What is installed beside it; an image for serving needs less.
EXTRAS ?= dev,documents,gguf,int8,scale
ARGS ?=
# One thread a process: two that wait for each other on one core take twice as long. Slow tests run
# as two processes, of the method and of all else, which take as long: one computes while the other waits.
# What is imported is compiled once, also where nothing is to be written beside the sources.
PYTEST := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/$(VENV)/pycache OMP_NUM_THREADS=1 \
    $(BIN)/python -m pytest
FAST := $(PYTEST) -n logical --maxprocesses 4 --dist loadfile -m "not slow" \
    -p no:schemathesis -p no:langsmith_plugin
SLOW := $(PYTEST) -m slow
METHOD := tests/neurorit

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: setup
setup: $(STAMP) ## make .venv with everything in it (does nothing the second time)

.PHONY: demo
demo: $(STAMP) ## run the whole job on the embedded world; report in runs/demo
	@$(BIN)/neurorit-rag demo --out runs/demo $(ARGS)

.PHONY: test
test: $(STAMP) browser clients ## run all tests, with a real vLLM server and browser
ifeq ($(ARGS),)
	@status=0; $(FAST) || status=$$?; \
	others=$$(mktemp); trap 'kill -INT $$! 2>/dev/null || true; rm -f $$others' EXIT; \
	$(SLOW) $(METHOD:%=--ignore %) >$$others 2>&1 & \
	$(SLOW) $(METHOD) || status=$$?; \
	wait $$! || status=$$?; cat $$others; exit $$status
else
	@$(BIN)/python -m pytest $(ARGS)
endif

.PHONY: test-fast
test-fast: $(STAMP) clients ## run the quick tests, several at a time
	@$(FAST) $(ARGS)

.PHONY: docs
docs: $(STAMP) ## write docs/settings.md from the settings themselves
	@$(BIN)/python -m neurorit.cli.settings_table > docs/.settings.md
	@mv docs/.settings.md docs/settings.md

.PHONY: bench
bench: $(STAMP) ## run every benchmark; results in benchmarks/results
	@mkdir -p benchmarks/results
	@shopt -s nullglob; for file in benchmarks/[a-z]*.py; do \
	    name=$$(basename "$$file" .py); echo "$$name" >&2; \
	    $(BIN)/python "$$file" --json > "benchmarks/results/.$$name.json"; \
	    mv "benchmarks/results/.$$name.json" "benchmarks/results/$$name.json"; \
	done

.PHONY: lint
lint: $(STAMP) ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.PHONY: format
format: $(STAMP) ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The page's test needs Chromium; it says so and is skipped where there is none.
.PHONY: browser
browser: ## install Debian's Chromium where that is possible and it is missing
	@command -v chromium >/dev/null || { \
	    [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ] \
	    && echo "installing chromium for the page's test" >&2 \
	    && { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	         apt-get -qq install -y --no-install-recommends chromium; } >/dev/null 2>&1; } \
	    || echo "no chromium: the page's test will be skipped" >&2

# Clients of other worlds, for the tests of serving, inside $(VENV): npm's packages where there is
# npm, and what cannot stand beside the tests' own packages in an environment apart.
CLIENTS := $(VENV)/clients
WANTED := tests/serving/gateway/clients

.PHONY: clients
clients: $(CLIENTS)/.installed ## install the clients that the tests of serving try

$(CLIENTS)/.installed: $(WANTED)/package-lock.json $(WANTED)/llama-index.txt | $(STAMP)
	@mkdir -p $(CLIENTS)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(CLIENTS)/llama-index
	@$(BIN)/uv pip install --quiet --python $(CLIENTS)/llama-index/bin/python \
	    --requirement $(WANTED)/llama-index.txt
	@if command -v npm >/dev/null; then \
	    cp $(WANTED)/package.json $(WANTED)/package-lock.json $(CLIENTS); \
	    (cd $(CLIENTS) && npm ci --no-audit --no-fund --loglevel=error >/dev/null); \
	else \
	    echo "no npm: tests that need node will be skipped" >&2; \
	fi
	@touch $@

# uv does not read pip's settings. Where pip is told of a folder of wheels, that is where the CPU
# torch is; elsewhere uv takes it from PyTorch's own index.
$(STAMP): pyproject.toml requirements/constraints.txt requirements/overrides-cpu.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed; name it with make PYTHON=...")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@[ -x $(BIN)/uv ] || $(BIN)/python -m pip install -qq uv
	@echo "installing into $(VENV) (vLLM for $(ACCELERATOR))" >&2
	@links=$$($(BIN)/python -m pip config list \
	    | sed -nE "s/^(:env:|install|global)\.find-links='(.*)'$$/\2/p" | head -n 1 \
	    | sed -E 's/(\\n| )+/,/g; s/^,//'); \
	options=(); \
	if [ $(ACCELERATOR) = cpu ]; then \
	    options+=(--overrides requirements/overrides-cpu.txt); \
	    [ -n "$$links" ] || options+=(--torch-backend=cpu); \
	fi; \
	if [ -n "$$links" ]; then export UV_FIND_LINKS="$$links"; fi; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python \
	    --constraints requirements/constraints.txt "$${options[@]}" \
	    --editable '.[$(ACCELERATOR),$(EXTRAS)]'
	@touch $@
