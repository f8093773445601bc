# Every command of the project. Those that need an environment make it: Python 3.11 or newer and make are enough.

# The first Python that runs and is new enough. Asked by running it: a name on the PATH may be a shim that fails.
ifeq ($(PYTHON),)
PYTHON := $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
endif
VENV ?= .venv
CONSTRAINTS ?=
GRPCIO ?=
COVERAGE ?= 1
DEMO_ARGS ?=
OTLP_ENDPOINT ?=
SEED ?= 1
MINUTES ?= 4
SEEDS ?= 3

RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help test demo lint format types proto proto-check bench outage day test-model test-conditions test-versions soak mutants docs clean

help:  ## Show this
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(READY): pyproject.toml $(CONSTRAINTS)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed$(if $(PYTHON),; $(PYTHON) is none)"; exit 1; }
	@echo "making $(VENV) with $(PYTHON) ..."
	@"$(PYTHON)" -m venv "$(VENV)"
	@"$(RUN)" -m pip install -qq --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) $(if $(GRPCIO),grpcio==$(GRPCIO)) -e '.[dev]'
	@touch "$@"

test: $(READY)  ## Run every test, with branch coverage
	@COVERAGE_FILE=$(VENV)/.coverage $(if $(filter 1,$(COVERAGE)),"$(RUN)" -m coverage run -m pytest,"$(RUN)" -m pytest) $(TEST_ARGS)
	@$(if $(filter 1,$(COVERAGE)),COVERAGE_FILE=$(VENV)/.coverage "$(RUN)" -m coverage report)

demo: $(READY)  ## Show an outage with and without a breaker (OTLP_ENDPOINT=http://host:4317 to trace it)
	@"$(RUN)" -m examples.pricing.demo $(if $(OTLP_ENDPOINT),--otlp-endpoint $(OTLP_ENDPOINT)) $(DEMO_ARGS)

lint: $(READY)  ## Check style
	@"$(RUN)" -m ruff check .
	@"$(RUN)" -m ruff format --check .

format: $(READY)  ## Format the code
	@"$(RUN)" -m ruff format .
	@"$(RUN)" -m ruff check --fix .

types: $(READY)  ## Check types with mypy and pyright, both strict
	@"$(RUN)" -m mypy
	@"$(RUN)" -m pyright --pythonpath "$(RUN)"

proto: $(READY)  ## Generate the protobuf code again
	@"$(RUN)" protos/generate.py

proto-check: $(READY)  ## Check that the generated protobuf code is up to date
	@"$(RUN)" protos/generate.py --check

$(VENV)/.bench: $(READY)
	@"$(RUN)" -m pip install -qq --disable-pip-version-check -e '.[bench]'
	@touch "$@"

bench: $(VENV)/.bench  ## Measure the cost of a call beside other breakers, and plot it (about six minutes)
	@"$(RUN)" -m benchmarks.core --plot docs/images/cost.svg
	@"$(RUN)" -m benchmarks.interceptors
	@"$(RUN)" -m benchmarks.whole_calls
	@"$(RUN)" -m benchmarks.pitfalls

outage: $(VENV)/.bench  ## Measure an outage with each of these breakers, and plot it (about ten minutes)
	@"$(RUN)" -m benchmarks.outage --plots docs/images

day: $(VENV)/.bench  ## Play healthy days, outages and proxies, bare and guarded (SEEDS=3; an hour; needs nginx)
	@"$(RUN)" -m tests.scenarios.day --seeds $(SEEDS) --markdown docs/scenarios.md

test-model: $(READY)  ## Test the breaker against a reference model: long histories, all short ones, threads (half an hour)
	@LONG=1 "$(RUN)" -m pytest tests/model --timeout 1200
	@"$(RUN)" -m tests.model.explore --depth 9

CALLS := tests/integration tests/telemetry tests/test_pitfalls.py

test-conditions: $(READY)  ## Test calls on uvloop, with python -X dev, and with threads switched each microsecond (three minutes)
	@"$(RUN)" -m pip install -qq --disable-pip-version-check uvloop
	@"$(RUN)" -m pytest --uvloop $(CALLS)
	@"$(RUN)" -X dev -m pytest $(CALLS) tests/unit
	@"$(RUN)" -m pytest --switch-interval 0.000001 $(CALLS) tests/unit

test-versions:  ## Test calls on grpcio 1.66.2 and 1.74.0, between the lowest and the newest (three minutes)
	@for version in 1.66.2 1.74.0; do $(MAKE) --no-print-directory test GRPCIO=$$version VENV=.ci/venvs/grpcio-$$version \
		COVERAGE=0 TEST_ARGS="-p no:unraisableexception $(CALLS)" || exit 1; done

soak: $(READY)  ## Make calls of every kind against failing servers, beside calls without a breaker (SEED=1 MINUTES=4)
	@"$(RUN)" -m tests.soak --seed $(SEED) --minutes $(MINUTES)

mutants: $(READY)  ## Mutate the core, and list the mutants that no test finds (ten minutes; hours on a slow machine)
	@"$(RUN)" -m pip install -qq --disable-pip-version-check mutmut
	@"$(RUN)" -m mutmut run
	@"$(RUN)" -m mutmut results

$(VENV)/.docs: $(READY)
	@"$(RUN)" -m pip install -qq --disable-pip-version-check -e '.[docs]'
	@touch "$@"

docs: $(VENV)/.docs  ## Build the documentation into build/docs; broken links and undocumented public names are errors
	@"$(RUN)" -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --conf-dir docs . build/docs
	@echo "build/docs/index.html"

clean:  ## Remove what these commands made
	@rm -rf .venv .ci/venvs .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist mutants
