# One command each, from a fresh clone: the environment is made on the first call and kept until its inputs change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint studies-smoke clean

demo: $(INSTALLED)
	$(BIN)/ppl-vae demo

test: lint
	$(BIN)/pytest -n auto --maxprocesses 4
	$(MAKE) studies-smoke

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

studies-smoke: $(INSTALLED)
	@set -e; for study in $(wildcard studies/*.py); do echo "$$study"; $(BIN)/python "$$study" --scale smoke; done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# The constraints hold in the very command that installs torch: a later, looser one could swap its build.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@
