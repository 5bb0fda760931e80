# The whole project from one place; `make help` lists the targets. Nothing here needs root or a network but `setup`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test test-quick test-module lint format chaos attack soak judge fuzz bench report lock clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18

setup: .venv/.ready ## build .venv from the pinned versions (editable install)

.venv/.ready: requirements.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## embedded cluster, two nodes, load over the limits, a result table and the audit's verdict (under a minute)
	$(BIN)/python -m benchmarks.demo

# Tests start nodes by the hundred: their modules are compiled once, whatever the environment says.
test test-quick test-module: export PYTHONDONTWRITEBYTECODE :=
# More workers than two cores, because tests also wait for processes. Each begins with a part of the tests that lie side
# by side and share their stores, and takes from the others when it is done.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test: setup ## everything, slow tests included
	$(PYTEST)

test-quick: setup ## all but the tests marked slow
	$(PYTEST) -m 'not slow'

M ?= limiter_node/store/codec.py
test-module: setup ## what tests one module, in half a minute: M=limiter_node/store/codec.py, or M="several modules"
	FILES=$$($(BIN)/python -m tests.module_tests $(M)) && $(BIN)/python -m pytest -m 'not slow' $$FILES

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: setup ## each fault of REPORT.md's table on real servers under load, both stores (half an hour); results/chaos.md
	CHAOS=1 $(BIN)/python -m pytest tests/chaos

ROUNDS ?= 3
attack: setup ## attacks on real nodes: others' latency and the node's memory beside each (an hour); results/attack.md
	$(BIN)/python -m tests.attack --rounds $(ROUNDS)

SOAK_MINUTES ?= 30
soak: setup ## half of peak load with a master failover every minute, for SOAK_MINUTES; results/soak.json
	$(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES)

SECONDS ?= 60
SEED ?= 1
STORE ?= valkey
judge: setup ## random faults on real stores, judged, for SECONDS from seed SEED on; STORE=redis for a system's server
	$(BIN)/python -m tests.judge --seconds $(SECONDS) --seed $(SEED) --store $(STORE)

fuzz: setup ## malformed HTTP and JSON against real nodes, and answers of services of every kind (four minutes)
	FUZZ_ROUNDS=200 $(BIN)/python -m pytest tests/e2e/test_fuzz.py
	FUZZ_ROUNDS=50 $(BIN)/python -m pytest --timeout 600 tests/gateway/test_gateway_answer_fuzz.py

bench: setup ## reproduce the figures of REPORT.md (half an hour; nothing else should run beside it)
	$(BIN)/python -m benchmarks

report: setup ## cluster and single store under the same load as one page, results/report/report.html, and its figures (five minutes)
	$(BIN)/python -m benchmarks.report

PIP_COMPILE := .venv-lock/bin/pip-compile --quiet --no-header --no-emit-index-url --no-emit-trusted-host \
	--no-emit-find-links --allow-unsafe --strip-extras --generate-hashes
lock: ## pin the newest versions that setup.cfg and requirements.in allow
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet pip-tools
	$(PIP_COMPILE) --upgrade --extra report -o requirements.txt setup.cfg requirements.in
	rm -f deploy/requirements.txt
	$(PIP_COMPILE) --no-annotate --constraint requirements.txt -o deploy/requirements.txt setup.cfg
	sed -i.bak '1i # What a node needs at run time, of ../requirements.txt, for the Containerfile; a test holds the two together.' \
		deploy/requirements.txt && rm deploy/requirements.txt.bak
	rm -rf .venv-lock

clean: ## remove what the targets above made
	rm -rf .venv .venv-lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis results
