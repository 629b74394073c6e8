# One command runs the main job, one passes the tests; each sets up what it needs.
#   make demo [ARGS="--exit"]    the whole line from photographs to statistics
#   make test [ARGS="-k outbox"] all tests
#   make check                   format, lint, types, import contracts
#   make bench                   measurements, as JSON lines
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check bench format clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with PYTHON=..."; exit 2; }
	@echo "setting up $(VENV): about two minutes and 6 GB the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[edge,gpio,serial,mqtt,train,launch,cluster,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/binsight demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
