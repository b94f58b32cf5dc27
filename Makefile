# What newcomers and developers type; `make` alone lists it. Python 3.11 to 3.14 is all that must be installed.
# What is made lies in .venv and .cache. A target that needs the set-up does it; done once, it is not done again.

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench chaos sweep lock clean

VENV := .venv
BIN := $(VENV)/bin
# Writes the lock; nothing else needs it.
UV := 0.13.9
UV_VENV := .cache/uv-$(UV)

# Tests that run at a time. Those that start servers wait most of the time.
LANES := 3

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# Names of stamps hold what they stand for: another lock, another pyproject.toml or a moved folder is another name.
# (Scripts in a .venv know the folder by its full path.)
key = $(shell { pwd; cat $(1); } 2>&1 | cksum | tr ' ' -)
LOCKED := $(VENV)/.locked-$(call key,requirements-dev.lock)
INSTALLED := $(VENV)/.installed-$(call key,requirements-dev.lock pyproject.toml)
# The Python that .venv was made with may have gone.
ifneq ($(shell test -x $(BIN)/python && echo there),there)
.PHONY: $(LOCKED)
endif

# Sets the shell variable `python`, or says what is missing.
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
define find_python
python=; \
for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11); do \
  if "$$candidate" -c '$(FITS)' 2>/dev/null; then python=$$candidate; break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo 'vigie needs Python 3.11 to 3.14 with venv and pip, and $(or $(PYTHON),python3) is not one.' >&2; \
  echo 'Install it (Debian and Ubuntu: apt install python3 python3-venv)' >&2; \
  echo 'or name it: make setup PYTHON=/path/to/python3' >&2; \
  exit 1; \
fi
endef

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## make .venv from the lock (PYTHON=python3.13 chooses the Python); the others do it by themselves

$(LOCKED):
	@$(find_python); \
	echo "Setting up $(VENV) with $$("$$python" --version): once, 1.5 GB on disk; give it a minute or two." >&2; \
	"$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

$(INSTALLED): $(LOCKED)
	@$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-* && touch $@

demo: setup ## supervise a simulated city, all in one process; DEMO="--for 60s --seed 7 --summary out.json"
	@$(BIN)/vigie demo $(DEMO)

test: setup ## run every test; those on real Kafka need Java 17 and Maven; TEST="-k locate" runs some, one by one
ifeq ($(TEST),)
	@$(BIN)/python -m pytest --numprocesses=$(LANES) --dist=loadfile --no-loadscope-reorder -m 'not alone' --durations=25
	@$(BIN)/python -m pytest -m alone --durations=5
else
	@$(BIN)/python -m pytest --durations=10 $(TEST)
endif

lint: setup ## ruff (rules and format) and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup ## measure against peers and floors on real Kafka (JDK 17, Maven); QUICK=1 or BENCH="--repeats 5 --keep"
	@$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick) $(BENCH)

chaos: setup ## kill everything at random for 90 s and count (Java 17, Maven); CHAOS="--for 600s --seed 1 --summary out.json"
	@$(BIN)/python -m tests.chaos $(CHAOS)

sweep: setup ## kill a worker with SIGKILL at every step it takes: an hour (Java 17, Maven); VIGIE_SWEEP_SEED=3 draws others
	@VIGIE_SWEEP=all VIGIE_REQUIRE_KAFKA=1 $(BIN)/python -m pytest -s tests/integration/test_crash_sweep.py

COMPILE = $(UV_VENV)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-strip-extras --annotation-style line --custom-compile-command 'make lock' \
  $(LOCK) pyproject.toml

lock: ## write the locks after pyproject.toml changed, other pins kept; LOCK=--upgrade takes the newest of everything
	@[ -x $(UV_VENV)/bin/uv ] || { $(find_python); \
	  "$$python" -m venv --clear $(UV_VENV) && $(UV_VENV)/bin/python -m pip install --quiet uv==$(UV); }
	@$(COMPILE) --extra draw --output-file requirements.lock
	@$(COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove .venv, builds and caches of tools; .cache keeps what was downloaded
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find benchmarks deploy processors schemas sinks streams tests -name __pycache__ -prune -exec rm -rf {} +
