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
	@printf '%s\n' $(wildcard studies/*.py) | \
		OMP_NUM_THREADS=1 xargs -P 2 -I SCRIPT $(BIN)/python SCRIPT --scale smoke --backend sequential

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# The constraints hold in the very command that installs torch: a later, looser one could swap its build.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@
