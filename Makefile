# Two commands: `make demo` runs the whole loop, `make test` passes the tests. Both make `.venv` and install what they need.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
SOURCES := pyproject.toml constraints/cpu.txt scripts/install $(wildcard native/*)

.PHONY: demo test test-all lint bench clean

demo: $(VENV)/.local
	@$(VENV)/bin/lep demo $(ARGS)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto -m "not slow" $(ARGS)

# With the long ones: 20 kills, real tables, rolling updates under load, the official client's transcript.
test-all: $(VENV)/.test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

bench: $(VENV)/.test
	$(VENV)/bin/python -m bench $(ARGS)

$(VENV)/.local: $(SOURCES)
	@scripts/install $(VENV) local
$(VENV)/.test: $(SOURCES)
	@scripts/install $(VENV) local,test
$(VENV)/.dev: $(SOURCES)
	@scripts/install $(VENV) local,test,dev

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
