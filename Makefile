# Each verb does its own set-up first; a second run finds it done.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint bench soak clean help

help:            ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(STAMP)   ## the whole loop on the controlled world, about three minutes
	@$(BIN)/rlback demo $(ARGS)

test: $(STAMP)   ## every test, at most 15 minutes on two cores
	@$(BIN)/ruff check components flows tests benchmarks
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(STAMP)   ## style only
	@$(BIN)/ruff check components flows tests benchmarks

bench: $(STAMP)  ## speed beside TRL and the processor's own limit; wants a quiet machine (docs/benchmarks.md)
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP)   ## the console under made-up requests and 200 annotators at once; campaigns under kill -9; minutes
	@$(BIN)/python -m pytest tests/web/soak.py --timeout 3600 $(ARGS)
	@$(BIN)/python -m benchmarks.labelling
	@$(BIN)/python -m tests.web.journeys
	@$(BIN)/python -m tests.soak.kill_campaign

clean:           ## removes what can be made again (never .rlback/ or mlruns/)
	rm -rf .pytest_cache .ruff_cache .hypothesis build

# Installs again when the pins change.
$(STAMP): constraints.txt pyproject.toml
	@echo "Setting up .venv (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; PYTHON=... names one") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python infra/install.py
	@touch $@
