# One command runs the main job, one passes the tests; each sets up what it needs.
#   make demo [ARGS="--exit"]    the whole line from photographs to statistics
#   make test [ARGS="-k outbox"] all tests
#   make check                   format, lint, types, import contracts
#   make bench                   measurements, as JSON lines
# Any Python from 3.11 to 3.13 will do: the first found is taken, PYTHON=... names another.
FITS   := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c "$(FITS)" 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
EXTRAS := edge,gpio,serial,mqtt,postgres,train,launch,cluster,dev

.PHONY: demo test check bench format clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed (with venv: apt install python3-venv): install one, or name it with PYTHON=..."; exit 2; }
	@echo "setting up $(VENV) with $(PYTHON): about two minutes and 6 GB the first time; pip's own words: $(VENV)/pip.log"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' >$(VENV)/pip.log 2>&1 \
		|| { tail -20 $(VENV)/pip.log; echo "pip failed; the whole of it: $(VENV)/pip.log"; exit 1; }
	@touch $@

demo: $(READY)
	@$(BIN)/binsight demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
