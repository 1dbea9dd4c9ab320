# Everything runs in .venv, which the first target that needs it makes.
#
# Another torch build than the one that pip finds (CPU instead of CUDA, another CUDA): tell pip where that build of the
# version in constraints.txt lies, with PIP_FIND_LINKS, PIP_INDEX_URL or PIP_EXTRA_INDEX_URL, before the first make.
# pytorch.org names the addresses. To change it later: `make clean`, then the same.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo serve test faults bench check format openapi constraints venv clean

PYTHON ?= python3
SEEDS ?= 10
TORCH := 2.13.0
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv)

# uv, where there is one, looks for packages where pip would.
comma := ,
space := $(subst ,, )
commas = $(subst $(space),$(comma),$(strip $(1)))
UV_SOURCES := $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(call commas,$(PIP_FIND_LINKS))") \
  $(if $(PIP_INDEX_URL),UV_DEFAULT_INDEX="$(PIP_INDEX_URL)") \
  $(if $(PIP_EXTRA_INDEX_URL),UV_INDEX="$(PIP_EXTRA_INDEX_URL)")
INSTALL = $(if $(UV),$(UV_SOURCES) "$(UV)" pip install --quiet --python $(BIN)/python, \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runs ## serve, train examples/digits.yaml, download its checkpoint and test it outside the service
	@$(BIN)/python -m embedded.demo

serve: $(VENV)/.runs ## API, broker and worker in the foreground; state in .lightyard (LIGHTYARD_HOME)
	@$(BIN)/python -m embedded.serve

test: $(VENV)/.tests ## all tests, on SQLite and PostgreSQL, on real brokers (ARGS="-k name" for some)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder $(ARGS)

faults: $(VENV)/.tests ## break real stacks by seeded schedules of faults, and see that nothing is lost (SEEDS=50)
	$(BIN)/python -m tests.faults --seeds $(SEEDS) $(ARGS)

bench: $(VENV)/.tests ## benchmarks against their peers, which are installed beside them (ARGS="poll download" for some)
	$(BIN)/python -m benchmarks $(ARGS)

check: $(VENV)/.tests ## format, lint, types, import contracts, OpenAPI snapshot, container files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m app.openapi --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/shellcheck .ci/run

format: $(VENV)/.tests ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: $(VENV)/.tests ## write openapi.json anew
	$(BIN)/python -m app.openapi > openapi.json.new
	mv openapi.json.new openapi.json

venv: $(VENV)/.tests ## only make .venv, with all that the other targets need

clean: ## remove .venv and what tools leave behind; state in .lightyard stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -not -path './.lightyard/*' -prune -exec rm -rf {} +

# torch's CUDA packages are left out: torch pins its own, and other builds of it need others.
constraints: ## resolve constraints.txt anew (needs uv)
	@test -n "$(UV)" || { echo >&2 "make constraints needs uv on the PATH"; exit 1; }
	{ echo "# What make installs, and what the tests passed with. Written by make constraints; used with -c, never -r."; \
	  "$(UV)" pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
	    --constraints <(echo "torch==$(TORCH)") pyproject.toml | sed -E '/^(nvidia|cuda|triton)/d'; } > constraints.txt.new
	mv constraints.txt.new constraints.txt

# The stamps below say what is installed; they are older than what they depend on when it must be done again.
$(VENV)/.runs: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing Lightyard into $(VENV), torch included: minutes the first time, nothing the next."
	@$(INSTALL) --constraint constraints.txt --editable '.[server,worker]'
	@touch $@

$(VENV)/.tests: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing Lightyard and its tests' tools into $(VENV): minutes the first time, nothing the next."
	@$(INSTALL) --constraint constraints.txt --editable '.[server,worker,dev]'
	@touch $(VENV)/.runs $@

$(VENV)/.made:
	@command -v "$(PYTHON)" > /dev/null || \
	  { echo >&2 "$(PYTHON) is not on the PATH; install Python 3.11 to 3.13, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo >&2 "$(PYTHON) is $$("$(PYTHON)" -V); Lightyard needs 3.11 to 3.13: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo >&2 "$(PYTHON) cannot make environments; install its venv module (on Debian: python3-venv)"; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@
