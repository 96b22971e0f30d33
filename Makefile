# One command each, from a fresh clone: the environment is made on the first call and kept until its inputs change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

ARVIZ_1 := .venv-arviz-1

.PHONY: demo test test-arviz-1 lint studies-smoke clean

demo: $(INSTALLED)
	$(BIN)/ppl-vae demo

test: lint
	$(BIN)/pytest -n auto --maxprocesses 4
	$(MAKE) studies-smoke

# The same packages but for arviz, whose version 1 comes first on the path. It asks for Python 3.12
# and runs on 3.11.
test-arviz-1: $(ARVIZ_1)/.installed
	$(ARVIZ_1)/bin/python -m pytest -m arviz

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

studies-smoke: $(INSTALLED)
	@printf '%s\n' $(wildcard studies/*.py) | \
		OMP_NUM_THREADS=1 xargs -P 2 -I SCRIPT $(BIN)/python SCRIPT --scale smoke --backend sequential

clean:
	rm -rf $(VENV) $(ARVIZ_1) .mypy_cache .pytest_cache .ruff_cache

# The constraints hold in the very command that installs torch: a later, looser one could swap its build.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@

$(ARVIZ_1)/.installed: $(INSTALLED)
	$(PYTHON) -m venv $(ARVIZ_1)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(ARVIZ_1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(ARVIZ_1)/bin/pip install --ignore-requires-python 'arviz>=1.1,<2'
	touch $@
