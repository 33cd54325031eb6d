# Everything on a fresh machine with Python 3.11+ and make: `make demo`, then `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One process per core with one thread each: many small networks do not gain from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal
OUT ?= out

.PHONY: demo test check full clean

demo: $(VENV)/demo.stamp  ## paint: pictures from English and Chinese prompts, with the model that comes along
	$(BIN)/marmo generate --prompts-file docs/demo.txt --seed 7 --name "{prompt}" --output $(OUT)/demo

check: $(VENV)/dev.stamp  ## the fast inner loop: format, lint, types, import contract, spelling, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/typos
	$(PYTEST) --ignore=tests/parity -m "not parity and not slow and not long"

test: $(VENV)/dev.stamp  ## every test that a change must pass
	$(PYTEST) -m "not slow"

full: $(VENV)/dev.stamp  ## also what takes gigabytes and minutes: the full-size run and the benchmarks
	$(PYTEST)
	$(BIN)/python -m benchmarks.full_size
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.kills 100
	$(BIN)/python -m benchmarks.restart

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .ruff_cache .hypothesis
