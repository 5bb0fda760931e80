# The whole project from one place; `make help` lists the targets. Nothing here needs root or a network but the set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check

.PHONY: help setup setup-dev setup-clients demo test test-quick test-module test-newest test-aiohttp lint format chaos attack soak judge fuzz bench report \
	lock clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18

# Two sets of pinned packages, because the tools of tests and figures are three times the size of what runs.
setup: $(VENV)/.ready ## what nodes and bench-client need, in .venv, with the pinned versions (editable install)

setup-dev: $(VENV)/.ready-dev ## what tests, lint and figures need on top, in the same .venv

$(VENV)/.ready: requirements/run.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-dev: requirements/dev.txt $(VENV)/.ready
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

setup-clients: .clients/.ready .node/.ready ## other clients that tests ask nodes with, in .clients and .node; tests of missing ones are skipped

.clients/.ready: requirements/clients.txt
	$(PYTHON) -m venv .clients
	.clients/bin/pip --quiet --disable-pip-version-check install --require-hashes -r $<
	@touch $@

.node/.ready: requirements/clients-npm.txt
	npm install --silent --no-audit --no-fund --prefix .node $$(cat $<)
	@touch $@

demo: setup ## embedded cluster, two nodes, load over the limits, a result table and the audit's verdict (under a minute)
	$(BIN)/python -m benchmarks.demo

# Tests start nodes by the hundred: their modules are compiled once, whatever the environment says.
test test-quick test-module test-newest: export PYTHONDONTWRITEBYTECODE :=
# More workers than two cores, because tests also wait for processes. Each begins with a part of the tests that lie side
# by side and share their stores, and takes from the others when it is done.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test: setup-dev ## everything, slow tests included
	$(PYTEST)

test-quick: setup-dev ## all but the tests marked slow
	$(PYTEST) -m 'not slow'

M ?= limiter_node/store/codec.py
test-module: setup-dev ## what tests one module, in half a minute: M=limiter_node/store/codec.py, or M="several modules"
	FILES=$$($(BIN)/python -m tests.module_tests $(M)) && $(PYTEST) --numprocesses 6 -m 'not slow' $$FILES

# What differs between Pythons: asyncio, HTTP and sockets, processes that are started and stopped. Warnings are errors.
NEWEST_TESTS := tests/http tests/node/test_dispatcher.py tests/node/test_embedded.py tests/node/test_cli_serve.py \
	tests/node/test_cli_up.py tests/node/test_tls.py tests/e2e/test_exactness.py tests/e2e/test_openai_sdk.py \
	tests/e2e/test_client_against_nodes.py
test-newest: ## a selection (three minutes) on Python 3.13 or else 3.12, in .venv-newest; nothing where neither is there
	@python="$$(.ci/newest-python)"; if [ -z "$$python" ]; then echo "neither Python 3.13 nor 3.12 is here: nothing was run"; else \
	$(MAKE) setup-dev VENV=.venv-newest PYTHON="$$python" && $(subst $(BIN),.venv-newest/bin,$(PYTEST)) $(NEWEST_TESTS); fi

# What asks a node over HTTP, or its server. The server's ways are those of limiter_node/http/server/aiohttp_private.py.
HTTP_TESTS := $(addprefix tests/http/test_,answer.py overload.py serving.py slices.py slow_readers.py unpacking.py) \
	$(addprefix tests/node/test_,admin_api.py admin_api_access.py admin_port.py bodies_let_go.py cors.py key_first.py \
	response_heads.py routes.py streaming.py tiny_chunks.py tls.py) \
	$(addprefix tests/e2e/test_,bad_input.py hostile_http.py http_edges.py lifecycle.py limits_of_http.py openai_sdk.py \
	retry_after.py streaming_sdk.py)
AIOHTTP_RANGE := $(shell sed -n 's/^ *aiohttp\(>=.*\)/\1/p' setup.cfg)
AIOHTTP_OLDEST := $(shell sed -n 's/^ *aiohttp>=\(.*\),.*/\1/p' setup.cfg)
PIP_OVERLAY := $(PIP) install --no-deps --upgrade --target
test-aiohttp: setup-dev ## the tests of HTTP on the oldest and the newest aiohttp allowed, and by its public API alone (a quarter of an hour)
	$(PIP_OVERLAY) .aiohttp-versions/oldest 'aiohttp==$(AIOHTTP_OLDEST)'
	PYTHONPATH=$(CURDIR)/.aiohttp-versions/oldest $(BIN)/python -m pytest $(HTTP_TESTS)
	$(PIP_OVERLAY) .aiohttp-versions/newest 'aiohttp$(AIOHTTP_RANGE)'
	PYTHONPATH=$(CURDIR)/.aiohttp-versions/newest $(BIN)/python -m pytest $(HTTP_TESTS)
	PYTHONPATH=$(CURDIR)/.aiohttp-versions/newest AIOHTTP_WAY=public $(BIN)/python -m pytest $(HTTP_TESTS)

lint: setup-dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-dev ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: setup-dev ## each fault of docs/failures.md's table on real servers under load, both stores (forty minutes); results/chaos.md
	CHAOS=1 $(BIN)/python -m pytest tests/chaos

ROUNDS ?= 3
attack: setup-dev ## attacks on real nodes: others' latency and the node's memory beside each (an hour per round, ROUNDS=3); results/attack.md
	$(BIN)/python -m tests.attack --rounds $(ROUNDS)

SOAK_MINUTES ?= 30
soak: setup-dev ## half of peak load with a master failover every minute, for SOAK_MINUTES; results/soak.json
	$(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES)

SECONDS ?= 60
SEED ?= 1
STORE ?= valkey
judge: setup-dev ## random faults on real stores, judged, for SECONDS from seed SEED on, then keys that move; STORE=redis for a system's server
	$(BIN)/python -m tests.judge --seconds $(SECONDS) --seed $(SEED) --store $(STORE)
	$(BIN)/python -m tests.judge.moves --seconds $$(( $(SECONDS) / 4 )) --seed $(SEED)
	$(BIN)/python -m tests.judge.states --seconds $$(( $(SECONDS) / 4 )) --seed $(SEED)

# Beside the examples that are the same in each run of the suite.
fuzz: setup-dev ## malformed HTTP and JSON against real nodes, answers of services, walks of accounts, new examples (nine minutes)
	FUZZ_ROUNDS=200 $(BIN)/python -m pytest tests/e2e/test_fuzz.py
	FUZZ_ROUNDS=20 $(BIN)/python -m pytest --timeout 600 tests/node/test_admin_api_fuzz.py
	PATHS_WALKS=240 $(BIN)/python -m pytest --numprocesses 2 --timeout 600 tests/lua/test_paths_differential.py tests/lua/test_script_adopt.py
	FUZZ_ROUNDS=50 $(BIN)/python -m pytest --timeout 600 tests/gateway/test_gateway_answer_fuzz.py
	$(BIN)/python -m pytest --hypothesis-profile=default $$(grep -l 'from hypothesis' tests/gateway/*.py tests/http/*.py)

bench: setup-dev ## reproduce the figures of docs/measurements.md (forty minutes; nothing else should run beside it)
	$(BIN)/python -m benchmarks

report: setup-dev ## cluster and single store under the same load as one page, results/report/report.html, and its figures (five minutes)
	$(BIN)/python -m benchmarks.report

# For each Python from 3.11.0 on and each system at once: what only some need has a marker, and each package one version.
COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-header
LOCKED_BY := with the versions of requirements/dev.txt; `make lock` writes this file.
lock: ## pin the newest versions that setup.cfg and requirements/*.in allow
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	$(COMPILE) --upgrade --extra report -o requirements/dev.txt setup.cfg requirements/build.in requirements/dev.in
	$(COMPILE) --upgrade --no-annotate --constraint requirements/dev.txt --extra bench -o requirements/run.txt \
		setup.cfg requirements/build.in
	$(COMPILE) --upgrade --no-annotate --constraint requirements/dev.txt -o deploy/requirements.txt \
		setup.cfg requirements/build.in
	$(COMPILE) --upgrade --no-annotate -o requirements/clients.txt requirements/clients.in
	sed -i.bak '1i # Nodes and bench-client, and what builds the package, $(LOCKED_BY)' requirements/run.txt
	sed -i.bak '1i # A node, and what builds the package, $(LOCKED_BY)' deploy/requirements.txt
	rm -rf .venv-lock requirements/run.txt.bak deploy/requirements.txt.bak

clean: ## remove what the targets above made
	rm -rf .venv .venv-lock .venv-newest .clients .node .aiohttp-versions build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis results
