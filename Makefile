# Every command of the project. Each installs what it needs, and no more: Python 3.11 or newer and make are enough.

# The first Python that runs and is new enough. Asked by running it: a name on the PATH may be a shim that fails.
ifeq ($(PYTHON),)
PYTHON := $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
endif
VENV ?= .venv
CONSTRAINTS ?=
GRPCIO ?=
COVERAGE ?= 1
EXTRAS ?=
DEMO_ARGS ?=
OVERLOAD_ARGS ?=
OTLP_ENDPOINT ?=
PHOENIX ?= .ci/venvs/phoenix
TRACE_ARGS ?=
SEED ?= 1
MINUTES ?= 4
SEEDS ?= 3
SOAK_ARGS ?=
RECORDS ?=
RECORDED = $(if $(RECORDS),--records "$(RECORDS)")# the traffic of `make day`, `outage` and `overload`, in this folder

RUN := $(VENV)/bin/python
INSTALL = "$(RUN)" -m pip install -qq --disable-pip-version-check \
	$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) $(if $(GRPCIO),grpcio==$(GRPCIO)) -e

.PHONY: help demo trace-demo test lint format types proto proto-check docs clean bench outage overload day \
	test-clients test-model test-conditions test-versions soak mutants

help:  ## Show this
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-17s%s\n", $$1, $$2 }' Makefile

$(RUN):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed$(if $(PYTHON),; $(PYTHON) is none)"; exit 1; }
	@echo "making $(VENV) with $(PYTHON) ..."
	@"$(PYTHON)" -m venv "$(VENV)"

# A command installs what it needs when it is first used: the package and one of its extras, $(VENV)/.has-<extra>.
$(VENV)/.has-%: pyproject.toml $(CONSTRAINTS) | $(RUN)
	@echo "installing into $(VENV) what is needed for: $(NEEDED_FOR_$*) ..."
	@$(INSTALL) '.[$*]'
	@touch "$@"

NEEDED_FOR_otel := the demo (grpcio, protobuf, OpenTelemetry; 60 MB)
NEEDED_FOR_test := the tests
NEEDED_FOR_lint := checks of style
NEEDED_FOR_types := checks of types (with node, for pyright; 300 MB)
NEEDED_FOR_bench := benchmarks (other circuit breakers, matplotlib)
NEEDED_FOR_clients := real clients (Google's, Celery, web servers)
NEEDED_FOR_docs := the documentation (Sphinx)

##@ Try it

demo: $(VENV)/.has-otel  ## Show an outage with and without a service config (OTLP_ENDPOINT=http://host:4317 to trace it)
	@echo "starting the demo ..."
	@"$(RUN)" -m examples.pricing.demo $(if $(OTLP_ENDPOINT),--otlp-endpoint $(OTLP_ENDPOINT)) $(DEMO_ARGS)

trace-demo: $(VENV)/.has-otel $(PHOENIX)/.installed  ## The same in a tracing backend, Phoenix, by its API (TRACE_ARGS=--stay: and its page)
	@"$(RUN)" -m examples.pricing.trace_demo --phoenix-python "$(PHOENIX)/bin/python" $(TRACE_ARGS)

# An environment of its own, and no extra: it is large, and needs other versions of what the tests need.
$(PHOENIX)/.installed:
	@echo "installing into $(PHOENIX) what is needed for: a tracing backend (arize-phoenix; 850 MB) ..."
	@"$(PYTHON)" -m venv "$(PHOENIX)"
	@"$(PHOENIX)/bin/python" -m pip install -qq --disable-pip-version-check arize-phoenix
	@touch "$@"

##@ Check a change

test: $(VENV)/.has-test $(EXTRAS:%=$(VENV)/.has-%)  ## Run every test, with branch coverage
	@COVERAGE_FILE=$(VENV)/.coverage $(if $(filter 1,$(COVERAGE)),"$(RUN)" -m coverage run -m pytest,"$(RUN)" -m pytest) $(TEST_ARGS)
	@$(if $(filter 1,$(COVERAGE)),COVERAGE_FILE=$(VENV)/.coverage "$(RUN)" -m coverage report)

lint: $(VENV)/.has-lint  ## Check style
	@"$(RUN)" -m ruff check .
	@"$(RUN)" -m ruff format --check .

format: $(VENV)/.has-lint  ## Format the code
	@"$(RUN)" -m ruff format .
	@"$(RUN)" -m ruff check --fix .

types: $(VENV)/.has-types  ## Check types with mypy and pyright, both strict
	@"$(RUN)" -m mypy
	@"$(RUN)" -m pyright --pythonpath "$(RUN)"

proto: | $(RUN)  ## Generate the protobuf code again
	@"$(RUN)" protos/generate.py

proto-check: | $(RUN)  ## Check that the generated protobuf code is up to date
	@"$(RUN)" protos/generate.py --check

docs: $(VENV)/.has-docs  ## Build the documentation into build/docs; broken links and undocumented public names are errors
	@"$(RUN)" -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --conf-dir docs . build/docs
	@echo "build/docs/index.html"

clean:  ## Remove what these commands made
	@rm -rf .venv .ci/venvs .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist mutants

##@ Test for longer

CALLS := tests/integration tests/telemetry tests/test_pitfalls.py

test-clients: $(VENV)/.has-test $(VENV)/.has-clients  ## Real clients: Pub/Sub, Firestore, retries, Celery, gunicorn, uvicorn, etcd (two minutes)
	@"$(RUN)" -m pytest tests/clients

test-model: $(VENV)/.has-test  ## The breaker against a reference model: long histories, all short ones, threads (half an hour)
	@LONG=1 "$(RUN)" -m pytest tests/model --timeout 1200
	@"$(RUN)" -m tests.model.explore --depth 9

test-conditions: $(VENV)/.has-test  ## Calls on uvloop, with python -X dev, and with threads switched each microsecond (three minutes)
	@"$(RUN)" -m pip install -qq --disable-pip-version-check uvloop
	@"$(RUN)" -m pytest --uvloop $(CALLS)
	@"$(RUN)" -X dev -m pytest $(CALLS) tests/unit
	@"$(RUN)" -m pytest --switch-interval 0.000001 $(CALLS) tests/unit

test-versions:  ## Calls on grpcio 1.66.2 and 1.74.0, between the lowest and the newest (three minutes)
	@for version in 1.66.2 1.74.0; do $(MAKE) --no-print-directory test GRPCIO=$$version VENV=.ci/venvs/grpcio-$$version \
		COVERAGE=0 TEST_ARGS="-p no:unraisableexception $(CALLS)" || exit 1; done

soak: $(VENV)/.has-test  ## Calls of every kind against failing servers, beside calls without a breaker (SEED=1 MINUTES=4 SOAK_ARGS=--parts)
	@"$(RUN)" -m tests.soak --seed $(SEED) --minutes $(MINUTES) $(SOAK_ARGS)

mutants: $(VENV)/.has-test  ## Mutate the core, and list the mutants that no test finds (twenty minutes; hours on a slow machine)
	@"$(RUN)" -m pip install -qq --disable-pip-version-check mutmut
	@rm -rf mutants # mutmut would go on with what it noted of the tests of functions that have changed since
	@"$(RUN)" -m mutmut run
	@"$(RUN)" -m mutmut results

##@ Measure

bench: $(VENV)/.has-bench  ## The cost of a call beside other breakers, with a plot (about six minutes)
	@"$(RUN)" -m benchmarks.core --plot docs/images/cost.svg
	@"$(RUN)" -m benchmarks.interceptors
	@"$(RUN)" -m benchmarks.stack
	@"$(RUN)" -m benchmarks.whole_calls
	@"$(RUN)" -m benchmarks.pitfalls
	@"$(RUN)" -m benchmarks.admin
	@"$(RUN)" -m benchmarks.replay

outage: $(VENV)/.has-bench  ## An outage with each of these breakers, with a plot (about ten minutes)
	@"$(RUN)" -m benchmarks.outage --plots docs/images $(RECORDED)

overload: $(VENV)/.has-bench  ## A server with too many calls, bare and guarded, with a plot (a quarter of an hour; OVERLOAD_ARGS="--seeds 1")
	@"$(RUN)" -m benchmarks.overload --markdown docs/overload.md --plot docs/images/overload.svg $(OVERLOAD_ARGS) $(RECORDED)

day: $(VENV)/.has-bench  ## Healthy days, outages and proxies, bare and guarded (SEEDS=3; fifty minutes; needs nginx)
	@"$(RUN)" -m tests.scenarios.day --seeds $(SEEDS) --markdown docs/scenarios.md $(RECORDED)
