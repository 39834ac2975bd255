# The targets of this project, which CI uses, too. Requires only Python 3.11 or newer, and Docker for
# the stack.

VENV := .venv
BIN := $(VENV)/bin
# Packages of apps for `make ecosystem`, apart from the environment that is tested.
ECOSYSTEM := $(VENV)/ecosystem
PYTHON2 := python2.7
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Only wheels with locked hashes: needs no compiler.
INSTALL_LOCKED := $(PIP) install --only-binary :all: --require-hashes --requirement
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --fork-strategy fewest \
	--python-version 3.11 --generate-hashes --only-binary :all: \
	--custom-compile-command "make lock" pyproject.toml --extra examples --extra environments

# files whose words `make check` checks
PROSE := README.md CONTRIBUTING.md CHANGELOG.md docs gateway

PYTEST := $(BIN)/python -m pytest
# One process more than there are processors, since tests wait too; the tests of a file stay in one,
# with their gateway. PARALLEL= runs one test after another.
PARALLEL ?= -n $(shell echo $$(($$(nproc 2>/dev/null || echo 1) + 1))) --dist loadfile
# Units share no fixture across tests, so a file may be split.
UNITS_PARALLEL = $(subst loadfile,worksteal,$(PARALLEL))

.PHONY: help up down run dev quick test test-image proof fuzz mutants ecosystem autobahn bench check format docs lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make up      the stack in Docker on http://localhost:8080/ (without Docker: make run)'
	@echo 'make down    stop the stack; the data volume stays'
	@echo 'make run     the gateway alone on http://127.0.0.1:8080/ (or PORT=8081), without Docker and nginx'
	@echo 'make dev     the same for development: reloads on each save, error pages with tracebacks'
	@echo '            (LIVE=1: pages in the browser reload, too)'
	@echo 'make quick   the unit tests, in seconds'
	@echo 'make test    all tests: units, gateways in processes, and the stack if Docker is available'
	@echo 'make test-image  units and processes in the shipped image, with its Python'
	@echo 'make proof   50 reloads, 20 recycles and 20 rollbacks under full load lose no request; then POSTs that'
	@echo '             no app reads, 10,000 of each size and framing (or POSTS=500), and the requests after them;'
	@echo '             then 1,000 random operations against a model (or OPERATIONS=100 POOLS=4 SEED=1),'
	@echo '             and 200 starts with a random fault each (or FAULTS=20)'
	@echo 'make fuzz    random requests and responses against the parsers, SECONDS=600 each'
	@echo 'make mutants  changes the code at random; counts what no unit test notices (SECONDS=1800 SEED=0)'
	@echo 'make ecosystem  the libraries of docs/libraries.md, with real PostgreSQL and Redis'
	@echo 'make autobahn   the Autobahn test suite for WebSockets, which needs a Python 2.7: PYTHON2=/path'
	@echo 'make bench   against other servers on this machine; writes docs/performance.md'
	@echo '             (a selection, without writing: ROWS=proxied,browser SERVERS=ours,granian ROUNDS=1 SECONDS=2)'
	@echo 'make check   format, lint, types, import layers, words'
	@echo 'make format  format, and fix what lint can fix'
	@echo 'make docs    the reference of the table, its schema, and the pictures of states, made from the code'
	@echo 'make lock    update the lock files to the newest compatible versions'
	@echo 'make clean   remove the virtual environment and all caches'

up:
	@if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then \
		deploy/up; \
	else \
		echo "Docker with Compose is not available: running the gateway alone, as make run does."; \
		$(MAKE) --no-print-directory run; \
	fi

down:
	docker compose down

run: $(VENV)/run.stamp
	exec $(BIN)/gateway serve -c apps/mounts.yaml --listen 127.0.0.1:$(or $(PORT),8080)

dev: $(VENV)/dev.stamp
	exec $(BIN)/gateway serve --dev $(if $(LIVE),--live) -c apps/mounts.yaml --listen 127.0.0.1:$(or $(PORT),8080)

quick: $(VENV)/dev.stamp
	$(PYTEST) --quiet $(UNITS_PARALLEL) tests/unit

# The figure of coverage is that of the first storey alone: to measure processes takes longer.
# Tracing keeps an exception from a native thread into which it is raised.
UNTRACED := tests/unit/test_threads.py

test: $(VENV)/dev.stamp
	$(PYTEST) $(UNITS_PARALLEL) --cov --cov-report= --ignore $(UNTRACED) tests/unit
	$(PYTEST) $(PARALLEL) -m 'not alone' $(UNTRACED) tests/fuzz tests/process
	$(PYTEST) -m alone tests/process
	$(PYTEST) tests/stack
	@echo "The unit tests run $$($(BIN)/coverage report) % of the lines in gateway/."

test-image:
	docker build --quiet --build-arg PYTHON_IMAGE --tag gateway-test-image:shipped .
	docker build --quiet --build-arg GATEWAY_IMAGE=gateway-test-image:shipped --tag gateway-test-image:tests \
		--file tests/image/Dockerfile .
	docker run --rm --init gateway-test-image:tests

proof: $(VENV)/dev.stamp
	PROOF_ROUNDS=$(or $(ROUNDS),50) PROOF_POSTS=$(or $(POSTS),10000) $(BIN)/python -m pytest -q -rP \
		tests/process/test_proof.py tests/stack/test_proof_stack.py tests/stack/test_unread_content.py
	PROOF_OPERATIONS=$(or $(OPERATIONS),1000) PROOF_POOLS=$(or $(POOLS),20) PROOF_SEED=$(or $(SEED),0) \
		$(BIN)/python -m pytest -q -rP tests/process/test_random_operations.py
	PROOF_FAULTS=$(or $(FAULTS),200) PROOF_SEED=$(or $(SEED),0) \
		$(BIN)/python -m pytest -q -rP tests/process/test_random_faults.py

fuzz: $(VENV)/dev.stamp
	$(BIN)/python tests/fuzz/fuzz.py head -max_total_time=$(or $(SECONDS),600)
	$(BIN)/python tests/fuzz/fuzz.py answer -max_total_time=$(or $(SECONDS),600)
	$(BIN)/python tests/fuzz/fuzz.py content -max_total_time=$(or $(SECONDS),600)

mutants: $(VENV)/dev.stamp $(VENV)/mutants/stamp
	$(VENV)/mutants/bin/python tests/mutants/mutants.py $(CURDIR)/$(BIN)/python $(or $(SECONDS),1800) $(or $(SEED),0)

$(VENV)/mutants/stamp: | $(BIN)/python
	@$(BIN)/python -m venv $(VENV)/mutants
	@$(VENV)/mutants/bin/python -m pip --quiet --disable-pip-version-check install cosmic-ray==8.7.0
	@touch $@

ecosystem: $(ECOSYSTEM)/stamp
	.ci/apt postgresql redis-server
	$(ECOSYSTEM)/bin/python -m pytest --override-ini pythonpath="tests/support tests/ecosystem" tests/ecosystem

# The test suite needs Python 2; nothing else here does.
autobahn: $(VENV)/dev.stamp $(VENV)/autobahn/stamp
	AUTOBAHN="env PYTHONPATH=$(VENV)/autobahn $(PYTHON2) -m autobahntestsuite.wstest" \
		$(BIN)/python -m pytest --override-ini pythonpath="tests/support tests/websockets" tests/websockets

$(VENV)/autobahn/stamp: | $(BIN)/python
	$(PYTHON2) -m pip --quiet --disable-pip-version-check install --target $(VENV)/autobahn autobahntestsuite==25.10.1
	@touch $(VENV)/autobahn/zope/__init__.py  # pip leaves it out there
	@touch $@

bench: $(BIN)/python
	$(BIN)/python tests/bench $(if $(ROWS),--rows $(ROWS)) $(if $(SERVERS),--servers $(SERVERS)) \
		--rounds $(or $(ROUNDS),3) --seconds $(or $(SECONDS),3)
	$(if $(ROWS)$(SERVERS),,$(BIN)/python tests/bench/pools.py)

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/states/writes.py gateway/supervisor
	$(BIN)/python tests/prose/check.py $(PROSE)

format: $(VENV)/dev.stamp
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/dev.stamp
	PYTHONPATH=tests/support $(BIN)/python tests/unit/test_config_schema.py
	PYTHONPATH=. $(BIN)/python tests/states/machines.py

lock: $(VENV)/run.stamp
	$(PIP) install uv
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra dev --extra test --extra check --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that is new enough; the plain name first, since that is the one people chose.
$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		python=; \
	done; \
	[ -n "$$python" ] || { echo "make: found no Python 3.11 or newer; install one or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }; \
	$$python -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	echo "Making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)

# The package is not built but linked: its sources are used where they are, so edits are seen.
$(VENV)/run.stamp: requirements.lock apps/requirements.txt | $(BIN)/python
	@echo "Installing the locked packages into $(VENV)"
	@$(INSTALL_LOCKED) requirements.lock
	@$(PIP) install --requirement apps/requirements.txt
	@$(BIN)/python deploy/link.py .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	@echo "Installing the locked development packages into $(VENV)"
	@$(INSTALL_LOCKED) requirements-dev.lock
	@touch $@

$(ECOSYSTEM)/stamp: requirements.lock tests/ecosystem/requirements.txt | $(BIN)/python
	@echo "Installing the libraries of docs/libraries.md into $(ECOSYSTEM)"
	@$(BIN)/python -m venv --clear $(ECOSYSTEM)
	@$(ECOSYSTEM)/bin/python -m pip --quiet --disable-pip-version-check install --only-binary :all: \
		--require-hashes --requirement requirements.lock
	@$(ECOSYSTEM)/bin/python -m pip --quiet --disable-pip-version-check install --only-binary :all: \
		--requirement tests/ecosystem/requirements.txt
	@$(ECOSYSTEM)/bin/python deploy/link.py .
	@touch $@
